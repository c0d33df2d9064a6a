"""While kanidmd is away: what waits, what is refused, what is asked again, and what never is."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing

from kiwi_id.proxy import connection, forwarder
from kiwi_id.proxy.caller import Answer, Caller, Unavailable
from kiwi_id.state import ChildState
from tests.front.conftest import Front, Lines
from tests.front.upstream import OK, Peer

HOST = b"Host: id.example.com\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello"


async def down(front: Front) -> None:
    """Let kanidmd end and be noticed, as the child task does it."""
    front.kanidm.stop()
    front.status.transition(ChildState.BACKOFF, "test")
    front.status.ended()


async def up(front: Front) -> None:
    """Let kanidmd serve again."""
    await front.nursery.start(front.kanidm.run)
    front.status.transition(ChildState.STARTING, "test")
    front.status.transition(ChildState.READY, "test")


async def waiting(front: Front, count: int) -> None:
    """Wait until so many requests stand at the gate."""
    while front.gate.waiting != count:
        await trio.testing.wait_all_tasks_blocked(0.005)


@pytest.mark.parametrize(
    "request_bytes",
    [GET, POST, b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
    ids=["GET", "POST", "chunked"],
)
async def test_a_request_waits_while_kanidmd_starts(front: Front, lines: Lines, request_bytes: bytes) -> None:
    """A request of any kind that comes in between is served when kanidmd is back, as if nothing had been."""
    await down(front)
    client = await front.connect()
    await client.send(request_bytes)
    await waiting(front, 1)
    await up(front)
    reply = await client.reply()
    assert (reply.status, reply.body, front.gate.waiting) == (200, b"ok", 0)
    assert len(front.kanidm.requests) == 1
    assert b"hello" in front.kanidm.requests[0] or request_bytes is GET
    assert "waited_ms" in (await lines.requests(1))[0]


async def test_waiting_has_an_end(front: Front) -> None:
    """After gate_timeout a request gets 503 with Retry-After; a browser's page tries again by itself."""
    front.limit(gate_timeout=0.1)
    await down(front)
    reply = await front.ask(GET)
    assert (reply.status, reply.one(b"retry-after")) == (503, b"2")
    assert json.loads(reply.body)["error"]["code"] == "upstream_unavailable"
    reply = await front.ask(GET[:-2] + b"Accept: text/html\r\n\r\n")
    assert (reply.status, reply.one(b"refresh")) == (503, b"2")
    assert b"tries again by itself" in reply.body


async def test_waiting_ends_when_kanidmd_is_given_up(front: Front) -> None:
    """A request that waits is refused as soon as the child has failed for good, and does not wait out its time."""
    await down(front)
    client = await front.connect()
    await client.send(GET)
    await waiting(front, 1)
    front.status.transition(ChildState.FAILED, "test")
    front.status.transition(ChildState.STOPPED, "test")
    with trio.fail_after(5):
        assert (await client.reply()).status == 503


async def test_only_so_many_wait(front: Front) -> None:
    """Beyond gate_requests a request is refused at once, those that wait are served."""
    front.limit(gate_requests=2)
    await down(front)
    held = [await front.connect() for _ in range(2)]
    for client in held:
        await client.send(GET)
    await waiting(front, 2)
    assert (await front.ask(GET)).status == 503
    await up(front)
    for client in held:
        assert (await client.reply()).status == 200


async def test_only_so_many_bytes_wait(front: Front) -> None:
    """Beyond gate_bytes a request is refused at once, however few wait; room that is given back is taken again."""
    front.limit(gate_bytes=200_000)
    await down(front)
    large = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 150000\r\n\r\n"
    held = await front.connect()
    await held.send(large)
    await waiting(front, 1)
    assert (await front.ask(large)).status == 503
    small = await front.connect()
    await small.send(GET)
    await waiting(front, 2)
    await up(front)
    assert (await small.reply()).status == 200
    await held.send(b"x" * 150_000)
    assert (await held.reply()).status == 200
    assert front.gate.held == 0


