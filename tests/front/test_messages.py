"""Framing: bodies and their ends in both directions, HEAD, 204, trailers, HTTP/1.0, pipelining, bytes split anywhere."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.front.conftest import Front
from tests.front.upstream import OK, Peer

HOST = b"Host: id.example.com\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
HEAD = b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKED_OK = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_head(front: Front) -> None:
    """A response to HEAD keeps the length of the GET that was not asked, and the next request on the connection works."""
    front.kanidm.answer = lambda request: b"HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n" if request.startswith(b"HEAD") else OK
    client = await front.connect()
    reply = await client.ask(HEAD, "HEAD")
    assert (reply.status, reply.one(b"content-length")) == (200, b"12345")
    assert (await client.ask(GET)).body == b"ok"
    assert len(front.kanidm.peers) == 1


async def test_head_of_an_answer_without_length(front: Front) -> None:
    """A chunked answer's HEAD has no body, no chunk and no trailer."""
    front.kanidm.answer = lambda request: CHUNKED_OK if request.startswith(b"HEAD") else OK
    client = await front.connect()
    assert (await client.ask(HEAD, "HEAD")).status == 200
    assert (await client.ask(GET)).body == b"ok"


async def test_our_own_error_in_answer_to_head(front: Front) -> None:
    """An error page has no body when it answers HEAD, only its headers; the connection goes on."""
    front.limit(gate_requests=0)
    front.status.transition(front.status.state.BACKOFF, "test")
    client = await front.connect()
    reply = await client.ask(HEAD, "HEAD")
    assert reply.status == 503
    assert int(reply.one(b"content-length") or 0) > 0
    assert (await client.ask(GET)).status == 503


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answers_that_have_no_body(front: Front, status: bytes) -> None:
    """204 and 304 end with their head, whatever a 304 says of the length of the body that it stands for."""
    extra = b"content-length: 999\r\n" if status.startswith(b"304") else b""
    front.kanidm.answer = lambda request: b"HTTP/1.1 " + status + b"\r\netag: x\r\n" + extra + b"\r\n" if b"/no" in request else OK
    client = await front.connect()
    reply = await client.ask(b"GET /no HTTP/1.1\r\n" + HOST + b"\r\n")
    assert reply.status == int(status[:3])
    assert reply.one(b"transfer-encoding") is None
    assert (await client.ask(GET)).body == b"ok"


async def test_a_chunked_answer_with_trailers(front: Front) -> None:
    """Chunks pass with their trailers; a trailer that would frame or authenticate does not."""
    front.kanidm.answer = CHUNKED_OK + b"3\r\nabc\r\n5;ext=1\r\ndefgh\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\nHost: x\r\n\r\n"
    reply = await front.ask(GET)
    assert reply.body == b"abcdefgh"
    assert list(reply.trailers) == [(b"x-sum", b"1")]


async def test_trailers_where_they_cannot_go(front: Front) -> None:
    """To an HTTP/1.0 client an answer with trailers goes without them, whole."""
    front.kanidm.answer = CHUNKED_OK + b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
    reply = await front.ask(b"GET / HTTP/1.0\r\n\r\n")
    assert (reply.status, reply.body) == (200, b"abc")


async def test_request_trailers(front: Front) -> None:
    """A request's trailers pass, except those that would frame, route or authenticate."""
    request = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    reply = await front.ask(
        request + b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nAuthorization: x\r\nHost: evil\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n"
    )
    assert reply.status == 200
    assert front.kanidm.requests[0].endswith(b"\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n")


