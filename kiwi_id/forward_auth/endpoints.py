"""``/auth/verify`` and the door of its neighbours: who is asked about, what is answered, and in which form.

``/auth/verify`` is asked before each request to each application: what it does costs the same each time, opens one box, and calls
nobody. Only when the last check of a session is older than ``forward_auth_recheck`` is Kanidm asked (:mod:`.renewal`).
"""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass

from kiwi_id.forward_auth.identity import BadDemand, Demands, Identity, Unusable, demands
from kiwi_id.forward_auth.login import Login, Serve, sign_in_link
from kiwi_id.forward_auth.renewal import Renewals
from kiwi_id.forward_auth.rules import CALLBACK, LOGIN, LOGOUT, VERIFY, Rules, plain_host, split_address
from kiwi_id.forward_auth.session import Session, Sessions, TooLarge, cookies_of_others
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.http import Header, Request, Response, bearer_challenge, json_response, page, redirect
from kiwi_id.issuer.tokens import ACCESS_TYPE
from kiwi_id.logs import Log
from kiwi_id.proxy.exchange import Exchange
from kiwi_id.proxy.pages import wants_html
from kiwi_id.proxy.rules import is_trusted
from kiwi_id.values import Network
from kiwi_id.verify import TokenError, Verifier
from kiwi_id.web.issuer import guarded, respond, to_request

log = Log("forward-auth")

MAX_BODY = 65536
_NO_STORE: Header = (b"cache-control", b"no-store")


@dataclass(frozen=True)
class Asked:
    """The request that a proxy asks about. ``redirects``: it hands our answer to the browser when that is none of 2xx."""

    host: str
    target: bytes
    method: bytes
    redirects: bool


class Unclear(Exception):
    """A question whose answer could be meant for another request than the proxy's; the words are for whoever configures it."""


