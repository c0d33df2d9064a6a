"""Hostile clients, each of them alone: what it is ended for, what that is counted as, and that others are served meanwhile."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from kiwi_id.proxy import refusals
from kiwi_id.proxy.exchange import Exchange
from kiwi_id.proxy.refusals import Refusals
from kiwi_id.proxy.rules import neighbourhood
from tests.front.conftest import Front, Lines, Pair
from tests.front.wire import Client

HOST = b"Host: id.example.com\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

MakeFront = Callable[..., Awaitable[Front]]


def counts(front: Front) -> dict[str, int]:
    """Return what the front has refused so far."""
    return front.listener.shared.refusals.counts


async def connect_from(front: Front, source: str) -> Client:
    """Open a connection from one of the loopback's other addresses, without TLS."""
    address = front.listener.addresses[0]
    tcp = await trio.open_tcp_stream(address.host, address.port, local_address=source)
    client = Client(tcp, tcp)
    front.clients.append(client)
    return client


async def gone(front: Front) -> None:
    """Wait until nothing is left of any client."""
    for client in front.clients:
        client.close()
    while front.listener.open or front.listener.connections:
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert not front.listener.shared.heads
    assert not front.listener.shared.readers


# -- many connections --------------------------------------------------------------------------------------------------------


async def test_one_address_gets_no_more_than_its_share(front: Front, lines: Lines) -> None:
    """Beyond max_connections_per_address an address is told so; another address, and the same one later, are served."""
    front.limit(max_connections_per_address=3)
    held = [await connect_from(front, "127.0.0.2") for _ in range(3)]
    for client in held:
        assert (await client.ask(GET)).status == 200
    reply = await (await connect_from(front, "127.0.0.2")).ask(GET)
    assert (reply.status, reply.one(b"retry-after"), reply.one(b"connection")) == (503, b"2", b"close")
    assert json.loads(reply.body)["error"]["code"] == "too_many_connections_per_address"
    assert counts(front) == {"too_many_connections_per_address": 1}
    assert (await (await connect_from(front, "127.0.0.3")).ask(GET)).status == 200
    held[0].close()
    while front.listener.open > 3:
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert (await (await connect_from(front, "127.0.0.2")).ask(GET)).status == 200
    await gone(front)


async def test_a_trusted_proxy_has_no_cap_of_its_own(front: Front) -> None:
    """A proxy's connections are those of all its clients: trusted_proxies are exempt, at once after a reload."""
    front.limit(max_connections_per_address=1)
    front.trust("127.0.0.2")
    for _ in range(5):
        assert (await (await connect_from(front, "127.0.0.2")).ask(GET)).status == 200
    assert (await (await connect_from(front, "127.0.0.3")).ask(GET)).status == 200
    assert (await (await connect_from(front, "127.0.0.3")).ask(GET)).status == 503


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
    assert counts(front) == {"made_room": 3}
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
    assert counts(front) == {"too_many_connections_per_address": 2}


# -- slow clients --------------------------------------------------------------------------------------------------------------


async def test_slow_clients_are_counted_by_what_they_are_slow_at(front: Front) -> None:
    """Silent, slow with headers, slow with a body: each its own kind."""
    front.limit(header_timeout=0.1, body_timeout=0.1)
    silent = await front.connect()
    assert await silent.ended()
    assert (await front.ask(GET[:20])).status == 408
    assert (await front.ask(POST + b"Content-Length: 5\r\n\r\nhell")).status == 408
    assert (await front.ask(CHUNKED + b"5\r\nhell")).status == 408
    assert counts(front) == {"silent_connection": 1, "slow_headers": 1, "slow_body": 2}


async def test_an_idle_connection_is_nothing_to_tell(front: Front, lines: Lines) -> None:
    """A browser that does not come back is no hostile client."""
    front.limit(keep_alive_timeout=0.1)
    client = await front.connect()
    assert (await client.ask(GET)).status == 200
    assert await client.ended()
    assert counts(front) == {}


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
    assert counts(front) == {"slow_body": 1}


