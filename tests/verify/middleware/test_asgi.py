"""The ASGI middleware by itself, on asyncio and on Trio, with every kind of connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sniffio
import trio

from kiwi_id.verify.asgi import BearerMiddleware, Message, Receive, Scope, Send
from tests.verify.middleware.minted import VERIFIER, token

LOOPS: dict[str, Callable[[Callable[[], Awaitable[Any]]], Any]] = {
    "asyncio": lambda main: asyncio.run(main()),  # type: ignore[arg-type]  # they are coroutines
    "trio": trio.run,
}


class App:
    """An application that remembers its scopes and what it received, waits as its loop does, and answers."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.received: list[Message] = []
        self.loop = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.loop = sniffio.current_async_library()
        if self.loop == "trio":
            await trio.lowlevel.checkpoint()
        else:
            await asyncio.sleep(0)
        self.scopes.append(scope)
        self.received.append(await receive())
        await send({"type": "answered"})


def connection(kind: str, *authorization: str, **more: Any) -> Scope:
    """Return the scope of a connection with these Authorization headers."""
    headers = [(b"host", b"mail.example.com"), *((b"authorization", value.encode("latin-1")) for value in authorization)]
    return {"type": kind, "path": "/inbox", "root_path": "", "headers": headers, **more}


def call(app: BearerMiddleware, scope: Scope, event: str = "http.request", loop: str = "trio") -> list[Message]:
    """Serve one connection whose first event is ``event``; return what was sent."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": event}

    async def send(message: Message) -> None:
        sent.append(message)

    async def main() -> None:
        await app(scope, receive, send)

    LOOPS[loop](main)
    return sent


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("kind", "event"), [("http", "http.request"), ("websocket", "websocket.connect")])
def test_a_good_token_comes_through(loop: str, kind: str, event: str) -> None:
    """The application gets a copy of the scope with the claims, and all events, on either event loop."""
    app = App()
    scope = connection(kind, f"Bearer {token()}")
    assert call(BearerMiddleware(app, VERIFIER), scope, event, loop) == [{"type": "answered"}]
    assert app.loop == loop
    assert app.scopes[0]["kiwi"].name == "Alice Demo"
    assert app.received == [{"type": event}]
    assert "kiwi" not in scope


@pytest.mark.parametrize("loop", LOOPS)
def test_a_refused_request(loop: str) -> None:
    """The application never sees it; the answer is the challenge, whole, and not to be cached."""
    app = App()
    guarded = BearerMiddleware(app, VERIFIER, required_scopes=["mail_send"])
    start, body = call(guarded, connection("http", f"Bearer {token()}"), loop=loop)
    headers = dict(start["headers"])
    assert (start["type"], start["status"]) == ("http.response.start", 403)
    assert headers[b"www-authenticate"].endswith(b'scope="mail_send"')
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"content-length"] == str(len(body["body"])).encode()
    assert not app.scopes


@pytest.mark.parametrize("loop", LOOPS)
def test_a_refused_websocket_is_closed_before_it_is_accepted(loop: str) -> None:
    """Without the extension a close comes before any accept, which servers answer with 403."""
    app = App()
    sent = call(BearerMiddleware(app, VERIFIER), connection("websocket"), "websocket.connect", loop)
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": "unauthorized"}]
    assert not app.scopes


def test_a_refused_websocket_gets_the_challenge_where_the_server_can_send_it() -> None:
    """With the extension websocket.http.response the client reads the same answer as for a request."""
    scope = connection("websocket", "Bearer nonsense", extensions={"websocket.http.response": {}})
    start, body = call(BearerMiddleware(App(), VERIFIER), scope, "websocket.connect")
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
    assert b'error="invalid_token"' in dict(start["headers"])[b"www-authenticate"]
    assert body["type"] == "websocket.http.response.body"


def test_a_websocket_whose_client_has_left() -> None:
    """Nothing is sent to a client that is gone."""
    assert not call(BearerMiddleware(App(), VERIFIER), connection("websocket"), "websocket.disconnect")


def test_lifespan_passes_through() -> None:
    """The very scope, for the application's start may leave its state there."""
    app = App()
    scope: Scope = {"type": "lifespan", "state": {}}
    assert call(BearerMiddleware(app, VERIFIER), scope, "lifespan.startup") == [{"type": "answered"}]
    assert app.scopes[0] is scope


def test_an_unknown_kind_of_connection_is_not_let_in() -> None:
    """A scope type of the future may carry callers whom nobody has checked."""
    app = App()
    with pytest.raises(ValueError, match="webtransport"):
        call(BearerMiddleware(app, VERIFIER), connection("webtransport", f"Bearer {token()}"))
    assert not app.scopes


def test_claims_that_stand_in_the_scope_already_do_not_count() -> None:
    """Whatever is there is replaced by what was checked, also on a path where no token is looked at; headers are no way in."""
    app = App()
    scope = connection("http", kiwi="forged")
    scope["headers"] += [(b"kiwi", b"forged"), (b"kiwi.claims", b"forged")]
    call(BearerMiddleware(app, VERIFIER, anonymous_paths=["/inbox"]), scope)
    call(BearerMiddleware(app, VERIFIER, optional_paths=["/inbox"]), scope)
    assert [scope["kiwi"] for scope in app.scopes] == [None, None]


def test_two_headers_in_any_spelling() -> None:
    """A server that does not lower-case the names, as ASGI wants it, opens no way around the check for two headers."""
    scope = connection("http", f"Bearer {token()}")
    scope["headers"].append((b"Authorization", b"Basic YTpi"))
    assert call(BearerMiddleware(App(), VERIFIER), scope)[0]["status"] == 400


@pytest.mark.parametrize(
    ("root", "path", "status"),
    [
        ("/mail", "/mail/open/a", 0),
        ("/mail/", "/mail/open/a", 0),
        ("/mail", "/open/a", 401),  # not below the root: Quart would cut at the next '/mail' that it finds
        ("/mail", "/open/mail/inbox", 401),
        ("/mail", "/mailopen/a", 401),
        ("/mail", "/mail", 0),
        ("", "/open/a", 0),
    ],
)
def test_paths_are_those_of_the_application(root: str, path: str, status: int) -> None:
    """Paths are matched without root_path; a path that is not below it lets nobody in."""
    guarded = BearerMiddleware(App(), VERIFIER, anonymous_paths=["/open/*", "/"])
    first = call(guarded, {**connection("http"), "root_path": root, "path": path})[0]
    assert first.get("status", 0) == status