class ForwardAuth:
    """Handles the paths of forward-auth under one configuration; a reload makes a new one, which takes over ``renewals``."""

    def __init__(
        self, ctx: Context, rules: Rules, serve: Serve, trusted: Callable[[], tuple[Network, ...]], renewals: Renewals
    ) -> None:
        self._ctx, self._rules, self._trusted, self.renewals = ctx, rules, trusted, renewals
        self._sessions = Sessions(rules, ctx.keys)
        keys = {key.kid: key.private.public_key() for key in ctx.keys.keys}
        self._tokens = Verifier(keys, issuer=rules.issuer, audience=rules.audiences, token_type=ACCESS_TYPE)
        login = Login(ctx, rules, self._sessions, renewals, serve)
        self._pages = {LOGIN: login.begin, CALLBACK: login.finish, LOGOUT: login.end}

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one exchange at one of the paths."""
        await exchange.read_body(MAX_BODY)  # none is expected, but one that is there must not be taken for the next request
        exchange.notes["route"] = "forward-auth"
        request = to_request(exchange, b"")
        if exchange.method not in (b"GET", b"HEAD"):
            response = json_response(405, _problem("method_not_allowed", "This is asked by GET."), (b"allow", b"GET, HEAD"))
        elif request.path == VERIFY:
            response = await guarded(request, lambda request: self._verify(request, exchange))
        else:
            response = await guarded(request, lambda request: self._page(request, exchange.origin.host))
        await respond(exchange, response)

    async def _page(self, request: Request, host: bytes) -> Response:
        own = self._rules.own_host(host)
        if own is None:
            where = "the issuer's host" if self._rules.domain else "the hosts in forward_auth_hosts"
            return json_response(404, _problem("unknown_host", f"{request.path} is served at {where}."))
        return await self._pages[request.path](request, own)

    async def _verify(self, request: Request, exchange: Exchange) -> Response:
        if not is_trusted(exchange.peer[0], self._trusted()):
            log.warn("a peer that is not in trusted_proxies asked /auth/verify", peer=exchange.peer[0])
            return json_response(403, _problem("untrusted_proxy", "Only peers in trusted_proxies are answered."))
        try:
            demanded, asked = demands(request.query), _asked(request, exchange)
        except (BadDemand, Unclear) as error:
            log.warn("a proxy asked /auth/verify what cannot be answered", error=str(error), peer=exchange.peer[0])
            return json_response(400, _problem("bad_question", str(error)))
        if asked.host not in self._rules.hosts:
            log.warn("asked about a host that is not in forward_auth_hosts", host=asked.host[:100])
            return json_response(403, _problem("unknown_host", "This host is not in forward_auth_hosts."))
        session = self._sessions.found(request, asked.host)
        if session is not None:
            current = await self.renewals.current(self._ctx, self._rules, session)
            if current is not None:
                cookies = [] if current is session else self._renewed(current)
                return self._answer(request, asked, demanded, current.identity, cookies)
        return self._by_token(request, asked, demanded)

    def _renewed(self, session: Session) -> list[Header]:
        try:
            return [self._sessions.set_cookie(session)]
        except TooLarge:  # the old one serves for a while, and the next login tells
            log.error("a session does not fit into a cookie any more: its person is in too many groups")
            return []

    def _by_token(self, request: Request, asked: Asked, demanded: Demands) -> Response:
        """Answer by an access token of ours (RFC 6750 §2.1), or say what is lacking."""
        scheme, _, token = request.header(b"authorization").partition(b" ")
        if scheme.lower() != b"bearer" or sum(name == b"authorization" for name, _ in request.headers) > 1:
            return self._log_in(request, asked)
        try:
            claims = self._tokens.verify(token.strip()).raw
            identity = Identity.of(claims, str(claims.get("scope", "")))
        except (TokenError, Unusable):
            return bearer_challenge("invalid_token", "The access token has expired, or is not meant for here.")
        return self._answer(request, asked, demanded, identity, [])

    def _answer(self, request: Request, asked: Asked, demanded: Demands, identity: Identity, cookies: list[Header]) -> Response:
        lacking = demanded.lacking(identity)
        if not lacking:
            return Response(200, [*identity.headers(), cookies_of_others(request), _NO_STORE, *cookies])
        log.info("a demand is not met", lacking=lacking, user=identity.user, host=asked.host)
        if asked.redirects and wants_html(request.headers):
            words = f"<p>You are signed in as <strong>{html.escape(identity.user)}</strong>, who may not use this.</p>"
            return page(403, "No access", words, *cookies)
        return bearer_challenge("insufficient_scope", f"The {lacking} of this account do not suffice.", 403)

    def _log_in(self, request: Request, asked: Asked) -> Response:
        """Send a browser that shows a page to the login; tell everything else that a login is needed."""
        back = self._rules.return_address(b"https://" + asked.host.encode() + asked.target) or f"https://{asked.host}/"
        if asked.redirects and asked.method in (b"GET", b"HEAD") and _navigates(request):
            response = redirect(sign_in_link(self._rules, back))
            response.status = 302
            return response
        if asked.redirects and _navigates(request):  # a form, whose content a redirect would lose without a word
            link = html.escape(sign_in_link(self._rules, f"https://{asked.host}/"))
            words = f'<p>What you have sent was not taken.</p>\n<p><a href="{link}">Sign in</a></p>'
            return page(401, "You are signed out", words, (b"www-authenticate", b'Bearer realm="Kiwi ID"'))
        return bearer_challenge("", "A login is needed.")


def _navigates(request: Request) -> bool:
    """Tell whether the browser is about to show what comes: by Fetch Metadata, else by what the request accepts."""
    mode = request.header(b"sec-fetch-mode")
    if mode:
        return mode == b"navigate"
    return wants_html(request.headers) and request.header(b"x-requested-with").lower() != b"xmlhttprequest"


def _asked(request: Request, exchange: Exchange) -> Asked:
    """Return what a proxy asks about: nginx by ``X-Original-URL``, Caddy and Traefik by ``X-Forwarded-Uri``. Raises Unclear.

    Both at once is refused: one of them was written by the client, and a session counts for one host only.
    """
    urls = [value for name, value in request.headers if name == b"x-original-url"]
    targets = [value for name, value in request.headers if name == b"x-forwarded-uri"]
    if len(urls) + len(targets) != 1:
        raise Unclear("There must be one of X-Original-URL (nginx) and X-Forwarded-Uri (Caddy, Traefik), and once.")
    if targets:
        method = request.header(b"x-forwarded-method") or b"GET"
        return Asked(plain_host(exchange.origin.host), targets[0], method, redirects=True)
    found = split_address(urls[0])
    if found is None:
        raise Unclear("X-Original-URL is no address of http or https.")
    return Asked(*found, request.header(b"x-original-method") or b"GET", redirects=False)


def _problem(code: str, message: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message}}
