"""The browser's way into a session and out of it: login, callback and sign-out.

Login and callback are a relying party's (OIDC Core §3.1.2) with PKCE and a nonce. What must survive in between travels in the
state, sealed; a cookie ties it to the browser that began, so that nobody is logged in by a link that somebody else made
(RFC 6749 §10.12). The code is redeemed at our own token endpoint, in process.
"""

from __future__ import annotations

import hashlib
import html
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

import jwt

from kiwi_id.forward_auth.identity import Identity, Unusable
from kiwi_id.forward_auth.renewal import Renewals
from kiwi_id.forward_auth.rules import CALLBACK, LOGIN, SCOPE, Rules, split_address
from kiwi_id.forward_auth.session import Session, Sessions, TooLarge
from kiwi_id.issuer import tokens
from kiwi_id.issuer.box import NotOurs, Sealer
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.encoding import base64url, s256
from kiwi_id.issuer.http import Header, OAuthError, Request, Response, page, redirect, shown
from kiwi_id.kanidm.oauth2 import Surprise
from kiwi_id.logs import Log

log = Log("forward-auth")

# As long as the issuer keeps a login that goes to Kanidm's pages (issuer.authorize.STATE_LIFETIME).
LOGIN_LIFETIME = 1800
LOGIN_COOKIE = "__Host-kiwi-login"

Serve = Callable[[Request], Awaitable[Response]]


