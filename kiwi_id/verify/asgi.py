"""ASGI middleware: bearer tokens for Starlette, FastAPI, Quart, Django and any other ASGI 3 application, on asyncio and Trio.

``Verifier.verify`` is called on the event loop: it is arithmetic of some tens of microseconds (and a ``stat`` of the key file once
in a while), less than handing it to a thread would cost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Unpack

from kiwi_id.verify.bearer import Demands, Guard, Refused

if TYPE_CHECKING:
    from kiwi_id.verify.verifier import Verifier

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

KEY = "kiwi"
"""Where an application finds the caller's :class:`~kiwi_id.verify.Claims` in its scope; None for a caller without a token."""

# RFC 6455 §7.4.1: the endpoint's policy was violated. Before the accept, servers turn any close into a 403.
_POLICY_VIOLATION = 1008


class BearerMiddleware:
    """Lets requests and WebSockets through to ``app`` whose bearer token is good, with its claims in ``scope["kiwi"]``.

    All others are answered here, as RFC 6750 §3 says: 401 without an error when there is no token, 401 ``invalid_token``, 403
    ``insufficient_scope``, 400 ``invalid_request``. ``demands``: see :class:`~kiwi_id.verify.bearer.Demands`. Lifespan events
    pass through. Nothing is logged.
    """

    def __init__(self, app: App, verifier: Verifier, **demands: Unpack[Demands]) -> None:
        self.app, self._guard = app, Guard(verifier, **demands)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI 3). Raises ValueError for a scope type that nobody here knows how to check."""
        kind = scope["type"]
        if kind == "lifespan":
            await self.app(scope, receive, send)
            return
        if kind not in {"http", "websocket"}:
            raise ValueError(f"unknown ASGI scope type {kind!r}: its token cannot be checked")
        values = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"authorization"]
        try:
            claims = self._guard.check(_path(scope), values)
        except Refused as error:
            refused = error
        else:
            # A copy, as ASGI wants it; whatever stood there before is replaced, also where no token is looked at.
            await self.app({**scope, KEY: claims}, receive, send)
            return
        if kind == "http":
            await _answer("http.response", refused, send)
        else:
            await _refuse_websocket(refused, scope, receive, send)


def _path(scope: Scope) -> str:
    """Return the path as the application's router sees it: without ``root_path``.

    A path outside of ``root_path`` matches nothing: frameworks differ in what they make of it, so nobody is let in by it.
    """
    path, root = str(scope["path"]), str(scope.get("root_path") or "").rstrip("/")
    return (path[len(root) :] or "/") if path.startswith(root) else ""


async def _answer(kind: str, refused: Refused, send: Send) -> None:
    headers = [(name.encode(), value.encode()) for name, value in refused.headers]
    await send({"type": f"{kind}.start", "status": refused.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": refused.body})


async def _refuse_websocket(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    if (await receive())["type"] != "websocket.connect":  # the client has left meanwhile
        return
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await _answer("websocket.http.response", refused, send)
    else:
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": refused.error or "unauthorized"})
