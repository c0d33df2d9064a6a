"""Requests on whose meaning two parsers could disagree: refused here, on raw bytes, before kanidmd sees any of them."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing

from tests.front.conftest import Front, Lines

HOST = b"Host: id.example.com\r\n"
NEXT = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

# (what is wrong, the bytes, the status): nothing at all of these may reach kanidmd.
HEADS: list[tuple[str, bytes, int]] = [
    ("length and chunked", POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX", 400),
    ("chunked and length", POST + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nX", 400),
    ("chunked and length 0", POST + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", 400),
    ("two lengths", POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
    ("two equal lengths", POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    ("a list of lengths", POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    ("a list of two lengths", POST + b"Content-Length: 5, 6\r\n\r\nhello", 400),
    ("a signed length", POST + b"Content-Length: +5\r\n\r\nhello", 400),
    ("a negative length", POST + b"Content-Length: -5\r\n\r\nhello", 400),
    ("a hexadecimal length", POST + b"Content-Length: 0x5\r\n\r\nhello", 400),
    ("a length with a fraction", POST + b"Content-Length: 5.0\r\n\r\nhello", 400),
    ("a length with a space in it", POST + b"Content-Length: 1 0\r\n\r\nhello", 400),
    ("an underscore in a length", POST + b"Content-Length: 1_0\r\n\r\nhellohello", 400),
    ("an empty length", POST + b"Content-Length:\r\n\r\n", 400),
    ("a length of other digits", POST + "Content-Length: ５\r\n\r\nhello".encode(), 400),
    ("a length beyond 64 bits", POST + b"Content-Length: 18446744073709551617\r\n\r\nX", 400),
    ("a length of 30 digits", POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nX", 400),
    ("a space before a length's colon", POST + b"Content-Length : 5\r\n\r\nhello", 400),
    ("a tab before chunked's colon", POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400),
    ("identity", POST + b"Transfer-Encoding: identity\r\n\r\n", 501),
    ("gzip, chunked", POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    ("chunked, identity", POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 501),
    ("chunked twice", POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501),
    ("two chunked fields", POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    ("xchunked", POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    ("quoted chunked", POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', 501),
    ("chunked with a parameter", POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 501),
    ("an empty coding", POST + b"Transfer-Encoding:\r\n\r\n", 501),
    ("a vertical tab before chunked", POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    ("a bare CR before chunked", POST + b"Transfer-Encoding:\rchunked\r\n\r\n0\r\n\r\n", 400),
    ("a folded coding", POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    ("chunked in HTTP/1.0", b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("a folded field", b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b\r\n c\r\n\r\n", 400),
    ("a field folded by a tab", b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b\r\n\tc\r\n\r\n", 400),
    ("a fold as the first line", b"GET / HTTP/1.1\r\n X-A: b\r\n" + HOST + b"\r\n", 400),
    ("a bare LF after the request line", b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
    ("bare LFs throughout", b"GET / HTTP/1.1\nHost: id.example.com\n\n", 400),
    ("a bare LF at the end of the head", b"GET / HTTP/1.1\r\nHost: id.example.com\r\n\n", 400),
    ("a bare LF within a value", b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b\nX-B: c\r\n\r\n", 400),
    ("a bare CR within a value", b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b\rX-B: c\r\n\r\n", 400),
    ("a bare CR in the request line", b"GET /\rX HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("two CRs before LF", b"GET / HTTP/1.1\r\r\n" + HOST + b"\r\n", 400),
    ("a NUL in a value", b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b\x00c\r\n\r\n", 400),
    ("a NUL in a name", b"GET / HTTP/1.1\r\n" + HOST + b"X\x00A: b\r\n\r\n", 400),
    ("a DEL in a value", b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b\x7f\r\n\r\n", 400),
    ("an escape in the target", b"GET /\x1b[2J HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a line without colon", b"GET / HTTP/1.1\r\n" + HOST + b"nonsense\r\n\r\n", 400),
    ("an empty name", b"GET / HTTP/1.1\r\n" + HOST + b": value\r\n\r\n", 400),
    ("a name with a space", b"GET / HTTP/1.1\r\n" + HOST + b"X A: b\r\n\r\n", 400),
    ("a name with a bracket", b"GET / HTTP/1.1\r\n" + HOST + b"X[A]: b\r\n\r\n", 400),
    ("a name beyond ASCII", b"GET / HTTP/1.1\r\n" + HOST + b"X-\xe4: b\r\n\r\n", 400),
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", 400),
    ("two Hosts", b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    ("two Hosts in HTTP/1.0", b"GET / HTTP/1.0\r\n" + HOST + HOST + b"\r\n", 400),
    ("a Host with a path", b"GET / HTTP/1.1\r\nHost: id.example.com/x\r\n\r\n", 400),
    ("a Host with a user", b"GET / HTTP/1.1\r\nHost: user@id.example.com\r\n\r\n", 400),
    ("a Host of two words", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ("a Host with a port that is none", b"GET / HTTP/1.1\r\nHost: id.example.com:x\r\n\r\n", 400),
    ("a Host with a quote", b'GET / HTTP/1.1\r\nHost: a"b\r\n\r\n', 400),
    ("CONNECT", b"CONNECT id.example.com:443 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("CONNECT with a path", b"CONNECT / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a target that names another host", b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a target with a user", b"GET http://x@id.example.com/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a target of another scheme", b"GET ftp://id.example.com/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("an absolute target without Host", b"GET http://id.example.com/ HTTP/1.0\r\n\r\n", 400),
    ("OPTIONS *", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a relative target", b"GET index.html HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("an authority as target", b"GET id.example.com:443 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a fragment", b"GET /#x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a target beyond ASCII", b"GET /\xe4 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a space in the target", b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("two spaces in the request line", b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a tab in the request line", b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a space before the request line", b" GET / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a space after the version", b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    ("no version", b"GET /\r\n" + HOST + b"\r\n", 400),
    ("a version in lower case", b"GET / http/1.1\r\n" + HOST + b"\r\n", 400),
    ("version 1.10", b"GET / HTTP/1.10\r\n" + HOST + b"\r\n", 400),
    ("version 1.2", b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 505),
    ("version 0.9", b"GET / HTTP/0.9\r\n" + HOST + b"\r\n", 505),
    ("version 2.0", b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ("a method with a slash", b"GE/T / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
]

# Wrong only after a head that was good: kanidmd may have seen that head, but never a request that is complete.
BODIES: list[tuple[str, bytes, int]] = [
    ("a size that is none", CHUNKED + b"x\r\nabc\r\n0\r\n\r\n", 400),
    ("an empty size", CHUNKED + b"\r\nabc\r\n0\r\n\r\n", 400),
    ("a signed size", CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n", 400),
    ("a negative size", CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", 400),
    ("0x before a size", CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", 400),
    ("an underscore in a size", CHUNKED + b"1_0\r\nabcdefghijklmnop\r\n0\r\n\r\n", 400),
    ("a size beyond 64 bits", CHUNKED + b"10000000000000003\r\nabc\r\n0\r\n\r\n", 400),
    ("a space before a size", CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n", 400),
    ("a size ended by LF", CHUNKED + b"3\nabc\r\n0\r\n\r\n", 400),
    ("a chunk longer than its size", CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", 400),
    ("a chunk ended by LF", CHUNKED + b"3\r\nabc\n0\r\n\r\n", 400),
    ("a chunk ended by two other bytes", CHUNKED + b"3\r\nabcXX0\r\n\r\n", 400),
    ("a bare CR in an extension", CHUNKED + b"3;a=\rb\r\nabc\r\n0\r\n\r\n", 400),
    ("a bare LF in an extension", CHUNKED + b"3;a=\nb\r\nabc\r\n0\r\n\r\n", 400),
    ("a last chunk ended by LF", CHUNKED + b"3\r\nabc\r\n0\n\r\n", 400),
    ("trailers ended by LF", CHUNKED + b"3\r\nabc\r\n0\r\n\n", 400),
    ("a trailer ended by LF", CHUNKED + b"3\r\nabc\r\n0\r\nX-A: b\n\r\n", 400),
    ("a folded trailer", CHUNKED + b"3\r\nabc\r\n0\r\nX-A: b\r\n c\r\n\r\n", 400),
    ("a trailer without colon", CHUNKED + b"3\r\nabc\r\n0\r\nnonsense\r\n\r\n", 400),
    ("a NUL in a trailer", CHUNKED + b"3\r\nabc\r\n0\r\nX-A: \x00\r\n\r\n", 400),
]


def test_the_table_is_as_long_as_promised() -> None:
    """At least sixty malformed requests, each told apart by its name."""
    names = [name for name, _, _ in HEADS + BODIES]
    assert len(set(names)) == len(names) >= 60


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
    reply = await client.reply()
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