async def test_the_issuers_own_requests_wait_in_the_same_places(front: Front) -> None:
    """What the issuer asks kanidmd waits as well, counts as any other, and is refused when there is no place."""
    front.limit(gate_requests=1)
    call = Caller(front.pool, front.gate, lambda: front.settings)
    await down(front)
    answers: list[Answer] = []

    async def ask() -> None:
        answers.append(await call("POST", "/oauth2/token", [], b"hello"))

    front.nursery.start_soon(ask)
    await waiting(front, 1)
    with pytest.raises(Unavailable) as refused:
        await call("GET", "/v1/self", [])
    assert not refused.value.uncertain
    assert (await front.ask(GET)).status == 503
    await up(front)
    while not answers:
        await trio.testing.wait_all_tasks_blocked(0.005)
    assert (answers[0].body, front.gate.waiting, front.gate.held) == (b"ok", 0, 0)


async def test_the_issuers_own_requests_end_waiting_in_time(front: Front) -> None:
    """After gate_timeout the issuer is told that kanidmd is not ready."""
    front.limit(gate_timeout=0.05)
    await down(front)
    with pytest.raises(Unavailable, match="not ready"):
        await Caller(front.pool, front.gate, lambda: front.settings)("GET", "/v1/self", [])


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_issuers_own_requests_are_not_sent_twice(front: Front, method: str) -> None:
    """A GET of the issuer whose connection died is asked once more; a POST is not, and is said to be uncertain."""
    call = Caller(front.pool, front.gate, lambda: front.settings)
    stale = Stale(front)
    front.kanidm.script = stale
    await call("GET", "/status", [])
    front.kanidm.script = front.kanidm.keep_answering
    if method == "GET":
        assert (await call(method, "/status", [])).status == 200
    else:
        with pytest.raises(Unavailable) as lost:
            await call(method, "/oauth2/token", [], b"hello")
        assert lost.value.uncertain
    assert stale.seen == 1


@pytest.mark.parametrize("state", [ChildState.STOPPING, ChildState.FAILED])
async def test_nobody_waits_for_the_end(front: Front, state: ChildState) -> None:
    """When kanidmd will not come back, nobody is let wait for it."""
    front.status.transition(state, "test")
    with trio.fail_after(5):
        assert (await front.ask(GET)).status == 503


