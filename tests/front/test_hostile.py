"""Connections by the hundred, handshakes that stall, clients that leave early, and what is told of all that is refused."""

from __future__ import annotations

import json
import ssl
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from kiwi_id.proxy import refusals
from kiwi_id.proxy.refusals import Refusals
from kiwi_id.proxy.rules import neighbourhood
from tests.front.conftest import Front, Lines, Pair

HOST = b"Host: id.example.com\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

MakeFront = Callable[..., Awaitable[Front]]


# -- many connections --------------------------------------------------------------------------------------------------------


async def test_one_address_gets_no_more_than_its_share(front: Front, lines: Lines) -> None:
    """Beyond max_connections_per_address an address is told so; another address, and the same one later, are served."""
    front.limit(max_connections_per_address=3)
    held = [await front.connect_from("127.0.0.2") for _ in range(3)]
    for client in held:
        assert (await client.ask(GET)).status == 200
    reply = await (await front.connect_from("127.0.0.2")).ask(GET)
    assert (reply.status, reply.one(b"retry-after"), reply.one(b"connection")) == (503, b"2", b"close")
    assert reply.one(b"x-content-type-options") == b"nosniff"
    assert json.loads(reply.body)["error"]["code"] == "too_many_connections_per_address"
    assert front.refused == {"too_many_connections_per_address": 1}
    assert (await (await front.connect_from("127.0.0.3")).ask(GET)).status == 200
    held[0].close()
    while front.listener.open > 3:
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert (await (await front.connect_from("127.0.0.2")).ask(GET)).status == 200
    await front.gone()


async def test_a_trusted_proxy_has_no_cap_of_its_own(front: Front) -> None:
    """A proxy's connections are those of all its clients: trusted_proxies are exempt, at once after a reload."""
    front.limit(max_connections_per_address=1)
    front.trust("127.0.0.2")
    for _ in range(5):
        assert (await (await front.connect_from("127.0.0.2")).ask(GET)).status == 200
    assert (await (await front.connect_from("127.0.0.3")).ask(GET)).status == 200
    assert (await (await front.connect_from("127.0.0.3")).ask(GET)).status == 503


async def test_a_large_network_is_one_client(make_front: MakeFront) -> None:
    """Whoever has one IPv6 address has 2^64 of them; an IPv4 address is itself."""
    assert neighbourhood("2001:db8:1:2:3::4") == neighbourhood("2001:db8:1:2:ffff::") != neighbourhood("2001:db8:1:3::4")
    assert neighbourhood("192.0.2.1") == "192.0.2.1"
    front = await make_front(host="::1")
    front.limit(max_connections_per_address=1)
    held = await front.connect()
    assert (await held.ask(GET)).status == 200
    assert (await front.ask(GET)).status == 503


async def test_whoever_waits_longest_makes_room(front: Front) -> None:
    """At max_connections an idle, silent or slow connection is closed for a newcomer, the oldest first, and none with work."""
    front.limit(max_connections=4)
    silent = await front.connect()
    await trio.testing.wait_all_tasks_blocked(0.01)
    slow = await front.connect()
    await slow.send(GET[:20])
    await trio.testing.wait_all_tasks_blocked(0.01)
    idle, working = await front.connect(), await front.connect()
    assert (await idle.ask(GET)).status == 200
    await working.send(POST + b"Content-Length: 2\r\n\r\n")
    await front.busy(1)
    for count, loser in enumerate((silent, slow, idle), 1):
        newcomer = await front.connect()
        await newcomer.send(CHUNKED)
        assert await loser.ended()
        await front.busy(1 + count)
        assert front.listener.open == 4
    assert front.refused == {"made_room": 3}
    refused = await front.ask(GET)
    assert refused.status == 503
    await working.send(b"hi")
    assert (await working.reply()).status == 200


