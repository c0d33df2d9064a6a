"""The door of the issuer: which path is answered by what, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kiwi_id.issuer import callback, consent, discovery, logout, resource, token
from kiwi_id.issuer.authorize import authorize
from kiwi_id.issuer.box import NotOurs
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.http import CORS, Header, OAuthError, Request, Response, json_response
from kiwi_id.issuer.logout import Deliver, Notice
from kiwi_id.issuer.replay import Memory
from kiwi_id.issuer.responses import mistake
from kiwi_id.issuer.tokens import open_access, open_refresh

_Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class _Route:
    methods: frozenset[str]
    handler: _Handler
    cors: bool = False


class Service:
    """The issuer. ``configure`` puts a context in force, before the first request and at each reload."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._memory = Memory()
        self._ctx: Context
        self._published: discovery.Published
        self._routes = {
            "/.well-known/openid-configuration": _Route(_GET, self._discovery, cors=True),
            "/.well-known/oauth-authorization-server": _Route(_GET, self._discovery, cors=True),
            "/oauth2/keys": _Route(_GET, self._keys, cors=True),
            "/oauth2/authorize": _Route(_BOTH, lambda request: authorize(self._ctx, request)),
            "/oauth2/consent": _Route(_POST, lambda request: consent.decide(self._ctx, request)),
            "/oauth2/continue": _Route(_GET, lambda request: callback.go_on(self._ctx, request)),
            "/oauth2/token": _Route(_POST, lambda request: token.token(self._ctx, request, self._memory), cors=True),
            "/oauth2/userinfo": _Route(_BOTH, lambda request: resource.userinfo(self._ctx, request), cors=True),
            "/oauth2/introspect": _Route(_POST, lambda request: resource.introspect(self._ctx, request), cors=True),
            "/oauth2/revoke": _Route(_POST, lambda request: resource.revoke(self._ctx, request), cors=True),
            "/oauth2/logout": _Route(_BOTH, lambda request: logout.log_out(self._ctx, request, self._deliver)),
            # Kanidm's own, which a client of ours may have learned from Kanidm's discovery: for tokens of ours only.
            "/oauth2/token/introspect": _Route(_POST, lambda request: resource.introspect(self._ctx, request), cors=True),
            "/oauth2/token/revoke": _Route(_POST, lambda request: resource.revoke(self._ctx, request), cors=True),
        }

    @property
    def paths(self) -> list[str]:
        """The paths that the issuer answers."""
        return list(self._routes)

    def configure(self, ctx: Context) -> list[str]:
        """Put a context in force for all requests that come from now on; return in words what of the keys that has changed."""
        before: Context = getattr(self, "_ctx", ctx)
        self._ctx, self._published = ctx, discovery.Published(ctx)
        return ctx.keys.changes_from(before.keys)

    def passes_by(self, request: Request) -> bool:
        """Tell whether a request at one of our paths is meant for Kanidm and must be passed on as it came."""
        if request.path == "/oauth2/token":
            return request.method == "POST" and token.is_native(request)
        if request.path in ("/oauth2/token/introspect", "/oauth2/token/revoke"):
            return not self._carries_ours(request)
        return False

    def _carries_ours(self, request: Request) -> bool:
        try:
            sent = request.parameters().get("token", "")
        except OAuthError:
            return False
        for opener in (open_access, open_refresh):
            try:
                opener(self._ctx, sent)
            except NotOurs:
                continue
            return True
        return False

    async def handle(self, request: Request) -> Response:
        """Answer a request at one of our paths."""
        route = self._routes[request.path]
        if request.method == "OPTIONS" and route.cors:
            return Response(204, [CORS, *_PREFLIGHT])
        method = "GET" if request.method == "HEAD" else request.method
        if method not in route.methods:
            answered = route.methods | ({"HEAD"} if "GET" in route.methods else set()) | ({"OPTIONS"} if route.cors else set())
            allow: Header = (b"allow", ", ".join(sorted(answered)).encode())
            error = {"error": "invalid_request", "error_description": f"{request.path} does not answer {request.method[:16]}."}
            return json_response(405, error, allow)
        try:
            return await route.handler(request)
        except NotOurs:  # what issuer.posted has sealed, and a browser asks for again much later
            return mistake("This page is too old", "Go back to the application and begin again.", ours=True)
        except OAuthError as error:  # where a page is answered and no redirect can be made of it any more
            return mistake("This request cannot be answered", error.description)

    async def returning(self, request: Request, location: str, kept: list[Header]) -> Response | None:
        """See :func:`kiwi_id.issuer.callback.intercept`."""
        return await callback.intercept(self._ctx, request, location, kept)

    async def resume(self, request: Request) -> Response | None:
        """See :func:`kiwi_id.issuer.callback.resume`."""
        return await callback.resume(self._ctx, request)

    async def before_kanidm_logout(self, request: Request) -> list[Notice]:
        """Return the notices to deliver once Kanidm's own logout page has ended the session of this request."""
        if not request.cookie(consent.SESSION_COOKIE):
            return []
        session = await self._ctx.kanidm.session(request.cookie("bearer"))
        return logout.notices_for(self._ctx, request, session) if session is not None else []

    async def deliver(self, notices: list[Notice]) -> None:
        """Hand notices over for delivery."""
        await self._deliver(notices)

    async def _discovery(self, request: Request) -> Response:
        return discovery.published(request, self._published.discovery)

    async def _keys(self, request: Request) -> Response:
        return discovery.published(request, self._published.keys)


_GET, _POST, _BOTH = frozenset({"GET"}), frozenset({"POST"}), frozenset({"GET", "POST"})
_PREFLIGHT: list[Header] = [
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (b"access-control-allow-headers", b"authorization, content-type"),
    (b"access-control-max-age", b"600"),
]
