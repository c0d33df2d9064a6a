"""Connections to kanidmd: used again while they are good, a bounded number, and none that outlives its child."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from kiwi_id.proxy import pool
from tests.front.conftest import Front
from tests.front.upstream import OK, Peer

HOST = b"Host: id.example.com\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello"


async def test_connections_are_used_again(front: Front) -> None:
    """Requests one after another, of many clients, share one connection; requests at once have one each."""
    for _ in range(5):
        assert (await front.ask(GET)).status == 200
        assert (await front.ask(POST)).status == 200
    assert len(front.kanidm.peers) == 1
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(front.ask, GET)
    assert 1 <= len(front.kanidm.peers) <= 10
    assert len(front.kanidm.requests) == 20
    assert front.pool.limiter.borrowed_tokens == 0


@pytest.mark.parametrize("answer", [OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"), OK.replace(b"1.1", b"1.0")])
async def test_a_connection_that_ends_is_not_used_again(front: Front, answer: bytes) -> None:
    """After Connection: close, or HTTP/1.0, kanidmd's connection is closed and the next request has another."""
    front.kanidm.answer = answer
    for _ in range(2):
        assert (await front.ask(POST)).status == 200
    assert len(front.kanidm.peers) == 2
    await front.kanidm.peers[0].ended.wait()


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 60000\r\n\r\n" + b"x" * 60000, b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]
)
async def test_a_connection_with_a_large_body_is_not_used_again(front: Front, framing: bytes) -> None:
    """kanidmd may have answered without reading the body, and then closes without a word: the next POST must not cross that."""
    assert (await front.ask(POST.partition(b"Content-Length")[0] + framing)).status == 200
    assert (await front.ask(POST)).status == 200
    assert len(front.kanidm.peers) == 2
    await front.kanidm.peers[0].ended.wait()
    assert (await front.ask(POST)).status == 200
    assert len(front.kanidm.peers) == 2


async def test_the_end_of_a_life_empties_the_pool(front: Front) -> None:
    """No connection outlives the child that it led to: idle ones are closed at once, those in use when they are given back."""

    async def slow(peer: Peer) -> None:
        while request := await peer.read_request():
            if b"/slow" in request:
                asked.set()
                await answer.wait()
            await peer.send(OK)

    asked, answer = trio.Event(), trio.Event()
    front.kanidm.script = slow
    client = await front.connect()
    await client.send(GET.replace(b"/ ", b"/slow "))
    await asked.wait()
    await front.ask(GET)
    busy, idle = front.kanidm.peers
    front.pool.child_ended()
    await idle.ended.wait()
    assert not busy.ended.is_set()
    answer.set()
    assert (await client.reply()).status == 200
    await busy.ended.wait()
    assert (await front.ask(GET)).status == 200
    assert len(front.kanidm.peers) == 3


async def test_an_old_idle_connection_is_not_used(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that has been idle for longer than kanidmd may keep it is closed, not used."""
    await front.ask(GET)
    monkeypatch.setattr(pool, "MAX_IDLE", 0.0)
    await front.ask(POST)
    assert len(front.kanidm.peers) == 2
    await front.kanidm.peers[0].ended.wait()


async def test_the_pools_cap(front: Front) -> None:
    """Above upstream_connections requests wait for a place, up to gate_timeout; a raised cap lets them in."""
    front.limit(upstream_connections=1, gate_timeout=0.2)

    async def slow(peer: Peer) -> None:
        while await peer.read_request():
            await answer.wait()
            await peer.send(OK)

    answer = trio.Event()
    front.kanidm.script = slow
    first, second, third = [await front.connect() for _ in range(3)]
    await first.send(GET)
    await front.kanidm.arrived.wait()
    reply = await second.ask(GET)
    assert (reply.status, reply.one(b"retry-after")) == (503, b"2")
    front.limit(gate_timeout=20.0)
    await third.send(GET)
    await trio.testing.wait_all_tasks_blocked()
    assert len(front.kanidm.peers) == 1
    front.limit(upstream_connections=2)
    while len(front.kanidm.peers) < 2:
        await trio.testing.wait_all_tasks_blocked(0.005)
    answer.set()
    for client in (first, third):
        assert (await client.reply()).status == 200


async def test_a_handshake_that_stalls(front: Front) -> None:
    """A server that accepts and says nothing costs gate_timeout and no place in the pool."""
    front.limit(gate_timeout=0.2)
    front.kanidm.stop()
    await trio.testing.wait_all_tasks_blocked()
    with socket.create_server(("127.0.0.1", front.kanidm.address.port)):
        assert (await front.ask(GET)).status == 503
    assert front.pool.limiter.borrowed_tokens == 0


async def test_uploads_share_a_clients_connection(front: Front) -> None:
    """An answer that comes as soon as the last byte of a body has left does not end the client's connection."""

    async def script(peer: Peer) -> None:
        while await peer.read_until(b"\r\n\r\n"):
            await peer.read_exactly(1 << 20)
            await peer.send(OK)

    front.kanidm.script = script
    client = await front.connect()
    head = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % (1 << 20)
    for _ in range(30):
        reply = await client.ask(head + b"x" * (1 << 20))
        assert (reply.status, reply.one(b"connection")) == (200, None)
