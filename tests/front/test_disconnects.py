"""Who leaves ends the other side's work: clients, kanidmd, half-closed peers, and those that stop reading."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

import pytest
import trio
import trio.testing

from kiwi_id.proxy import connection, forwarder
from tests.front.conftest import Front, Lines
from tests.front.upstream import OK, Peer

HOST = b"Host: id.example.com\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
UPLOAD = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n"


class Silent:
    """A script that reads requests and never answers; ``asked`` is set by the first."""

    def __init__(self, front: Front) -> None:
        self.asked, self.left = trio.Event(), trio.Event()
        front.kanidm.script = self

    async def __call__(self, peer: Peer) -> None:
        """Serve a connection."""
        await peer.read_request()
        self.asked.set()
        await peer.gone()
        self.left.set()


async def test_a_client_that_resets_ends_its_upstream_request(front: Front, lines: Lines) -> None:
    """An RST is noticed while kanidmd works, and kanidmd's connection is closed, so that it can stop, too."""
    silent = Silent(front)
    client = await front.connect()
    await client.send(GET)
    await silent.asked.wait()
    client.reset()
    await silent.left.wait()
    line = (await lines.requests(1))[0]
    assert (line["status"], line["outcome"]) == (0, "client gone")


async def test_a_client_that_closes_ends_its_upstream_request(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FIN may mean a half-closed client, so it gets its grace; then the upstream request ends."""
    monkeypatch.setattr(connection, "HALF_CLOSE_GRACE", 0.1)
    silent = Silent(front)
    client = await front.connect()
    await client.send(GET)
    await silent.asked.wait()
    client.close()
    await silent.left.wait()


@pytest.mark.parametrize("fields", [b"Content-Length: 100000", b"Upgrade: h2c"], ids=["after an upload", "with an Upgrade field"])
async def test_leaving_is_noticed_after_any_request(front: Front, fields: bytes) -> None:
    """A client that leaves when its long body has been sent, or whose request had an Upgrade field, is noticed as well."""
    silent = Silent(front)
    client = await front.connect()
    await client.send(b"POST / HTTP/1.1\r\n" + HOST + fields + b"\r\n\r\n")
    if b"Length" in fields:
        await front.kanidm.arrived.wait()
        with trio.move_on_after(2 * forwarder.UNATTENDED):  # so that the wait for the answer begins before the body has ended
            await silent.asked.wait()
        await client.send(b"x" * 100000)
    await silent.asked.wait()
    client.reset()
    with trio.fail_after(5):
        await silent.left.wait()


async def test_a_client_that_leaves_in_the_middle_of_its_upload(front: Front, lines: Lines) -> None:
    """Half a body, then a FIN or an RST: kanidmd's connection ends without the rest, at once."""
    for leave in ("close", "reset"):
        client = await front.connect()
        front.kanidm.arrived = trio.Event()
        await client.send(UPLOAD + b"x" * 1000)
        await front.kanidm.arrived.wait()
        getattr(client, leave)()
        await front.kanidm.peers[-1].ended.wait()
    assert front.kanidm.requests == []
    assert [line["outcome"] for line in await lines.requests(2)] == ["client gone"] * 2


async def test_a_client_that_leaves_in_the_middle_of_the_answer(front: Front) -> None:
    """An answer that nobody reads any more is not fetched to its end."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        with suppress(trio.BrokenResourceError):
            while True:
                await peer.stream.send_all(b"x" * 65536)
        ended.set()

    ended = trio.Event()
    front.kanidm.script = script
    client = await front.connect()
    await client.send(GET)
    await client.head()
    client.reset()
    await ended.wait()


async def test_a_half_closed_client_gets_its_answer(front: Front) -> None:
    """A client that sends its request and a FIN still reads (RFC 9112 §9.6), also an answer that takes a moment."""

    async def script(peer: Peer) -> None:
        while request := await peer.read_request():
            if b"/slow" in request:
                with trio.move_on_after(4 * forwarder.UNATTENDED):
                    await peer.gone()
            await peer.send(OK)

    front.kanidm.script = script
    for target in (b"/", b"/slow"):
        client = await front.connect()
        await client.send(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        await client.finish()
        reply = await client.reply()
        assert (reply.body, reply.status) == (b"ok", 200)
        assert await client.ended()


async def test_a_half_closed_client_gets_all_its_answers(front: Front) -> None:
    """Requests that were sent before the FIN are all answered."""
    client = await front.connect()
    await client.send(GET * 3)
    await client.finish()
    for _ in range(3):
        assert (await client.reply()).body == b"ok"
    assert await client.ended()


async def test_what_was_sent_before_a_fin_is_served_after_it(front: Front) -> None:
    """Also requests that are still to be looked at when the FIN has been seen are answered; the last answer tells of the end."""

    async def script(peer: Peer) -> None:
        while await peer.read_request():
            with trio.move_on_after(2 * forwarder.UNATTENDED):  # long enough for the FIN to be seen by whoever watches
                await peer.gone()
            await peer.send(OK)

    front.kanidm.script = script
    client = await front.connect()
    upload = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nhi"
    await client.send(GET + upload + GET[:-2] + b"X: last\r\n\r\n" + GET[:9])
    await client.finish()
    for _ in range(3):
        assert (await client.reply()).body == b"ok"
    assert await client.ended()


async def test_a_fin_in_the_middle_of_a_head(front: Front) -> None:
    """Half a request is none: the connection ends, nothing was asked."""
    client = await front.connect()
    await client.send(GET[:-4])
    await client.finish()
    assert await client.ended()
    assert front.kanidm.peers == []


@pytest.mark.parametrize(
    "part",
    [b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"],
    ids=["content-length", "chunked"],
)
@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_kanidmd_dies_in_the_middle_of_its_answer(front: Front, lines: Lines, part: bytes, how: str) -> None:
    """The client's connection ends with the answer incomplete, and not as if it were complete."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(part)
        await go_on.wait()
        if how == "rst":
            peer.reset()

    go_on = trio.Event()
    front.kanidm.script = script
    client = await front.connect()
    await client.send(GET)
    assert (await client.head()).status == 200
    await client.until(b"hello")
    go_on.set()
    assert await client.ended() or client.buffer == b"\r\n"
    assert (await lines.requests(1))[0]["outcome"].startswith("aborted")


async def test_an_http_1_0_client_can_tell_that_kanidmd_died(front: Front) -> None:
    """Where the connection's end is the body's, it is a reset when the body is incomplete."""

    async def script(peer: Peer) -> None:
        await peer.answer_end(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")

    front.kanidm.script = script
    client = await front.connect()
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(trio.BrokenResourceError):
        await client.rest()


async def test_kanidmd_closes_without_an_answer(front: Front) -> None:
    """A connection that ends instead of an answer is 502, and the client's connection stays for more."""

    async def script(peer: Peer) -> None:
        await peer.read_request()

    front.kanidm.script = script
    client = await front.connect()
    assert (await client.ask(GET)).status == 502
    front.kanidm.script = front.kanidm.keep_answering
    assert (await client.ask(GET)).status == 200


async def test_kanidmd_closes_in_the_middle_of_an_upload(front: Front) -> None:
    """Without an answer an upload that kanidmd cuts off is 502, and it is not sent again."""

    async def script(peer: Peer) -> None:
        await peer.read_until(b"\r\n\r\n")
        await peer.read_exactly(10)
        peer.reset()
        cut.set()

    cut = trio.Event()
    front.kanidm.script = script
    client = await front.connect()
    await client.send(UPLOAD + b"x" * 1000)
    await cut.wait()
    await client.send(b"x" * 60000)
    assert (await client.reply()).status == 502
    assert len(front.kanidm.peers) == 1


async def test_a_client_that_stops_reading_is_let_go(front: Front, lines: Lines) -> None:
    """A client whose window stays closed for body_timeout ends, and so does its upstream request: nothing waits for ever."""
    front.limit(body_timeout=0.2)

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        while True:
            await peer.stream.send_all(b"x" * 65536)

    front.kanidm.script = script
    client = await front.connect()
    await client.send(GET)
    line = (await lines.requests(1))[0]
    assert line["outcome"]
    assert line["out"] < 20_000_000


async def test_a_reset_before_the_accept_harms_nobody(front: Front) -> None:
    """A connection that is reset while it waits to be accepted has no peer address; the listener lives on."""
    address = front.listener.addresses[0]
    for _ in range(20):
        with socket.create_connection((address.host, address.port)) as sock:  # blocking: the front cannot run meanwhile
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert front.listener.open == 0
    assert (await front.ask(GET)).status == 200


async def test_stray_bytes_and_silence(front: Front) -> None:
    """Clients that send one byte, nothing, or garbage and vanish leave nothing behind."""
    for data in (b"", b"G", b"\r\n", b"\x00", b"\x80" * 100, GET[:20]):
        for leave in ("close", "reset"):
            client = await front.connect()
            await client.send(data)
            getattr(client, leave)()
    while front.listener.open:
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert not front.listener.connections
    assert (await front.ask(GET)).status == 200
