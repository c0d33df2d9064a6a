"""Every bound that the configuration sets: times, sizes and counts, each by its own answer."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing

from tests.front.conftest import Front, Lines
from tests.front.upstream import OK, Peer

HOST = b"Host: id.example.com\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST


async def test_slow_headers(front: Front, lines: Lines) -> None:
    """A head that does not end in header_timeout is 408, however its bytes trickle in."""
    front.limit(header_timeout=0.2)
    client = await front.connect()
    await client.send(b"GET / HTTP/1.1\r\n")

    async def trickle() -> None:
        while True:
            await client.send(b"X-A: b\r\n")
            await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        reply = await client.reply()
        nursery.cancel_scope.cancel()
    assert (reply.status, reply.one(b"connection")) == (408, b"close")
    assert [line["status"] for line in await lines.requests(1)] == [408]
    assert front.kanidm.peers == []


async def test_a_new_connection_that_says_nothing(front: Front, lines: Lines) -> None:
    """A connection without a byte ends after header_timeout, without a word and without a line."""
    front.limit(header_timeout=0.1)
    client = await front.connect()
    assert await client.ended()
    await lines.requests(0)


async def test_an_idle_connection(front: Front) -> None:
    """A kept-alive connection ends after keep_alive_timeout, and may take longer than header_timeout to come back."""
    front.limit(header_timeout=0.1, keep_alive_timeout=0.4)
    client = await front.connect()
    await client.ask(GET)
    await trio.sleep(0.2)
    assert (await client.ask(GET)).status == 200
    assert await client.ended()


async def test_a_half_head_behind_a_request(front: Front) -> None:
    """The beginning of a next request that came along with the last one has header_timeout, and not an idle client's patience."""
    front.limit(header_timeout=0.1)
    client = await front.connect()
    await client.send(GET + GET[:10])
    assert (await client.reply()).status == 200
    assert (await client.reply()).status == 408


@pytest.mark.parametrize("framing", [b"Content-Length: 100\r\n\r\nx", b"Transfer-Encoding: chunked\r\n\r\n64\r\nx"])
async def test_a_body_that_stalls(front: Front, lines: Lines, framing: bytes) -> None:
    """A body of which nothing comes for body_timeout is 408; kanidmd, where it has half of a request already, sees it end."""
    front.limit(body_timeout=0.2)
    client = await front.connect()
    reply = await client.ask(POST + framing)
    assert (reply.status, reply.one(b"connection")) == (408, b"close")
    assert [line["status"] for line in await lines.requests(1)] == [408]
    for peer in front.kanidm.peers:
        await peer.ended.wait()
    assert front.kanidm.requests == []


async def test_an_answer_that_stalls(front: Front, lines: Lines) -> None:
    """An answer of which nothing comes for body_timeout ends the client's connection."""
    front.limit(body_timeout=0.2)

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")
        await peer.gone()

    front.kanidm.script = script
    client = await front.connect()
    await client.send(GET)
    await client.until(b"hello")
    assert await client.ended()
    assert (await lines.requests(1))[0]["outcome"] == "aborted: kanidmd stopped sending"
    await front.kanidm.peers[0].ended.wait()