def with_little_room(front: Front) -> socket.socket:
    """Return a socket whose kernel takes little that is not read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((front.listener.addresses[0].host, front.listener.addresses[0].port))
    sock.setblocking(False)
    return sock


async def reader(front: Front, request: bytes = GET) -> Client:
    """Ask, and read nothing."""
    tcp = trio.SocketStream(trio.socket.from_stdlib_socket(with_little_room(front)))
    client = Client(tcp, tcp)
    front.clients.append(client)
    await client.send(request)
    return client


LARGE = b"HTTP/1.1 200 OK\r\ncontent-length: 8000000\r\n\r\n" + b"x" * 8_000_000


async def test_a_slow_line_has_time(front: Front) -> None:
    """Whoever reads an answer steadily gets all of it, however often body_timeout passes meanwhile."""
    front.limit(body_timeout=0.2, min_rate=1000)
    front.kanidm.answer = LARGE
    client = await reader(front)
    received = 0
    while received < 500_000:
        received += len(await client.stream.receive_some(40_000))
        await trio.sleep(0.01)
    while received < 8_000_000:
        received += len(await client.stream.receive_some(1 << 20))
    assert counts(front) == {}


async def test_a_reader_that_drips(front: Front, lines: Lines) -> None:
    """Whoever reads, but slower than min_rate, is reset, so that it can tell; and counted."""
    front.limit(body_timeout=0.2, min_rate=1 << 20)
    front.kanidm.answer = LARGE
    client = await reader(front)
    with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
        while True:
            assert await client.stream.receive_some(100)
            await trio.sleep(0.01)
    assert counts(front) == {"slow_reader": 1}
    assert (await lines.requests(1))[0]["error"] == "slow_reader"
    await front.kanidm.peers[0].ended.wait()


async def test_slow_readers_leave_connections_to_others(front: Front) -> None:
    """They may hold a quarter of the connections to kanidmd; the next that is slow ends the one that has been it longest."""
    front.limit(upstream_connections=8)
    front.kanidm.answer = LARGE
    first, second = await reader(front), await reader(front)
    while len(front.listener.shared.readers) < 2:
        await trio.testing.wait_all_tasks_blocked(0.01)
    await reader(front)
    while counts(front) != {"slow_reader": 1}:
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
    assert counts(front) == {"too_many_uploads": 1}
    assert (await front.ask(GET)).status == 200
    assert (await front.ask(POST + b"Content-Length: 2\r\n\r\nhi")).status == 200
    slow[0].reset()
    await front.busy(1)
    assert (await front.ask(CHUNKED + b"2\r\nhi\r\n0\r\n\r\n")).status == 200


# -- bodies without end, pipelining ------------------------------------------------------------------------------------------


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
    assert counts(front) == {"body_too_large": 1}
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
    client = await reader(front, GET * 1000)
    while counts(front) != {"slow_reader": 1}:
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(front.kanidm.requests) < 100
    await gone(front)
    assert client.buffer == b""


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
    stalled = await connect_from(front, "127.0.0.1")
    if sent:
        await stalled.send(sent)
    assert await stalled.ended()
    assert counts(front) == {"slow_tls_handshake": 1}
    front.limit(tls_handshake_timeout=20, max_connections=1)
    stalled = await connect_from(front, "127.0.0.1")
    if sent:
        await stalled.send(sent)
    while not front.listener.shared.heads:
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert (await front.ask(GET)).status == 200
    assert await stalled.ended()
    assert counts(front)["made_room"] == 1


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
    await gone(front)
    assert front.kanidm.requests == []
    assert (await front.ask(GET)).status == 200
    assert not [record for record in lines.records if "unexpected" in record["msg"]]


# -- what is told of it ------------------------------------------------------------------------------------------------------


async def test_a_flood_of_refusals_is_no_flood_of_lines(front: Front, lines: Lines) -> None:
    """A thousand refusals of one kind are some ten lines of the log, each with the count so far."""
    for _ in range(300):
        assert (await front.ask(b"GET / HTTP/1.1\nHost: x\n\n")).status == 400
    assert counts(front) == {"malformed_request": 300}
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
