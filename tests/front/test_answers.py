"""Answers out of the ordinary: 1xx, answers before the request has ended, malformed ones, bytes behind an answer."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import trio
import trio.testing

from kiwi_id.proxy import forwarder
from kiwi_id.proxy.exchange import Exchange
from kiwi_id.proxy.stream import Stream
from tests.front.conftest import Front, Lines
from tests.front.upstream import OK, Peer

HOST = b"Host: id.example.com\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKED_OK = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
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


async def test_an_early_answer_to_a_body_that_is_sent_at_once(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """kanidmd answers when it has seen the head and closes: of a body that is sent with the head, too, the answer is passed on."""

    async def script(peer: Peer) -> None:
        await peer.read_until(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno")
        peer.stream.transport_stream.socket.close()

    async def narrow(*where: Any) -> Stream:
        stream: Stream = await dial(*where)
        stream.option(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that it cannot all be sent before the answer comes
        return stream

    dial = front.pool._dial
    monkeypatch.setattr(front.pool, "_dial", narrow)
    front.kanidm.script = script
    client = await front.connect()
    for count in range(1, 4):
        reply = await client.ask(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 60000\r\n\r\n" + b"x" * 60000)
        assert (reply.status, reply.body) == (404, b"no")
        assert len(front.kanidm.peers) == count  # the connection that broke has not been used again
    assert front.pool.limiter.borrowed_tokens == 0


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
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        CHUNKED_OK + b"5\r\nhello\r\nzz\r\n",
        CHUNKED_OK + b"5\r\nhello\r\n0\r\ncontent-length: 5\r\n\r\n",
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

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(CHUNKED_OK + b"5\r\nhello\r\n")
        await started.wait()
        await peer.send(b"zz\r\n")

    started = trio.Event()
    front.kanidm.script = script
    client = await front.connect()
    await client.send(GET)
    assert (await client.head()).status == 200
    started.set()
    with pytest.raises((EOFError, trio.BrokenResourceError)):
        await client.reply()
    assert "aborted" in (await lines.requests(1))[0]["outcome"]
    front.kanidm.script = front.kanidm.keep_answering
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
