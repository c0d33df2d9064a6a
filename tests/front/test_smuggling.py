"""Requests on whose meaning two parsers could disagree: refused here, on raw bytes, before kanidmd sees any of them."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing

from tests.front.conftest import Front, Lines
from tests.front.smuggling_corpus import BODIES, CHUNKED, HEADS, HOST, NEXT, POST


def test_the_table_is_as_long_as_promised() -> None:
    """At least a hundred and fifty malformed requests, each told apart by its name and by its bytes."""
    cases = HEADS + BODIES
    assert len({name for name, _, _ in cases}) == len({request for _, request, _ in cases}) == len(cases) >= 150


@pytest.mark.parametrize(("request_bytes", "status"), [case[1:] for case in HEADS], ids=[case[0] for case in HEADS])
async def test_nothing_of_it_reaches_kanidmd(front: Front, lines: Lines, request_bytes: bytes, status: int) -> None:
    """The request is refused with its status, the connection ends, what stands behind it is not served, one line is logged."""
    client = await front.connect()
    await client.send(request_bytes + NEXT)
    reply = await client.reply()
    assert reply.status == status
    assert reply.one(b"connection") == b"close"
    answer = json.loads(reply.body)
    assert answer["error"]["code"]
    assert answer["meta"]["request_id"].encode() == reply.one(b"x-request-id")
    assert await client.ended()
    assert front.kanidm.peers == []
    assert [line["status"] for line in await lines.requests(1)] == [status]


@pytest.mark.parametrize("pause", [False, True], ids=["in one piece", "head first"])
@pytest.mark.parametrize(("request_bytes", "status"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES])
async def test_a_bad_body_is_never_complete(front: Front, request_bytes: bytes, status: int, pause: bool) -> None:
    """A body with a bad chunk is refused; kanidmd may have its head, but no end of it and nothing that stands behind it."""
    client = await front.connect()
    head, end, body = request_bytes.partition(b"\r\n\r\n")
    if pause:
        await client.send(head + end)
        await front.kanidm.arrived.wait()
        await client.send(body + NEXT)
    else:
        await client.send(request_bytes + NEXT)
    while (reply := await client.reply()).status == 100:  # the word that was asked for
        pass
    assert reply.status == status
    assert reply.one(b"connection") == b"close"
    assert await client.ended()
    for peer in front.kanidm.peers:
        await peer.ended.wait()
    assert front.kanidm.requests == []
    assert b"smuggled" not in front.kanidm.everything


async def test_a_request_hidden_in_a_body_stays_in_it(front: Front) -> None:
    """What looks like a request within a body is a body, whichever way its length is told."""
    client = await front.connect()
    await client.send(POST + b"Content-Length: %d\r\n\r\n" % len(NEXT) + NEXT)
    assert (await client.reply()).status == 200
    await client.send(CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(NEXT), NEXT))
    assert (await client.reply()).status == 200
    assert [request.partition(b" ")[0] for request in front.kanidm.requests] == [b"POST", b"POST"]
    assert all(request.count(NEXT) == 1 for request in front.kanidm.requests)


@pytest.mark.parametrize("at_a_time", [1, 2, 3])
async def test_bad_bytes_are_found_however_they_are_split(front: Front, at_a_time: int) -> None:
    """A bare LF, a fold or a control character is refused also when each byte comes by itself."""
    for bad in (b"X-A: b\nc\r\n", b"X-A: b\r\n c\r\n", b"X-A: b\x00c\r\n", b"X-A: b\rc\r\n"):
        client = await front.connect()
        request = b"GET / HTTP/1.1\r\n" + HOST + bad + b"\r\n"
        for start in range(0, len(request), at_a_time):
            try:
                await client.send(request[start : start + at_a_time])
            except trio.BrokenResourceError:
                break
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.reply()).status == 400
    assert front.kanidm.peers == []


# Requests that are whole and good, each with what must come behind it as the next request, and nothing else.
WHOLE: list[tuple[str, bytes, bytes]] = [
    (
        "an Upgrade to HTTP/2",
        b"GET /1 HTTP/1.1\r\n"
        + HOST
        + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        b"",
    ),
    (
        "an Upgrade to WebSocket",
        b"GET /1 HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAA\r\n\r\n",
        b"",
    ),
    (
        "an Upgrade with a length",
        b"POST /1 HTTP/1.1\r\n" + HOST + b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
    ),
    (
        "an Upgrade with chunks",
        b"POST /1 HTTP/1.1\r\n" + HOST + b"Upgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"hello",
    ),
    ("a GET with a body", b"GET /1 HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello", b"hello"),
    ("a HEAD with a body", b"HEAD /1 HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello", b"hello"),
    ("a length of zero", b"POST /1 HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n", b""),
    ("zeros before a length", b"POST /1 HTTP/1.1\r\n" + HOST + b"Content-Length: 0005\r\n\r\nhello", b"hello"),
    (
        "chunked in capitals",
        b"POST /1 HTTP/1.1\r\n" + HOST + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"hello",
    ),
    (
        "white space before chunked",
        b"POST /1 HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: \t chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"hello",
    ),
    (
        "sizes in capitals, with zeros before",
        b"POST /1 HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n00A\r\nhellohello\r\n000\r\n\r\n",
        b"hellohello",
    ),
    (
        "names that only look like framing",
        b"POST /1 HTTP/1.1\r\n" + HOST + b"Content_Length: 50\r\nX-Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
    ),
    (
        "a length that Connection names",
        b"POST /1 HTTP/1.1\r\n" + HOST + b"Connection: content-length\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
    ),
    ("an absolute target", b"GET http://id.example.com/1 HTTP/1.1\r\n" + HOST + b"\r\n", b""),
    ("empty lines before", b"\r\n\r\nGET /1 HTTP/1.1\r\n" + HOST + b"\r\n", b""),
]


@pytest.mark.parametrize(("request_bytes", "body"), [case[1:] for case in WHOLE], ids=[case[0] for case in WHOLE])
async def test_behind_a_whole_request_the_next_one_begins_where_it_must(front: Front, request_bytes: bytes, body: bytes) -> None:
    """What is odd, but clear, is served; what stands behind it is the next request, once; what is bad behind that is refused."""
    client = await front.connect()
    await client.send(request_bytes + b"GET /2 HTTP/1.1\r\n" + HOST + b"\r\n" + b"GET /3\n\n" + NEXT)
    method = request_bytes.split()[0].decode()
    assert (await client.reply(method)).status == 200
    assert (await client.reply()).status == 200
    assert (await client.reply()).status == 400
    assert await client.ended()
    first, second = front.kanidm.requests
    assert first.startswith(f"{method} /1 HTTP/1.1\r\n".encode())
    assert second.startswith(b"GET /2 HTTP/1.1\r\n")
    head, _, sent = first.partition(b"\r\n\r\n")
    assert b"\r\nupgrade:" not in head.lower()
    assert (b"".join(sent.split(b"\r\n")[1::2]) if b"\r\ntransfer-encoding: chunked" in head else sent) == body
    assert b"smuggled" not in front.kanidm.everything


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [case[1:] for case in HEADS[::4] + BODIES[::4]],
    ids=[case[0] for case in HEADS[::4] + BODIES[::4]],
)
async def test_a_bad_request_behind_a_good_one(front: Front, request_bytes: bytes, status: int) -> None:
    """Pipelined, the good one is answered, the bad one refused by itself, and nothing of it or behind it reaches kanidmd."""
    client = await front.connect()
    await client.send(b"GET /good HTTP/1.1\r\n" + HOST + b"\r\n" + request_bytes + NEXT)
    assert (await client.reply()).status == 200
    while (reply := await client.reply()).status == 100:
        pass
    assert (reply.status, reply.one(b"connection")) == (status, b"close")
    assert await client.ended()
    assert [request.split()[1] for request in front.kanidm.requests] == [b"/good"]
    assert b"smuggled" not in front.kanidm.everything
