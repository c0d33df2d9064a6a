"""The end of the front: what is idle ends at once, what is in progress is finished, nothing new begins."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.front.conftest import Front, Lines
from tests.front.upstream import OK, Peer

HOST = b"Host: id.example.com\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
UPLOAD = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\n"


class Slow:
    """kanidmd answers when ``answer`` is set."""

    def __init__(self, front: Front) -> None:
        self.asked, self.answer = trio.Event(), trio.Event()
        self.front = front
        front.kanidm.script = self

    async def __call__(self, peer: Peer) -> None:
        """Serve a connection."""
        while await peer.read_request():
            self.asked.set()
            await self.answer.wait()
            await peer.send(OK)


async def test_idle_connections_end_at_once(front: Front) -> None:
    """New and kept-alive connections on which nobody asks are closed by the drain, and then the listener has ended."""
    fresh, used = await front.connect(), await front.connect()
    assert (await used.ask(GET)).status == 200
    while len(front.listener.connections) < 2:
        await trio.testing.wait_all_tasks_blocked(0.005)
    front.listener.stop()
    for client in (fresh, used):
        assert await client.ended()
        client.close()
    with trio.fail_after(5):
        await front.stopped.wait()


async def test_a_new_connection_may_still_bring_its_request(front: Front) -> None:
    """It was accepted before the drain, so its client counts on an answer: it gets one, and then the connection ends."""
    client = await front.connect()
    while not front.listener.connections:
        await trio.testing.wait_all_tasks_blocked(0.005)
    front.listener.stop()
    await trio.testing.wait_all_tasks_blocked()
    await client.send(GET + GET)
    reply = await client.reply()
    assert (reply.status, reply.one(b"connection")) == (200, b"close")
    assert await client.ended()
    client.close()
    await front.stopped.wait()


async def test_the_listener_takes_nobody_new(front: Front) -> None:
    """After the drain began connections are refused."""
    address = front.listener.addresses[0]
    front.listener.stop()
    await front.stopped.wait()
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream(address.host, address.port)


async def test_a_request_in_progress_is_finished(front: Front) -> None:
    """It gets its answer, which says that the connection ends, and the connection does."""
    slow = Slow(front)
    client = await front.connect()
    await client.send(GET + GET)
    await slow.asked.wait()
    front.listener.stop()
    await trio.testing.wait_all_tasks_blocked()
    assert not front.stopped.is_set()
    slow.answer.set()
    reply = await client.reply()
    assert (reply.body, reply.one(b"connection")) == (b"ok", b"close")
    assert await client.ended()
    client.close()
    await front.stopped.wait()


async def test_an_upload_in_progress_is_finished(front: Front) -> None:
    """A body that is still coming is taken to its end."""
    client = await front.connect()
    await client.send(UPLOAD + b"01234")
    await front.busy(1)
    front.listener.stop()
    await client.send(b"56789")
    reply = await client.reply()
    assert (reply.body, reply.one(b"connection")) == (b"ok", b"close")
    assert await client.ended()
    client.close()
    await front.stopped.wait()
    assert front.kanidm.requests[0].endswith(b"0123456789")


async def test_an_answer_in_progress_is_finished(front: Front) -> None:
    """An answer whose head has gone out without Connection: close is sent to its end; then the connection ends."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234")
        await go_on.wait()
        await peer.send(b"56789")

    go_on = trio.Event()
    front.kanidm.script = script
    client = await front.connect()
    await client.send(GET)
    await client.until(b"01234")
    front.listener.stop()
    go_on.set()
    assert await client.exactly(5) == b"56789"
    assert await client.ended()
    client.close()
    await front.stopped.wait()


async def test_a_request_at_the_gate_is_finished(front: Front) -> None:
    """A request that waits for kanidmd is served during the drain as well."""
    front.status.transition(front.status.state.BACKOFF, "test")
    client = await front.connect()
    await client.send(GET)
    while not front.gate.waiting:
        await trio.testing.wait_all_tasks_blocked(0.005)
    front.listener.stop()
    front.status.transition(front.status.state.STARTING, "test")
    front.status.transition(front.status.state.READY, "test")
    reply = await client.reply()
    assert (reply.status, reply.one(b"connection")) == (200, b"close")


async def test_a_half_head_does_not_hold_the_end(front: Front, lines: Lines) -> None:
    """A client in the middle of a head has header_timeout left, then its connection ends without an answer."""
    front.limit(header_timeout=0.2)
    client = await front.connect()
    await client.send(GET[:10])
    await trio.testing.wait_all_tasks_blocked(0.01)
    front.listener.stop()
    assert await client.ended()
    client.close()
    with trio.fail_after(5):
        await front.stopped.wait()
    await lines.requests(0)


async def test_cancellation_ends_everything(front: Front, nursery: trio.Nursery, lines: Lines) -> None:
    """At the hard deadline whatever is left ends at once: connections, waiting requests and kanidmd's connections."""
    slow = Slow(front)
    client = await front.connect()
    await client.send(GET)
    await slow.asked.wait()
    await trio.testing.wait_all_tasks_blocked(0.1)
    front.serving.cancel()
    assert await client.ended()
    await front.stopped.wait()
    assert (await lines.requests(1))[0]["outcome"] == "cancelled"
    assert front.pool.limiter.borrowed_tokens == 0
    assert front.listener.open == 0