@pytest.mark.parametrize("request_bytes", [GET, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 500000\r\n\r\nx"])
@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_a_client_that_leaves_makes_room(
    front: Front, request_bytes: bytes, leave: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that leaves while it waits, also with a body half sent, gives its place back and is not asked for later."""
    monkeypatch.setattr(connection, "HALF_CLOSE_GRACE", 0.1)
    await down(front)
    client = await front.connect()
    await client.send(request_bytes)
    await waiting(front, 1)
    with trio.move_on_after(2 * forwarder.UNATTENDED):
        await trio.sleep_forever()
    getattr(client, leave)()
    await waiting(front, 0)
    await up(front)
    assert (await front.ask(GET)).status == 200
    assert len(front.kanidm.requests) == 1


async def test_a_long_body_waits_without_being_held(front: Front) -> None:
    """While a request waits, a bounded part of its body is taken, and all of it afterwards."""
    await down(front)
    client = await front.connect()
    size = 8_000_000
    await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, b"x" * size)
        await waiting(front, 1)
        with trio.move_on_after(3 * forwarder.UNATTENDED):
            await trio.sleep_forever()
        assert sum(len(open_one.buffer) for open_one in front.listener.connections) < 300_000
        await up(front)
        assert (await client.reply()).status == 200
    assert len(front.kanidm.requests[0]) > size


class Stale:
    """kanidmd answers one request on a connection and dies in the face of the second."""

    def __init__(self, front: Front, *, always: bool = False) -> None:
        self.front, self.always = front, always
        self.seen = 0

    async def __call__(self, peer: Peer) -> None:
        """Serve a connection."""
        first = not self.always and bool(await self.front.kanidm.answer_one(peer))
        while await peer.read_request():
            self.seen += 1
            if first or self.always:
                return
            await peer.send(OK)


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_a_get_is_asked_again_once(front: Front, method: bytes) -> None:
    """A GET whose kept-alive connection ends instead of an answer is asked again on a new one; the client sees nothing of it."""
    stale = Stale(front)
    front.kanidm.script = stale
    client = await front.connect()
    assert (await client.ask(GET)).status == 200
    front.kanidm.script = front.kanidm.keep_answering
    front.kanidm.answer = OK if method == b"GET" else OK[:-2]
    assert (await client.ask(method + GET[3:], method.decode())).status == 200
    assert (stale.seen, len(front.kanidm.peers)) == (1, 2)


async def test_a_get_is_not_asked_a_third_time(front: Front) -> None:
    """When the second connection ends as well, it is 502: two tries in all."""
    front.kanidm.script = stale = Stale(front, always=True)
    assert (await front.ask(GET)).status == 502
    assert (stale.seen, len(front.kanidm.peers)) == (2, 2)


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST,
        POST.replace(b"POST", b"PUT"),
        POST.replace(b"POST", b"DELETE"),
        POST.replace(b"POST", b"PATCH"),
        POST.replace(b"POST", b"GET"),
        b"DELETE / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
async def test_what_may_change_something_is_never_sent_twice(front: Front, request_bytes: bytes) -> None:
    """Whatever may have reached kanidmd and is not a plain GET or HEAD is 502 and counted once at kanidmd."""
    stale = Stale(front)
    front.kanidm.script = stale
    client = await front.connect()
    assert (await client.ask(GET)).status == 200
    assert (await client.ask(request_bytes)).status == 502
    assert (stale.seen, len(front.kanidm.peers)) == (1, 1)


async def test_a_connection_that_has_ended_while_idle_is_not_used(front: Front) -> None:
    """An idle connection whose end has come is noticed before a POST is lost on it."""

    async def once(peer: Peer) -> None:
        await front.kanidm.answer_one(peer)
        if len(front.kanidm.peers) == 1:
            return
        await front.kanidm.keep_answering(peer)

    front.kanidm.script = once
    assert (await front.ask(GET)).status == 200
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert (await front.ask(POST)).status == 200
    assert len(front.kanidm.peers) == 2


async def test_kanidmd_refuses_connections(front: Front, lines: Lines) -> None:
    """Before its end is noticed: any request is tried a few times, then 503 with Retry-After, because nothing was sent."""
    front.kanidm.stop()
    for request in (GET, POST):
        reply = await front.ask(request)
        assert (reply.status, reply.one(b"retry-after")) == (503, b"2")
    assert all("cannot connect" in str(line["upstream_error"]) for line in await lines.requests(2))
    assert front.kanidm.peers == []
    assert front.pool.limiter.borrowed_tokens == 0


async def test_a_refused_connection_leads_to_the_gate(front: Front) -> None:
    """When kanidmd's end is noticed after a first try was refused, the request waits at the gate, also a POST, and is served."""
    front.kanidm.stop()
    client = await front.connect()
    await client.send(POST)
    await trio.testing.wait_all_tasks_blocked()
    await down(front)
    await waiting(front, 1)
    await up(front)
    assert (await client.reply()).status == 200
    assert len(front.kanidm.requests) == 1


@pytest.mark.parametrize("inner", [False, True], ids=["a client's", "the issuer's"])
async def test_a_kanidmd_that_takes_its_time_to_end(front: Front, inner: bool) -> None:
    """A GET that two connections of a dying kanidmd have lost waits for its end, and is served by the next one."""
    front.kanidm.script = stale = Stale(front, always=True)
    status: list[int] = []

    async def ask() -> None:
        if inner:
            answer = await Caller(front.pool, front.gate, lambda: front.settings)("GET", "/v1/self", [])
            status.append(answer.status)
        else:
            status.append((await front.ask(GET)).status)

    front.status.pid = 1
    front.nursery.start_soon(ask)
    while stale.seen < 2:
        await trio.testing.wait_all_tasks_blocked(0.005)
    front.kanidm.script = front.kanidm.keep_answering
    await down(front)
    await waiting(front, 1)
    await up(front)
    while not status:
        await trio.testing.wait_all_tasks_blocked(0.005)
    assert (status, stale.seen) == ([200], 2)


async def test_a_crash_under_a_get(front: Front) -> None:
    """A GET that was in progress when kanidmd crashed is asked again when it is back; the POST beside it is 502."""

    async def silent(peer: Peer) -> None:
        await peer.read_request()
        front.kanidm.requests.append(b"seen")
        await peer.gone()

    front.kanidm.script = silent
    reader, writer = await front.connect(), await front.connect()
    await reader.send(GET)
    await writer.send(POST)
    while len(front.kanidm.requests) < 2:
        await trio.testing.wait_all_tasks_blocked(0.005)
    front.kanidm.script = front.kanidm.keep_answering
    await down(front)
    assert (await writer.reply()).status == 502
    await waiting(front, 1)
    await up(front)
    assert (await reader.reply()).status == 200
