"""Framing: bodies and their ends in both directions, HEAD, 204, 1xx, trailers, HTTP/1.0, pipelining, bytes split anywhere."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing

from kiwi_id.proxy import forwarder
from kiwi_id.proxy.exchange import Exchange
from tests.front.conftest import Front, Lines
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
    front.kanidm.answer = (
        CHUNKED_OK + b"3\r\nabc\r\n5;ext=1\r\ndefgh\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\nContent-Length: 3\r\n\r\n"
    )
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


async def test_an_answer_with_two_lengths(front: Front) -> None:
    """Chunked counts and Content-Length is taken out: passing both on would be our own smuggling (RFC 9112 §6.3)."""
    front.kanidm.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    client = await front.connect()
    assert (await client.ask(GET)).body == b"hello"
    assert (await client.ask(GET)).body == b"hello"


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


EXPECTING = b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"


async def test_100_continue_is_kanidmds_word(front: Front) -> None:
    """The expectation goes to kanidmd, its 100 to the client, once, and then the body follows."""

    async def script(peer: Peer) -> None:
        assert b"\r\nexpect: 100-continue\r\n" in await peer.read_until(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await peer.read_exactly(5) == b"hello"
        await peer.send(OK)

    front.kanidm.script = script
    client = await front.connect()
    assert (await client.ask(EXPECTING)).status == 100
    assert (await client.ask(b"hello")).body == b"ok"


async def test_a_final_answer_instead_of_100(front: Front) -> None:
    """A refusal comes instead of a 100, before the client has sent its body, and the connection ends: what follows is unclear."""

    async def script(peer: Peer) -> None:
        await peer.read_until(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno")
        await peer.gone()

    front.kanidm.script = script
    client = await front.connect()
    reply = await client.ask(EXPECTING)
    assert (reply.status, reply.body, reply.one(b"connection")) == (401, b"no", b"close")
    assert await client.ended()
    assert b"hello" not in front.kanidm.everything


async def test_we_say_100_when_kanidmd_does_not(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ignores the expectation does not make client and server wait for each other for ever; 103 is no such word."""
    monkeypatch.setattr(forwarder, "_CONTINUE_PATIENCE", 0.1)

    async def script(peer: Peer) -> None:
        await peer.read_until(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
        assert await peer.read_exactly(5) == b"hello"
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)

    front.kanidm.script = script
    client = await front.connect()
    assert (await client.ask(EXPECTING)).status == 103
    assert (await client.reply()).status == 100
    assert (await client.ask(b"hello")).body == b"ok"


