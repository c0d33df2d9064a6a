"""Bodies that are no data, trailers without end, requests without answers: bounded, and others have their turn."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from kiwi_id.proxy.exchange import Exchange
from tests.front.conftest import Front

HOST = b"Host: id.example.com\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


async def endless(front: Front, piece: bytes) -> int:
    """Send a chunked body that goes on with ``piece`` for ever; return the status of the answer."""
    client = await front.connect()
    await client.send(CHUNKED)

    async def go_on() -> None:
        while True:
            await client.send(piece * 20)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_on)
        reply = await client.reply()
        nursery.cancel_scope.cancel()
    return reply.status


@pytest.mark.parametrize(
    "piece",
    [
        b"1;" + b"x" * 1000 + b"\r\nx\r\n",
        b"000000000000001;a=b;c=d\r\nx\r\n",
        b"10000;" + b"x" * 65000 + b"\r\n" + b"x" * 0x10000 + b"\r\n" + (b"1;" + b"x" * 65000 + b"\r\nx\r\n") * 3,
    ],
    ids=["long extensions", "many small extensions", "credit from a large chunk"],
)
async def test_chunks_that_are_mostly_extensions(front: Front, piece: bytes) -> None:
    """A body whose bytes are not its data ends in 413, long before max_body_bytes of data have come."""
    assert await endless(front, piece) == 413
    assert front.refused == {"body_too_large": 1}
    assert front.kanidm.requests == []


async def test_trailers_without_end(front: Front) -> None:
    """Trailers have a bound, too."""
    client = await front.connect()
    await client.send(CHUNKED + b"1\r\nx\r\n0\r\n")

    async def go_on() -> None:
        while True:
            await client.send(b"X-A: b\r\n" * 100)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_on)
        assert (await client.reply()).status == 413
        nursery.cancel_scope.cancel()
    assert front.kanidm.requests == []


async def test_many_chunks_as_they_usually_are(front: Front) -> None:
    """Tiny chunks are slow, but no offence; nor is an extension now and then."""
    body = b"1\r\nx\r\n" * 20_000 + (b"10;a=b\r\n" + b"x" * 16 + b"\r\n") * 5000
    assert (await front.ask(CHUNKED + body + b"0\r\n\r\n")).status == 200


async def test_a_flood_of_pipelined_requests_gives_others_their_turn(front: Front) -> None:
    """What is answered without waiting for anything still lets everybody else be served in between."""
    flood, others = 0, []

    async def ours(exchange: Exchange) -> None:
        nonlocal flood
        flood += 1
        await exchange.respond(200, [(b"content-length", b"0")], b"")

    async def other(exchange: Exchange) -> None:
        others.append(flood)
        await exchange.respond(200, [(b"content-length", b"0")], b"")

    front.ours[b"/ours"], front.ours[b"/other"] = ours, other
    flooding, patient = await front.connect(), await front.connect()
    await trio.testing.wait_all_tasks_blocked(0.01)
    await flooding.send(b"GET /ours HTTP/1.1\r\nHost: x\r\n\r\n" * 1500)
    await patient.send(b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await patient.reply()).status == 200
    for _ in range(1500):
        assert (await flooding.reply()).status == 200
    assert flood == 1500
    assert others[0] < 100


async def test_whoever_pipelines_and_does_not_read(front: Front) -> None:
    """Answers that nobody takes stop the requests behind them from being served, and then the connection."""
    front.limit(body_timeout=0.2)
    front.kanidm.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000
    client = await front.reader(GET * 1000)
    while front.refused != {"slow_reader": 1}:
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(front.kanidm.requests) < 100
    await front.gone()
    assert client.buffer == b""