async def test_those_that_are_turned_away_hold_nothing(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many are told why; more are closed at once."""
    monkeypatch.setattr("kiwi_id.proxy.listener._MOST_TOLD", 1)
    front.limit(max_connections_per_address=1)
    held = await front.connect()
    assert (await held.ask(GET)).status == 200
    told = await front.connect()
    assert (await told.head()).status == 503
    assert await (await front.connect()).ended()
    assert front.refused == {"too_many_connections_per_address": 2}


# -- handshakes, early ends --------------------------------------------------------------------------------------------------


def serving(pair: Pair) -> ssl.SSLContext:
    """Return a TLS context for the front."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    return context


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40])
async def test_handshakes_that_stall(make_front: MakeFront, loopback: Pair, sent: bytes) -> None:
    """A handshake that does not go on ends after tls_handshake_timeout, is counted, and makes room before that when it must."""
    front = await make_front(serving(loopback))
    front.limit(tls_handshake_timeout=0.1)
    stalled = await front.connect_from("127.0.0.1")
    if sent:
        await stalled.send(sent)
    assert await stalled.ended()
    assert front.refused == {"slow_tls_handshake": 1}
    front.limit(tls_handshake_timeout=20, max_connections=1)
    stalled = await front.connect_from("127.0.0.1")
    if sent:
        await stalled.send(sent)
    while not front.listener.shared.heads:
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert (await front.ask(GET)).status == 200
    assert await stalled.ended()
    assert front.refused["made_room"] == 1


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_early_ends_in_a_handshake(make_front: MakeFront, loopback: Pair, lines: Lines, how: str) -> None:
    """Wherever a client leaves in its side of the handshake, nothing of it is left, and the next is served."""
    front = await make_front(serving(loopback))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=str(loopback[0]))
    hello = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    whole = outgoing.read()
    for cut in range(0, len(whole) + 1, 7):
        client = await front.connect_from("127.0.0.1")
        if cut:
            await client.send(whole[:cut])
        await trio.testing.wait_all_tasks_blocked()
        if how == "RST":
            client.reset()
        else:
            await client.finish()
    while front.listener.open:
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert not front.listener.shared.heads
    assert (await front.ask(GET)).status == 200
    assert not [record for record in lines.records if "unexpected" in record["msg"]]


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize(
    "request_bytes",
    [
        GET,
        POST + b"Content-Length: 5\r\n\r\nhello",
        CHUNKED + b"5;a=b\r\nhello\r\n0\r\nX-A: b\r\n\r\n",
        POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=["GET", "length", "chunked", "expect"],
)
async def test_early_ends_at_every_byte(front: Front, lines: Lines, request_bytes: bytes, how: str) -> None:
    """Wherever a client leaves in its request, nothing of it is left, kanidmd has no request of it, and the next is served."""
    for cut in range(len(request_bytes)):
        client = await front.connect()
        if cut:
            await client.send(request_bytes[:cut])
        await trio.testing.wait_all_tasks_blocked()
        if how == "RST":
            client.reset()
        else:
            await client.finish()
            with trio.move_on_after(5):
                while await client.stream.receive_some(65536):
                    pass
            client.close()
    await front.gone()
    assert front.kanidm.requests == []
    assert (await front.ask(GET)).status == 200
    assert not [record for record in lines.records if "unexpected" in record["msg"]]


# -- what is told of it ------------------------------------------------------------------------------------------------------


async def test_a_flood_of_refusals_is_no_flood_of_lines(front: Front, lines: Lines) -> None:
    """A thousand refusals of one kind are some ten lines of the log, each with the count so far."""
    for _ in range(300):
        assert (await front.ask(b"GET / HTTP/1.1\nHost: x\n\n")).status == 400
    assert front.refused == {"malformed_request": 300}
    told = [record for record in lines.records if record["msg"] == "refused"]
    assert [record["so_far"] for record in told] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert {(record["kind"], record["client"], record["status"]) for record in told} == {("malformed_request", "127.0.0.1", 400)}


def test_after_some_quiet_a_refusal_is_news_again(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds are counted apart, and a second attack is told of from its beginning."""
    counted = Refusals()
    for kind in ("a", "a", "a", "b", "a"):
        counted.count(kind, "192.0.2.1")
    assert [(record["kind"], record["so_far"]) for record in lines.records] == [("a", 1), ("a", 2), ("b", 1), ("a", 4)]
    monkeypatch.setattr(refusals, "QUIET", -1.0)
    counted.count("a", "192.0.2.1")
    assert [(record["kind"], record["so_far"]) for record in lines.records][-1] == ("a", 5)
    assert counted.counts == {"a": 5, "b": 1}
