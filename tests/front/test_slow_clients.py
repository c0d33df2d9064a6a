"""Clients that are slow with headers, bodies and reading: what they are ended for, and that others are served meanwhile."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing

from tests.front.conftest import Front, Lines

HOST = b"Host: id.example.com\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


async def test_slow_clients_are_counted_by_what_they_are_slow_at(front: Front) -> None:
    """Silent, slow with headers, slow with a body: each its own kind."""
    front.limit(header_timeout=0.1, body_timeout=0.1)
    silent = await front.connect()
    assert await silent.ended()
    assert (await front.ask(GET[:20])).status == 408
    assert (await front.ask(POST + b"Content-Length: 5\r\n\r\nhell")).status == 408
    assert (await front.ask(CHUNKED + b"5\r\nhell")).status == 408
    assert front.refused == {"silent_connection": 1, "slow_headers": 1, "slow_body": 2}


async def test_an_idle_connection_is_nothing_to_tell(front: Front, lines: Lines) -> None:
    """A browser that does not come back is no hostile client."""
    front.limit(keep_alive_timeout=0.1)
    client = await front.connect()
    assert (await client.ask(GET)).status == 200
    assert await client.ended()
    assert front.refused == {}


@pytest.mark.parametrize("framing", [b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nffff\r\n"])
async def test_a_body_that_drips(front: Front, framing: bytes) -> None:
    """A body that never stands still, but is slower than min_rate, ends: one byte now and then holds nothing for ever."""
    front.limit(body_timeout=0.2, min_rate=10_000)
    client = await front.connect()
    await client.send(POST + framing)

    async def drip() -> None:
        while True:
            await client.send(b"x")
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        assert (await client.reply()).status == 408
        nursery.cancel_scope.cancel()
    assert front.refused == {"slow_body": 1}


LARGE = b"HTTP/1.1 200 OK\r\ncontent-length: 8000000\r\n\r\n" + b"x" * 8_000_000


async def test_a_slow_line_has_time(front: Front) -> None:
    """Whoever reads an answer steadily gets all of it, however often body_timeout passes meanwhile."""
    front.limit(body_timeout=0.2, min_rate=1000)
    front.kanidm.answer = LARGE
    client = await front.reader(GET)
    received = 0
    while received < 500_000:
        received += len(await client.stream.receive_some(40_000))
        await trio.sleep(0.01)
    while received < 8_000_000:
        received += len(await client.stream.receive_some(1 << 20))
    assert front.refused == {}


async def test_a_reader_that_drips(front: Front, lines: Lines) -> None:
    """Whoever reads, but slower than min_rate, is reset, so that it can tell; and counted."""
    front.limit(body_timeout=0.2, min_rate=1 << 20)
    front.kanidm.answer = LARGE
    client = await front.reader(GET)
    with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
        while True:
            assert await client.stream.receive_some(100)
            await trio.sleep(0.01)
    assert front.refused == {"slow_reader": 1}
    assert (await lines.requests(1))[0]["error"] == "slow_reader"
    await front.kanidm.peers[0].ended.wait()


async def test_every_reader_that_stops_is_reset_and_nothing_else(front: Front, lines: Lines) -> None:
    """What has been reset is not waited for any more: the second such client is no error of ours either."""
    front.limit(body_timeout=0.1)
    front.kanidm.answer = LARGE
    for count in range(1, 4):
        await front.reader(GET)
        assert (await lines.requests(count))[-1]["error"] == "slow_reader"
        while front.listener.open:
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert [record for record in lines.records if "unexpected" in record["msg"]] == []


async def test_slow_readers_leave_connections_to_others(front: Front) -> None:
    """They may hold a quarter of the connections to kanidmd; the next that is slow ends the one that has been it longest."""
    front.limit(upstream_connections=8)
    front.kanidm.answer = LARGE
    first, second = await front.reader(GET), await front.reader(GET)
    while len(front.listener.shared.readers) < 2:
        await trio.testing.wait_all_tasks_blocked(0.01)
    await front.reader(GET)
    while front.refused != {"slow_reader": 1}:
        await trio.testing.wait_all_tasks_blocked(0.01)
    with pytest.raises(trio.BrokenResourceError):
        await first.rest()
    assert len(front.listener.shared.readers) == 2
    while len(second.buffer) < len(LARGE):
        second.buffer += await second.stream.receive_some(1 << 20)
    front.kanidm.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    assert (await front.ask(GET)).body == b"ok"


async def test_slow_small_bodies_hold_no_connection_to_kanidmd(front: Front) -> None:
    """However many logins are typed a byte at a time, a connection is taken for each when its body is here."""
    front.limit(upstream_connections=1)
    slow = [await front.connect() for _ in range(20)]
    for client in slow:
        await client.send(POST + b"Content-Length: 65536\r\n\r\nx")
    await front.busy(20)
    assert front.kanidm.peers == []
    assert (await front.ask(GET)).status == 200
    await slow[7].send(b"x" * 65535)
    assert (await slow[7].reply()).status == 200


@pytest.mark.parametrize("framing", [b"Content-Length: 65537", b"Transfer-Encoding: chunked"])
async def test_slow_large_bodies_leave_connections_to_others(front: Front, framing: bytes) -> None:
    """A quarter of the connections to kanidmd is theirs; the next is told to come again, and everybody else is served."""
    front.limit(upstream_connections=8)
    slow = [await front.connect() for _ in range(2)]
    for client in slow:
        await client.send(POST + framing + b"\r\n\r\n")
    await front.busy(2)
    reply = await front.ask(POST + framing + b"\r\n\r\n")
    assert (reply.status, reply.one(b"retry-after")) == (503, b"2")
    assert json.loads(reply.body)["error"]["code"] == "too_many_uploads"
    assert front.refused == {"too_many_uploads": 1}
    assert (await front.ask(GET)).status == 200
    assert (await front.ask(POST + b"Content-Length: 2\r\n\r\nhi")).status == 200
    slow[0].reset()
    await front.busy(1)
    assert (await front.ask(CHUNKED + b"2\r\nhi\r\n0\r\n\r\n")).status == 200