class Login:
    """The endpoints for browsers. ``serve`` is the issuer's door."""

    def __init__(self, ctx: Context, rules: Rules, sessions: Sessions, renewals: Renewals, serve: Serve) -> None:
        self._ctx, self._rules, self._sessions, self._renewals, self._serve = ctx, rules, sessions, renewals, serve
        self._states = Sealer("forward-auth state", ctx.keys)

    async def begin(self, request: Request, host: str) -> Response:
        """Answer ``/auth/login?rd=ADDRESS``: send the browser to the issuer.

        ``rd`` is everything behind ``rd=``, as it stands: nginx has no way to encode an address, and it needs no decoding, for it
        is the request target that the browser itself has sent.
        """
        name, equals, sent = request.query.partition(b"=")
        if request.query and (name, equals) != (b"rd", b"="):
            return _sorry("This sign-in link is not right", "It lacks the address to go back to.")
        back = self._rules.return_address(sent or b"/", "" if self._rules.domain else host)
        if back is None:
            log.warn(
                "refused to return a login to a host that is not in forward_auth_hosts", request_id=request.request_id.decode()
            )
            return _sorry("Unknown return address", "The address to go back to is not one that sign-ins are made for here.")
        browser = request.cookie(LOGIN_COOKIE)
        if not 20 <= len(browser) <= 64:
            browser = secrets.token_urlsafe(24)
        verifier, nonce = secrets.token_urlsafe(32), secrets.token_urlsafe(16)
        box = {"h": host, "b": _digest(browser), "v": verifier, "n": nonce, "r": back}
        asked = {
            "response_type": "code",
            "client_id": self._rules.client_id,
            "redirect_uri": self._rules.place(host) + CALLBACK,
            "scope": SCOPE,
            "state": self._states.seal(box, lifetime=LOGIN_LIFETIME),
            "nonce": nonce,
            "code_challenge": s256(verifier),
            "code_challenge_method": "S256",
        }
        cookie = f"{LOGIN_COOKIE}={browser}; Path=/; Max-Age={LOGIN_LIFETIME}; Secure; HttpOnly; SameSite=Lax"
        return redirect(f"{self._rules.issuer}/oauth2/authorize?{urlencode(asked)}", (b"set-cookie", cookie.encode()))

    async def finish(self, request: Request, host: str) -> Response:
        """Answer ``/auth/callback``: check what came back, redeem the code, and begin a session. Raises Unavailable, Surprise."""
        try:
            came = request.parameters()
            box = self._states.open(came.get("state", ""))
        except (OAuthError, NotOurs):
            return self._again(host, "This sign-in took too long", "Please sign in again.")
        if box["h"] != host:
            return _sorry("This sign-in belongs to another address", "Please go back to the application and sign in again.")
        browser = request.cookie(LOGIN_COOKIE)
        if not secrets.compare_digest(_digest(browser), box["b"]):
            # The way back in a browser's history, or a second tab after the first: whoever is signed in need not know.
            if self._sessions.found(request, _host_of(box["r"])) is not None:
                return redirect(box["r"])
            return self._again(host, "This sign-in was begun elsewhere", "Please sign in again in this browser.", box["r"])
        if "error" in came:
            return self._refused(came["error"], host, box["r"])
        if came.get("iss") != self._rules.issuer:  # RFC 9207 §2.4
            return self._again(host, "This sign-in cannot be used", "Please sign in again.", box["r"])
        answer = await self._redeem(request, came.get("code", ""), box, host)
        if answer is None:
            return self._again(host, "This sign-in cannot be used any more", "Please sign in again.", box["r"])
        try:
            session = self._session(answer, box, "" if self._rules.domain else host)
            return redirect(box["r"], self._sessions.set_cookie(session), _gone())
        except Unusable:
            log.error("a login without a user name: map the scopes openid and profile to the client's groups")
            return _sorry("This account cannot be used here", "It has no name that applications could know it by.", 403)
        except TooLarge:
            log.error("a session does not fit into a cookie: its person is in too many groups")
            return _sorry("This account cannot be used here", "It is in more groups than fit into a cookie.", 403)

    async def _redeem(self, request: Request, code: str, box: dict[str, Any], host: str) -> dict[str, Any] | None:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._rules.place(host) + CALLBACK,
            "code_verifier": box["v"],
            "client_id": self._rules.client_id,
            **({"client_secret": self._rules.secret} if self._rules.secret else {}),
        }
        kind: Header = (b"content-type", b"application/x-www-form-urlencoded")
        body = urlencode(form).encode()
        answer = await self._serve(Request("POST", "/oauth2/token", b"", [kind], body, request.client, request.request_id))
        content: dict[str, Any] = json.loads(answer.body)
        if answer.status != 200:
            error = str(content.get("error"))
            if error == "invalid_client":
                raise Surprise("the secret of forward_auth_client is not the right one")
            log.info("a login of forward-auth came to nothing", error=error, request_id=request.request_id.decode())
            return None
        return content

    def _session(self, answer: dict[str, Any], box: dict[str, Any], host: str) -> Session:
        try:
            claims = self._ctx.keys.verify(str(answer.get("id_token", "")), tokens.ID_TYPE, issuer=self._rules.issuer)
            refresh = tokens.open_refresh(self._ctx, str(answer.get("refresh_token", ""))).inner
        except (jwt.InvalidTokenError, NotOurs):
            raise Surprise("the issuer gave no ID token or refresh token") from None
        if claims.get("nonce") != box["n"] or claims.get("aud") != self._rules.client_id:
            raise Surprise("the issuer gave an ID token for another login")
        identity, now = Identity.of(claims, str(answer.get("scope", ""))), int(time.time())
        return Session(identity, host, refresh, str(claims.get("sid", "")), now, now)

    async def end(self, request: Request, host: str) -> Response:
        """Answer ``/auth/logout``: end this session, then let the issuer ask whether to sign out everywhere.

        The issuer asks because any page can send a browser here; what it can do so by itself is no more than a new, silent login.
        """
        session = self._sessions.found(request, host)
        if session is not None:
            session = self._renewals.latest(session)
            self._renewals.end(session, memory=self._rules.recheck)
            await self._renewals.revoke(self._ctx, self._rules, session)
        asked = {"client_id": self._rules.client_id}
        after = self._ctx.settings(self._rules.client_id).post_logout_redirect_uris
        back = next((uri for uri in after if (split_address(uri.encode()) or ("",))[0] == host), "")
        if back:
            asked["post_logout_redirect_uri"] = back
        return redirect(f"{self._rules.issuer}/oauth2/logout?{urlencode(asked)}", self._sessions.clear_cookie(), _gone())

    def _refused(self, error: str, host: str, back: str) -> Response:
        if error == "access_denied":
            return _sorry("No access", "This account may not be used for this application.", 403, _link(self._rules, host, back))
        log.warn("the issuer refused a login of forward-auth", error=shown(error))
        return self._again(host, "This sign-in did not succeed", "Please sign in again.", back)

    def _again(self, host: str, title: str, message: str, back: str = "") -> Response:
        return _sorry(title, message, 400, _link(self._rules, host, back) if back or not self._rules.domain else "")


def sign_in_link(rules: Rules, back: str) -> str:
    """Return the address that begins a login which returns to ``back``."""
    return f"{rules.place(_host_of(back))}{LOGIN}?rd={back}"


def _link(rules: Rules, host: str, back: str) -> str:
    url = sign_in_link(rules, back or f"https://{host}/")
    return f'\n<p><a href="{html.escape(url)}">Sign in again</a></p>'


def _sorry(title: str, message: str, status: int = 400, more: str = "") -> Response:
    return page(status, title, f"<p>{html.escape(message)}</p>{more}")


def _host_of(address: str) -> str:
    found = split_address(address.encode())
    return found[0] if found else ""


def _digest(browser: str) -> str:
    return base64url(hashlib.sha256(browser.encode("utf-8", "surrogatepass")).digest())


def _gone() -> Header:
    return (b"set-cookie", f"{LOGIN_COOKIE}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax".encode())