async def test_a_client_that_does_not_wait_for_100(front: Front) -> None:
    """A body that comes without waiting is passed on all the same."""

    async def script(peer: Peer) -> None:
        await peer.read_until(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await peer.read_exactly(5) == b"hello"
        await peer.send(OK)

    front.kanidm.script = script
    client = await front.connect()
    assert (await client.ask(EXPECTING + b"hello")).status == 100
    assert (await client.reply()).body == b"ok"


async def test_100_and_final_answer_at_once(front: Front) -> None:
    """A 100 and a refusal in one segment reach the client in that order: never two senders on its connection at once."""

    async def script(peer: Peer) -> None:
        await peer.read_until(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await peer.gone()

    front.kanidm.script = script
    client = await front.connect()
    assert (await client.ask(EXPECTING)).status == 100
    assert (await client.reply()).status == 413


async def test_103_is_relayed(front: Front) -> None:
    """Early Hints reach an HTTP/1.1 client before the final answer, each of them."""
    front.kanidm.answer = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n" * 2 + OK
    client = await front.connect()
    for _ in range(2):
        reply = await client.ask(b"") if client.buffer else await client.ask(GET)
        assert (reply.status, reply.one(b"link")) == (103, b"</a.css>; rel=preload")
    assert (await client.reply()).body == b"ok"


@pytest.mark.parametrize("status", [b"401 Unauthorized", b"413 Content Too Large"])
@pytest.mark.parametrize("framing", [b"Content-Length: 10000000", b"Transfer-Encoding: chunked"])
async def test_an_early_answer_to_an_upload(front: Front, status: bytes, framing: bytes) -> None:
    """kanidmd refuses an upload that is still under way and reads no more of it: the client gets that answer, and no reset."""

    async def script(peer: Peer) -> None:
        await peer.read_until(b"\r\n\r\n")
        await peer.read_exactly(1000)
        await peer.send(b"HTTP/1.1 " + status + b"\r\ncontent-length: 2\r\n\r\nno")
        peer.stream.transport_stream.socket.close()

    front.kanidm.script = script
    client = await front.connect()
    await client.send(b"POST / HTTP/1.1\r\n" + HOST + framing + b"\r\n\r\n")
    piece = b"x" * 5000 if b"Length" in framing else b"1388\r\n" + b"x" * 5000 + b"\r\n"
    await client.send(piece)
    reply = await client.reply()
    assert (reply.status, reply.body, reply.one(b"connection")) == (int(status[:3]), b"no", b"close")
    await client.send(piece)  # it may go on for a moment without being reset
    assert await client.ended()


@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 5\r\n", b"hello"),
        (b"Transfer-Encoding: chunked\r\n", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        (b"Content-Length: 5\r\nExpect: 100-continue\r\n", b"hello"),
    ],
)
async def test_a_body_that_was_read_before_it_is_passed_on(front: Front, framing: bytes, body: bytes, pause: bool) -> None:
    """A handler may read a form and have it forwarded all the same: kanidmd gets it whole, and the connection goes on."""

    async def look(exchange: Exchange) -> None:
        seen.append(await exchange.read_body(5))
        await front.forwarder(exchange)

    seen: list[bytes] = []
    front.ours[b"/form"] = look
    client = await front.connect()
    head = b"POST /form HTTP/1.1\r\n" + HOST + framing + b"\r\n"
    if pause or b"Expect" in framing:
        await client.send(head)
        if b"Expect" in framing:
            assert (await client.reply()).status == 100
        await trio.testing.wait_all_tasks_blocked()
        await client.send(body)
    else:
        await client.send(head + body)
    assert (await client.reply()).body == b"ok"
    assert (await client.ask(GET)).body == b"ok"
    assert seen == [b"hello" if b"o" in body else b""]
    assert front.kanidm.requests[0].endswith(b"\r\n\r\n" + seen[0])


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 6\r\n\r\nhello!", b"Transfer-Encoding: chunked\r\n\r\n6\r\nhello!\r\n0\r\n\r\n"]
)
async def test_a_body_that_is_too_large_to_be_read(front: Front, framing: bytes) -> None:
    """What is larger than the handler takes is 413, and kanidmd hears nothing of it."""

    async def look(exchange: Exchange) -> None:
        await exchange.read_body(5)
        await front.forwarder(exchange)

    front.ours[b"/form"] = look
    reply = await front.ask(b"POST /form HTTP/1.1\r\n" + HOST + framing)
    assert (reply.status, reply.one(b"connection")) == (413, b"close")
    assert front.kanidm.peers == []


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 banana OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"\x16\x03\x01",
    ],
)
async def test_a_malformed_answer(front: Front, lines: Lines, answer: bytes) -> None:
    """What is no HTTP response becomes 502, and the front lives on."""

    async def script(peer: Peer) -> None:
        await peer.answer_end(answer)

    front.kanidm.script = script
    client = await front.connect()
    reply = await client.ask(b"POST / HTTP/1.1\r\n" + HOST + b"Upgrade: x\r\nContent-Length: 2\r\n\r\nhi")
    assert reply.status == 502
    assert json.loads(reply.body)["error"]["code"] == "upstream_failed"
    assert [line["status"] for line in await lines.requests(1)] == [502]
    front.kanidm.script = front.kanidm.keep_answering
    assert (await front.ask(GET)).status == 200


async def test_a_broken_chunk_in_an_answer(front: Front, lines: Lines) -> None:
    """An answer that breaks in its middle ends the client's connection, so that the client can tell."""
    front.kanidm.answer = CHUNKED_OK + b"5\r\nhello\r\nzz\r\n"
    client = await front.connect()
    await client.send(GET)
    with pytest.raises((EOFError, trio.BrokenResourceError)):
        await client.reply()
    assert "aborted" in (await lines.requests(1))[0]["outcome"]
    front.kanidm.answer = OK
    assert (await front.ask(GET)).status == 200


async def test_bytes_behind_an_answer_are_nobodys(front: Front) -> None:
    """What kanidmd sends behind its answer is not taken for the answer to the next request, which gets a connection of its own."""
    front.kanidm.answer = OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
    for _ in range(3):
        assert (await front.ask(GET)).body == b"ok"
    assert len(front.kanidm.peers) == 3


async def test_bytes_in_a_tls_record_behind_an_answer(front: Front) -> None:
    """The same when they stand in a TLS record of their own, which our TLS library holds and no poll of the socket shows."""

    async def script(peer: Peer) -> None:
        await peer.answer_end(OK)
        while await peer.read_request():
            for record in (OK, b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"):
                peer.stream._ssl_object.write(record)
            await peer.stream.transport_stream.send_all(peer.stream._outgoing.read())

    front.kanidm.script = script
    for _ in range(4):
        assert (await front.ask(GET)).body == b"ok"
    assert len(front.kanidm.peers) == 2
