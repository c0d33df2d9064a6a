"""What the front says itself: probes, error pages, the canonical log line; and what it never says."""

from __future__ import annotations

import json
import re
from contextlib import suppress

import pytest
import trio
import trio.testing

from kiwi_id.proxy.exchange import Exchange
from kiwi_id.state import ChildState
from kiwi_id.web import probes as web
from tests.front.conftest import Front, Lines
from tests.front.upstream import Peer

HOST = b"Host: id.example.com\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
OK = b'{"status":"ok","upstream":"healthy"}'
DEGRADED = b'{"status":"degraded","upstream":"unhealthy"}'
# How the state machine gets to each state from READY.
WAYS = {
    ChildState.READY: (),
    ChildState.UNHEALTHY: (ChildState.UNHEALTHY,),
    ChildState.BACKOFF: (ChildState.BACKOFF,),
    ChildState.STARTING: (ChildState.BACKOFF, ChildState.STARTING),
    ChildState.RESTARTING: (ChildState.RESTARTING,),
    ChildState.STOPPING: (ChildState.STOPPING,),
    ChildState.STOPPED: (ChildState.STOPPING, ChildState.STOPPED),
    ChildState.FAILED: (ChildState.FAILED,),
}


class Probes:
    """A front with its probes, and Kanidm gone."""

    def __init__(self, front: Front) -> None:
        self.front, self.draining = front, False
        handler = web.Probes(front.status, lambda: self.draining)
        front.ours.update(dict.fromkeys(handler.paths, handler))

    async def ask(self, target: bytes, method: bytes = b"GET") -> tuple[int, bytes]:
        """Ask a probe; return status and body."""
        reply = await self.front.ask(method + b" " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n", method.decode())
        assert reply.one(b"cache-control") == b"no-store" or reply.status >= 404
        assert reply.one(b"x-request-id")
        return reply.status, reply.body.rstrip(b"\n")


@pytest.fixture
async def probes(front: Front) -> Probes:
    """The probes."""
    made = Probes(front)
    front.kanidm.stop()
    return made


@pytest.mark.parametrize("state", list(ChildState))
@pytest.mark.parametrize("draining", [False, True])
async def test_probes_in_every_state(probes: Probes, state: ChildState, draining: bool) -> None:
    """Each probe has its exact answer in each state of the child, while serving and while draining, and none asks Kanidm."""
    for step in WAYS[state]:
        probes.front.status.transition(step, "test")
    probes.draining = draining
    with trio.fail_after(5):
        assert await probes.ask(b"/livez") == (200, b'{"status":"ok"}')
        assert await probes.ask(b"/healthz") == ((200, OK) if state is ChildState.READY else (503, DEGRADED))
        status, body = await probes.ask(b"/readyz")
    serving = state in (ChildState.READY, ChildState.UNHEALTHY)
    assert status == (200 if serving and not draining else 503)
    assert json.loads(body)["status"] == ("draining" if draining else "ok" if serving else "waiting")
    assert probes.front.kanidm.peers == []


async def test_probes_by_other_means(probes: Probes) -> None:
    """HEAD has no body, POST is not allowed, a body is read and ignored, and the verbose form tells more."""
    assert await probes.ask(b"/healthz", b"HEAD") == (200, b"")
    assert (await probes.ask(b"/livez", b"POST"))[0] == 405
    reply = await probes.front.ask(b"GET /livez HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc")
    assert reply.status == 200
    details = json.loads((await probes.ask(b"/healthz?verbose"))[1])
    assert details["details"]["upstream_state"] == "ready"
    reply = await probes.front.ask(b"GET /livez HTTP/1.0\r\n\r\n")
    assert reply.one(b"x-content-type-options") == b"nosniff"
    assert reply.status == 200


async def test_a_body_that_no_probe_needs(probes: Probes) -> None:
    """A probe reads a small body and refuses a large one, also chunked."""
    client = await probes.front.connect()
    await client.send(b"POST /livez HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
    await client.send(b"110000\r\n" + b"x" * 0x110000 + b"\r\n0\r\n\r\n")
    assert (await client.reply()).status == 413


async def test_probes_on_one_connection_among_others(probes: Probes) -> None:
    """Probes and kanidmd's answers take turns on a connection, pipelined."""
    await probes.front.nursery.start(probes.front.kanidm.run)
    client = await probes.front.connect()
    live = b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"
    await client.send(live + GET + live)
    assert [(await client.reply()).body.strip() for _ in range(3)] == [b'{"status":"ok"}', b"ok", b'{"status":"ok"}']


@pytest.mark.parametrize("accept", [b"text/html", b"application/xhtml+xml, text/html;q=0.9, */*;q=0.8"])
async def test_a_browser_gets_a_page(front: Front, accept: bytes) -> None:
    """Whoever accepts text/html gets a page that runs nothing, loads nothing and cannot be framed."""
    front.limit(gate_requests=0)
    front.status.transition(ChildState.BACKOFF, "test")
    reply = await front.ask(GET[:-2] + b"Accept: " + accept + b"\r\nX-Request-Id: my-request-1\r\n\r\n")
    assert (reply.status, reply.one(b"content-type")) == (503, b"text/html; charset=utf-8")
    assert b"my-request-1" in reply.body
    assert b"default-src 'none'" in (reply.one(b"content-security-policy") or b"")
    assert not re.search(rb"<script|<link|<img|src=|href=|@import|url\(", reply.body)
    assert reply.one(b"cache-control") == b"no-store"


async def test_a_browser_gets_a_page_for_what_is_refused_unread(front: Front) -> None:
    """Also a request that is refused before it could be read whole, as one with too many cookies is, gets a page in a browser."""
    front.limit(max_header_bytes=2048)
    for request, status in (
        (b"GET / HTTP/1.1\r\n" + HOST + b"Accept: text/html\r\nCookie: " + b"x" * 3000, 431),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\naccept: text/html\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nAccept: text/html\r\n\r\n", 400),
    ):
        reply = await front.ask(request)
        assert (reply.status, reply.one(b"content-type")) == (status, b"text/html; charset=utf-8")
    assert (await front.ask(b"GET / HTTP/1.1\r\n" + HOST + b"Cookie: " + b"x" * 3000)).one(b"content-type") == b"application/json"


@pytest.mark.parametrize("accept", [b"", b"Accept: */*\r\n", b"Accept: application/json\r\n"])
async def test_a_program_gets_json(front: Front, accept: bytes) -> None:
    """Everybody else gets exactly the documented object."""
    front.limit(gate_requests=0)
    front.status.transition(ChildState.BACKOFF, "test")
    reply = await front.ask(GET[:-2] + accept + b"X-Request-Id: my-request-1\r\n\r\n")
    assert reply.one(b"content-type") == b"application/json"
    assert reply.one(b"x-content-type-options") == b"nosniff"
    answer = json.loads(reply.body)
    assert answer == {
        "error": {"code": "upstream_unavailable", "message": answer["error"]["message"]},
        "meta": {"request_id": "my-request-1"},
    }


async def test_a_bug_costs_one_request(front: Front, lines: Lines) -> None:
    """A handler that raises is 500 with nothing of the error in it; the log has it, and the server lives on."""

    async def bug(exchange: Exchange) -> None:
        raise ZeroDivisionError("a secret detail")

    front.ours[b"/bug"] = bug
    for accept in (b"*/*", b"text/html"):
        client = await front.connect()
        reply = await client.ask(b"GET /bug HTTP/1.1\r\n" + HOST + b"Accept: " + accept + b"\r\n\r\n")
        assert (reply.status, reply.one(b"connection")) == (500, b"close")
        assert b"secret detail" not in reply.body
        assert b"ZeroDivision" not in reply.body
        assert await client.ended()
    assert (await front.ask(GET)).status == 200
    assert [line["status"] for line in await lines.requests(3)] == [500, 500, 200]
    assert [line.get("outcome") for line in await lines.requests(3)] == ["internal error", "internal error", None]
    assert any("a secret detail" in text for text in lines.text)


async def test_a_bug_after_the_head(front: Front, lines: Lines) -> None:
    """A handler that raises when its answer has begun ends the connection, and the server lives on."""

    async def bug(exchange: Exchange) -> None:
        exchange.start(200, [(b"content-length", b"100")])
        exchange.write(b"begun")
        await exchange.flush()
        raise ZeroDivisionError

    front.ours[b"/bug"] = bug
    client = await front.connect()
    await client.send(b"GET /bug HTTP/1.1\r\n" + HOST + b"\r\n")
    await client.until(b"begun")
    assert await client.ended()
    assert (await front.ask(GET)).status == 200


async def test_a_handler_that_writes_too_little(front: Front, lines: Lines) -> None:
    """An answer shorter than its Content-Length ends the connection: the next answer must not be taken for its rest."""

    async def short(exchange: Exchange) -> None:
        exchange.start(200, [(b"content-length", b"100")])
        exchange.write(b"short")
        exchange.finish()

    front.ours[b"/short"] = short
    client = await front.connect()
    await client.send(b"GET /short HTTP/1.1\r\n" + HOST + b"\r\n" + GET)
    assert await client.ended()
    assert len(await lines.requests(1)) == 1


SECRETS = b"s3cr3t-query s3cr3t-cookie s3cr3t-token s3cr3t-password s3cr3t-answer s3cr3t-referer".split()
SECRETIVE = (
    b" /oauth2/authorise?code=s3cr3t-query&state=x HTTP/1.1\r\n" + HOST + b"Cookie: bearer=s3cr3t-cookie\r\n"
    b"Authorization: Bearer s3cr3t-token\r\nReferer: https://id.example.com/?code=s3cr3t-referer\r\n"
)


async def test_one_line_for_each_request(front: Front, lines: Lines) -> None:
    """Each request has one line with what is needed to find it again, and nothing that opens anything."""
    front.kanidm.answer = (
        b"HTTP/1.1 302 Found\r\nlocation: /?code=s3cr3t-answer\r\nset-cookie: a=s3cr3t-answer\r\ncontent-length: 2\r\n\r\nok"
    )
    client = await front.connect()
    await client.ask(b"POST" + SECRETIVE + b"X-Request-Id: my-request-1\r\nContent-Length: 15\r\n\r\ns3cr3t-password")
    await client.ask(b"GET" + SECRETIVE + b"\r\n")
    first, second = await lines.requests(2)
    assert {name: first[name] for name in ("method", "path", "status", "in", "out", "client", "request_id")} == {
        "method": "POST",
        "path": "/oauth2/authorise",
        "status": 302,
        "in": 15,
        "out": 2,
        "client": "127.0.0.1",
        "request_id": "my-request-1",
    }
    assert 0 <= first["upstream_ms"] <= first["ms"]
    assert re.fullmatch("[0-9a-f]{16}", second["request_id"])
    for secret in SECRETS:
        assert not [text for text in lines.text if secret.decode() in text]


async def test_no_secret_in_any_failure(front: Front, lines: Lines) -> None:
    """Refused, broken, timed out, crashed and aborted requests: still no query, cookie, token or body in any line or page."""
    front.limit(upstream_timeout=0.1, body_timeout=0.1, max_body_bytes=50, gate_timeout=0.05)

    async def bug(exchange: Exchange) -> None:
        raise RuntimeError("bug")

    async def hang(peer: Peer) -> None:
        await peer.read_request()
        await peer.gone()

    async def cut(peer: Peer) -> None:
        await peer.answer_end(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\nset-cookie: a=s3cr3t-answer\r\n\r\ns3cr3t-answer")

    async def nonsense(peer: Peer) -> None:
        await peer.answer_end(b"HTTP/1.1 200 OK\r\ns3cr3t-answer\r\n\r\n")

    async def attempt(request: bytes) -> None:
        client = await front.connect()
        await client.send(request)
        answer = b""
        with suppress(EOFError, trio.BrokenResourceError):
            await client.head()
            answer = await client.rest()
        client.close()
        for secret in SECRETS[:4] + SECRETS[5:]:
            assert secret not in answer

    front.ours[b"/bug"] = bug
    body = b"Content-Length: 15\r\nConnection: close\r\n\r\ns3cr3t-password"
    for script in (hang, cut, nonsense):
        front.kanidm.script = script
        await attempt(b"POST" + SECRETIVE + body)
    await attempt(b"POST" + SECRETIVE.replace(b"/oauth2/authorise", b"/bug") + body)
    await attempt(b"POST" + SECRETIVE + b"Expect: s3cr3t-token\r\n" + body)
    await attempt(b"POST" + SECRETIVE + b"Content-Length: 99\r\n\r\ns3cr3t-password")
    await attempt(b"POST" + SECRETIVE + b"Content-Length: 20\r\n\r\ns3cr3t-password")
    await attempt(b"POST" + SECRETIVE + b"Transfer-Encoding: chunked\r\n\r\ns3cr3t-password\r\n")
    await attempt(b"GET" + SECRETIVE + b"X: y\nz\r\n\r\n")
    await attempt(b"GET" + SECRETIVE.replace(b"HTTP/1.1", b"HTTP/1.1 s3cr3t-token") + b"\r\n")
    await attempt(b"CONNECT" + SECRETIVE + b"\r\n")
    await attempt(b"GET" + SECRETIVE.replace(HOST, b"Host: s3cr3t-token/\r\n") + b"\r\n")
    front.status.transition(ChildState.BACKOFF, "test")
    await attempt(b"GET" + SECRETIVE + b"Connection: close\r\n\r\n")
    assert len(await lines.requests(13)) == 13
    for secret in SECRETS:
        assert not [text for text in lines.text if secret.decode() in text]


async def test_a_path_of_any_kind_is_one_line(front: Front, lines: Lines) -> None:
    """A long path is cut in the log, and escapes in a path stay escapes."""
    await front.ask(b"GET /%0a%1b[31m/" + b"x" * 5000 + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await lines.requests(1))[0]["path"] == "/%0a%1b[31m/" + "x" * (256 - 12)
    assert all("\n" not in text and "\x1b" not in text for text in lines.text)
