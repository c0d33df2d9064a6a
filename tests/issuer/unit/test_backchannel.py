"""issuer/backchannel.py over real sockets: how often a client is tried, and what no client can do to us."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import trio

from kiwi_id.issuer.backchannel import TRIES, Courier
from kiwi_id.issuer.logout import Notice

# As many tries as in production, without the waits between them.
AT_ONCE = (0.0,) * len(TRIES)
LONG = 30.0  # fails a test that hangs, and is never waited for otherwise

Answer = Callable[[trio.SocketStream], Awaitable[None]]


@dataclass
class Endpoint:
    """A relying party's logout endpoint; ``requests`` are those that came, whole, and ``written`` is what an answer got rid of."""

    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    written: int = 0

    @property
    def notice(self) -> Notice:
        """A notice for this endpoint."""
        return Notice("mail", f"http://127.0.0.1:{self.port}/logout?x=1", "the.logout.token")


@asynccontextmanager
async def endpoint(answer: Answer) -> AsyncIterator[Endpoint]:
    """Serve ``answer`` on a port of the loopback, once for each request; a connection ends with its answer."""
    served = Endpoint()

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            got = b""
            while not got.endswith(b"logout_token=the.logout.token"):
                chunk = await stream.receive_some()
                if not chunk:
                    return
                got += chunk
            served.requests.append(got)
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await answer(stream)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    served.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield served
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def courier(**arguments: float) -> AsyncIterator[Courier]:
    """A running courier that does not wait between two tries."""
    made = Courier(waits=AT_ONCE, **arguments)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()


async def until(true: Callable[[], bool]) -> None:
    """Wait for something to become true; fail when it does not."""
    for _ in range(int(LONG / 0.005)):
        if true():
            return
        await trio.sleep(0.005)
    raise AssertionError("that did not happen")


def status(*codes: int) -> Answer:
    """Answer with each of these statuses in turn."""
    left = list(codes)

    async def answer(stream: trio.SocketStream) -> None:
        code = left.pop(0)
        where = b"location: https://elsewhere.example/\r\n" if code == 302 else b""
        await stream.send_all(b"HTTP/1.1 %d X\r\nconnection: close\r\ncontent-length: 0\r\n%s\r\n" % (code, where))

    return answer


@pytest.mark.parametrize(
    ("codes", "posts", "told"),
    [
        ([500] * 9, len(TRIES), False),
        ([503, 204, 500], 2, True),
        ([200, 500], 1, True),
        ([400] * 3, 1, False),
        ([302] * 9, len(TRIES), False),
    ],
)
async def test_tries_are_bounded(codes: list[int], posts: int, told: bool) -> None:
    """A client that fails is tried four times, one that refuses once; redirects are not followed; each try is the same post."""
    async with endpoint(status(*codes)) as there, courier() as sender:
        await sender.deliver([there.notice])
        await until(lambda: len(there.requests) == posts and sender.undelivered == (0 if told else 1))
        # Whatever came after it would have come before the answer to this one.
        async with endpoint(status(200)) as later:
            await sender.deliver([later.notice])
            await until(lambda: len(later.requests) == 1)
        assert len(there.requests) == posts
        for request in there.requests:
            head, _, body = request.partition(b"\r\n\r\n")
            assert head.startswith(b"POST /logout?x=1 HTTP/1.1\r\n")
            assert re.search(rb"(?i)\r\ncontent-type: application/x-www-form-urlencoded", head)
            assert body == b"logout_token=the.logout.token"


async def test_nobody_there() -> None:
    """A port that nobody listens on fails each try, and then the delivery."""
    async with endpoint(status()) as gone:
        notice = gone.notice
    async with courier() as sender:
        await sender.deliver([notice])
        await until(lambda: sender.undelivered == 1)


async def test_an_answer_without_end_is_not_read() -> None:
    """The status counts; what comes after the head stays unread, and the connection is closed."""
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    ended = trio.Event()

    async def endless(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            while there.written < 1 << 28:
                await stream.send_all(chunk)
                there.written += len(chunk)
        finally:
            ended.set()

    async with endpoint(endless) as there, courier(timeout=LONG) as sender:
        await sender.deliver([there.notice])
        with trio.fail_after(LONG):
            await ended.wait()
        # What the two sockets hold is beyond anybody's control; 256 MB are not.
        assert there.written < 1 << 25
        assert (len(there.requests), sender.undelivered) == (1, 0)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 500 X\r\ncontent-length: 100000\r\n\r\n"])
async def test_a_byte_now_and_then_holds_nothing_up(head: bytes) -> None:
    """A client that drips, in the head or in the body of its answer, ends its try when the time of the whole try is over."""

    async def drip(stream: trio.SocketStream) -> None:
        await stream.send_all(head)
        while True:
            await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n" if head.startswith(b"HTTP/1.1 100") else b"x")
            await trio.sleep(0.02)

    async with endpoint(drip) as there, courier(timeout=0.3) as sender:
        await sender.deliver([there.notice])
        await until(lambda: sender.undelivered == 1)
        assert len(there.requests) == len(TRIES)


@pytest.mark.parametrize(
    "uri", ["https://a..b/", "https://xn--/x", "https://" + "a" * 70 + "/", "http://[::1", "x:", "http://:0/", "//"]
)
async def test_an_address_that_is_none_ends_nothing(uri: str) -> None:
    """Also where the config has let one through: that delivery fails, is counted, and the next one is made."""
    async with endpoint(status(200)) as there, courier() as sender:
        await sender.deliver([Notice("odd", uri, "token"), there.notice])
        await until(lambda: sender.undelivered == 1 and len(there.requests) == 1)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "HTTPS_PROXY"])
async def test_a_client_that_cannot_be_made_ends_nothing(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Certificates or a proxy in the environment that cannot be used: told and counted, and better luck once they can."""
    monkeypatch.setenv(variable, "ftp://nowhere")
    async with endpoint(status(200)) as there, courier() as sender:
        await sender.deliver([there.notice])
        await until(lambda: sender.undelivered == 1 or len(there.requests) == 1)
        monkeypatch.delenv(variable)
        await sender.deliver([there.notice])
        await until(lambda: len(there.requests) == 1)