async def test_an_answer_without_length(front: Front) -> None:
    """An answer that ends with its connection becomes chunked for HTTP/1.1, whose connection goes on."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")

    front.kanidm.script = script
    client = await front.connect()
    for _ in range(2):
        reply = await client.ask(GET)
        assert (reply.one(b"transfer-encoding"), reply.body) == (b"chunked", b"until the end")


async def test_an_answer_without_length_for_http_1_0(front: Front) -> None:
    """HTTP/1.0 gets neither chunks nor a 1xx, and the connection's end is the body's."""
    front.kanidm.answer = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + CHUNKED_OK + b"3\r\nabc\r\n0\r\n\r\n"
    client = await front.connect()
    await client.send(b"GET / HTTP/1.0\r\n" + HOST + b"\r\n")
    reply = await client.reply()
    assert reply.one(b"transfer-encoding") is None
    assert reply.body == b"abc"
    assert await client.ended()


async def test_http_1_0_without_host(front: Front) -> None:
    """HTTP/1.0 needs no Host; kanidmd gets an HTTP/1.1 request, which must have one, and the connection ends."""
    client = await front.connect()
    reply = await client.ask(b"GET /old HTTP/1.0\r\n\r\n")
    assert (reply.status, reply.body) == (200, b"ok")
    assert front.kanidm.requests[0].startswith(b"GET /old HTTP/1.1\r\nhost: \r\n")
    assert await client.ended()


async def test_connection_close_is_obeyed(front: Front) -> None:
    """After Connection: close the answer says so, and the connection ends; kanidmd's stays."""
    client = await front.connect()
    reply = await client.ask(b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    assert reply.one(b"connection") == b"close"
    assert await client.ended()
    await front.ask(GET)
    assert len(front.kanidm.peers) == 1


async def test_pipelining(front: Front) -> None:
    """Several requests in one segment, bodies among them, are answered in their order, each once."""
    front.kanidm.answer = lambda request: (
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(request.split(b" ")[1]), request.split(b" ")[1])
    )
    requests = [
        b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"POST /2 HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
        b"\r\nGET /3 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"POST /4 HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
        b"POST /5 HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\r\n\r\nDELETE /6 HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\n{}",
        b"GET /7 HTTP/1.1\r\n" + HOST + b"\r\n",
    ]
    client = await front.connect()
    await client.send(b"".join(requests))
    for number in range(1, 8):
        assert (await client.reply()).body == b"/%d" % number
    await client.finish()
    assert await client.ended()
    assert [request.split(b" ")[1] for request in front.kanidm.requests] == [b"/%d" % number for number in range(1, 8)]
    assert front.kanidm.requests[5].endswith(b"{}")


async def test_pipelined_garbage_behind_a_good_request(front: Front) -> None:
    """The good request is answered, the garbage behind it refused by itself."""
    client = await front.connect()
    await client.send(GET + b"GET / HTTP/1.1\nHost: x\n\n")
    assert (await client.reply()).status == 200
    assert (await client.reply()).status == 400
    assert await client.ended()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
        b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nX-T: 1\r\n\r\n",
    ],
    ids=["content-length", "chunked"],
)
async def test_split_at_every_byte(front: Front, request_bytes: bytes) -> None:
    """Wherever a request is cut in two, kanidmd gets the same body and the client its answer, on one connection."""
    client = await front.connect()
    for cut in range(1, len(request_bytes)):
        await client.send(request_bytes[:cut])
        await trio.testing.wait_all_tasks_blocked()
        assert (await client.ask(request_bytes[cut:])).status == 200
    assert len(front.kanidm.requests) == len(request_bytes) - 1
    for request in front.kanidm.requests:
        body = request.partition(b"\r\n\r\n")[2]
        if b"chunked" in request_bytes:
            body, _, trailers = body.partition(b"0\r\n")
            assert trailers == b"x-t: 1\r\n\r\n"
            body = b"".join(body.split(b"\r\n")[1::2])
        assert body == b"hello"


async def test_an_answer_split_at_every_byte(front: Front) -> None:
    """Wherever kanidmd's answer is cut in two, the client gets it whole."""
    answer = CHUNKED_OK + b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
    cuts = iter(range(1, len(answer)))

    async def script(peer: Peer) -> None:
        while await peer.read_request():
            cut = next(cuts)
            await peer.send(answer[:cut])
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(answer[cut:])

    front.kanidm.script = script
    client = await front.connect()
    for _ in range(1, len(answer)):
        reply = await client.ask(GET)
        assert (reply.body, list(reply.trailers)) == (b"abcde", [(b"x-t", b"1")])