@pytest.mark.parametrize(
    "request_bytes",
    [GET, POST + b"Content-Length: 2\r\n\r\nhi", POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"],
    ids=["GET", "POST", "chunked"],
)
async def test_kanidmd_does_not_answer(front: Front, lines: Lines, request_bytes: bytes) -> None:
    """No answer in upstream_timeout is 504, once: a request that hangs is not asked again; the connection goes on."""
    front.limit(upstream_timeout=0.2)

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.gone()

    front.kanidm.script = script
    client = await front.connect()
    reply = await client.ask(request_bytes)
    assert reply.status == 504
    assert json.loads(reply.body)["error"]["code"] == "upstream_timeout"
    assert [line["status"] for line in await lines.requests(1)] == [504]
    await front.kanidm.peers[0].ended.wait()
    assert len(front.kanidm.peers) == 1
    front.kanidm.script = front.kanidm.keep_answering
    assert (await client.ask(GET)).status == 200


async def test_kanidmd_stops_reading_an_upload(front: Front) -> None:
    """An upload that kanidmd does not take ends in 504 after upstream_timeout, with a bounded number of bytes on their way."""
    front.limit(upstream_timeout=0.3)

    async def script(peer: Peer) -> None:
        await peer.read_until(b"\r\n\r\n")
        await trio.sleep_forever()

    front.kanidm.script = script
    client = await front.connect()
    sent = 0
    await client.send(POST + b"Content-Length: 60000000\r\n\r\n")

    async def upload() -> None:
        nonlocal sent
        while True:
            await client.send(b"x" * 65536)
            sent += 65536

    async with trio.open_nursery() as nursery:
        nursery.start_soon(upload)
        reply = await client.reply()
        nursery.cancel_scope.cancel()
    assert reply.status == 504
    assert sent < 40_000_000


async def test_slow_uploads_have_time(front: Front) -> None:
    """An upload may take longer than upstream_timeout and body_timeout together, as long as it keeps to min_rate."""
    front.limit(upstream_timeout=0.3, body_timeout=0.3, min_rate=5)
    client = await front.connect()
    await client.send(POST + b"Content-Length: 10\r\n\r\n")
    for _ in range(10):
        await trio.sleep(0.08)
        await client.send(b"x")
    assert (await client.reply()).status == 200


async def test_headers_that_are_too_large(front: Front) -> None:
    """One byte more than max_header_bytes is 431, whether in one field, in many, or in the target; the limit itself passes."""
    front.limit(max_header_bytes=2048)
    fill = 2048 - len(GET) - len(b"X: \r\n")
    fits = GET[:-2] + b"X: " + b"x" * fill + b"\r\n\r\n"
    assert len(fits) == 2048
    assert (await front.ask(fits)).status == 200
    for request in (
        GET[:-2] + b"X: " + b"x" * (fill + 1) + b"\r\n\r\n",
        GET[:-2] + b"X: y\r\n" * 400 + b"\r\n",
        b"GET /" + b"x" * 2048 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"x" * 2049,
    ):
        client = await front.connect()
        reply = await client.ask(request)
        assert (reply.status, reply.one(b"connection")) == (431, b"close")
        assert await client.ended()
    assert len(front.kanidm.requests) == 1


async def test_a_body_that_says_it_is_too_large(front: Front) -> None:
    """A Content-Length above max_body_bytes is 413 at once, and kanidmd hears nothing; the limit itself passes."""
    front.limit(max_body_bytes=10)
    client = await front.connect()
    reply = await client.ask(POST + b"Content-Length: 11\r\n\r\n")
    assert (reply.status, reply.one(b"connection")) == (413, b"close")
    assert await client.ended()
    client = await front.connect()
    reply = await client.ask(POST + b"Expect: 100-continue\r\nContent-Length: 11\r\n\r\n")
    assert reply.status == 413
    assert front.kanidm.peers == []
    assert (await front.ask(POST + b"Content-Length: 10\r\n\r\n0123456789")).status == 200


async def test_a_chunked_body_that_becomes_too_large(front: Front) -> None:
    """A chunked body is 413 as soon as it is larger than max_body_bytes, and kanidmd never gets its end."""
    front.limit(max_body_bytes=10)
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    client = await front.connect()
    reply = await client.ask(chunked + b"6\r\n012345\r\n5\r\n67890\r\n0\r\n\r\n")
    assert (reply.status, reply.one(b"connection")) == (413, b"close")
    for peer in front.kanidm.peers:
        await peer.ended.wait()
    assert front.kanidm.requests == []
    assert (await front.ask(chunked + b"6\r\n012345\r\n4\r\n6789\r\n0\r\n\r\n")).status == 200


async def test_a_413_reaches_a_client_that_goes_on_sending(front: Front) -> None:
    """The connection is not reset under a client that sends its body before it reads."""
    front.limit(max_body_bytes=10)
    client = await front.connect()
    await client.send(POST + b"Content-Length: 1000000\r\n\r\n" + b"x" * 500000)
    assert (await client.reply()).status == 413


@pytest.mark.parametrize("expectation", [b"something-else", b"100-continue, more", b"200-ok", b""])
async def test_another_expectation(front: Front, expectation: bytes) -> None:
    """An expectation that is not 100-continue cannot be met: 417 (RFC 9110 §10.1.1)."""
    reply = await front.ask(POST + b"Expect: " + expectation + b"\r\nContent-Length: 2\r\n\r\nhi")
    assert reply.status == 417
    assert front.kanidm.peers == []


async def test_connections_beyond_the_cap(front: Front, lines: Lines) -> None:
    """A connection above max_connections gets 503 with Retry-After and an honest length; when one has ended the next is served."""
    front.limit(max_connections=2)
    held = [await front.connect() for _ in range(2)]
    for client in held:
        await client.send(POST + b"Content-Length: 2\r\n\r\n")
    await front.busy(2)
    client = await front.connect()
    reply = await client.ask(GET)
    assert (reply.status, reply.one(b"retry-after"), reply.one(b"connection")) == (503, b"2", b"close")
    assert json.loads(reply.body)["error"]["code"] == "too_many_connections"
    assert front.listener.shared.refusals.counts == {"too_many_connections": 1}
    assert [record["kind"] for record in lines.records if record["msg"] == "refused"] == ["too_many_connections"]
    client.close()
    held[0].close()
    while front.listener.open > 1:
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert (await front.ask(GET)).status == 200
    await held[1].send(b"hi")
    assert (await held[1].reply()).status == 200


async def test_limits_change_for_open_connections(front: Front) -> None:
    """A reload's limits count from the next request on, on connections that are open."""
    client = await front.connect()
    assert (await client.ask(POST + b"Content-Length: 20\r\n\r\n" + b"x" * 20)).status == 200
    front.limit(max_body_bytes=10)
    assert (await client.ask(POST + b"Content-Length: 20\r\n\r\n" + b"x" * 20)).status == 413


async def test_large_heads_from_kanidmd(front: Front) -> None:
    """An answer's head of 100 KiB (cookies, policies) passes; one without end is 502."""
    front.kanidm.answer = b"HTTP/1.1 200 OK\r\nx-large: " + b"x" * 100_000 + b"\r\ncontent-length: 2\r\n\r\nok"
    assert (await front.ask(GET)).body == b"ok"
    front.kanidm.answer = b"HTTP/1.1 200 OK\r\nx-large: " + b"x" * 1_000_000
    assert (await front.ask(GET)).status == 502
    front.kanidm.answer = OK
    assert (await front.ask(GET)).status == 200
