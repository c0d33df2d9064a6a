"""The planned restart and clients that are slow: they get their time, and nobody else waits for it."""

from __future__ import annotations

from typing import cast

import pytest
import trio
import trio.testing

from kiwi_id.child import Child
from kiwi_id.restarter import Restart, Restarter, RestartSettings
from kiwi_id.state import ChildState
from tests.front.conftest import Front
from tests.front.upstream import Peer

HOST = b"Host: id.example.com\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
LATE = b"POST /late HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nhi"
UPLOAD = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"
LARGE = b"HTTP/1.1 200 OK\r\ncontent-length: 8000000\r\n\r\n" + b"x" * 8_000_000
# No test waits so long, seconds: what ends the wait is what is tested.
FOR_EVER = 1000.0


class Life:
    """The child as the restarter sees it: each replacement is the next life, and ends all connections of the one before."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.replacing = False
        front.status.pid = 1

    async def wait_attentive(self) -> None:
        """Be so already."""

    async def replace(self, _reason: str, *, grace: float) -> None:
        """Die and be born."""
        assert grace
        status = self.front.status
        self.replacing = True
        life = status.pid or 0
        for peer in self.front.kanidm.peers:
            peer.reset()
        status.ended()
        status.transition(ChildState.STARTING, "test")
        await trio.testing.wait_all_tasks_blocked(0.01)
        status.pid = life + 1
        status.transition(ChildState.READY, "test")
        self.replacing = False


class Scene:
    """A front whose kanidmd answers ``/late`` when it is told to, ``/large`` with much, and everything else with its life."""

    def __init__(self, front: Front, nursery: trio.Nursery) -> None:
        self.front, self.nursery = front, nursery
        self.asked, self.answer, self.over = trio.Event(), trio.Event(), trio.Event()
        self.child = Life(front)
        self.outcome: Restart
        front.kanidm.script = self

    async def __call__(self, peer: Peer) -> None:
        """Serve a connection of kanidmd's."""
        while request := await peer.read_request():
            if b"/late" in request:
                self.asked.set()
                await self.answer.wait()
            body = b"life %d" % (self.front.status.pid or 0)
            await peer.send(
                LARGE if b"/large" in request else b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
            )

    def restart(self, drain_timeout: float) -> None:
        """Begin a restart; ``over`` is set when it has come to its end."""
        settings = RestartSettings(drain_timeout, 10)
        restarter = Restarter(
            child=cast("Child", self.child),
            status=self.front.status,
            gate=self.front.gate,
            pool=self.front.pool,
            settings=lambda: settings,
        )

        async def run() -> None:
            self.outcome = await restarter.restart("test")
            self.over.set()

        self.nursery.start_soon(run)

    async def waiting(self, count: int) -> None:
        """Wait until so many requests wait at the gate."""
        while self.front.gate.waiting != count:
            await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
def scene(front: Front, nursery: trio.Nursery) -> Scene:
    """The scene."""
    return Scene(front, nursery)


async def test_what_is_slow_ends_before_anybody_is_held(front: Front, scene: Scene) -> None:
    """While an upload comes to its end everything else is served by the old kanidmd; only the next upload waits for the new one."""
    first, second = await front.connect(), await front.connect()
    await first.send(UPLOAD)
    await front.kanidm.arrived.wait()
    scene.restart(FOR_EVER)
    await trio.testing.wait_all_tasks_blocked()
    await second.send(UPLOAD + b"0\r\n\r\n")
    await scene.waiting(1)
    for request in (GET, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nhi"):
        assert (await front.ask(request)).body == b"life 1"
    await first.send(b"0\r\n\r\n")
    assert (await first.reply()).body == b"life 1"
    assert (await second.reply()).body == b"life 2"
    await scene.over.wait()
    assert (scene.outcome.ok, scene.outcome.cut) == (True, 0)


async def test_an_upload_that_does_not_end_is_cut_alone(front: Front, scene: Scene) -> None:
    """It has had its time, and is the only one that loses anything: 502, and those that came meanwhile are served."""
    slow = await front.connect()
    await slow.send(UPLOAD)
    await front.kanidm.arrived.wait()
    scene.restart(0.2)
    while (body := (await front.ask(GET)).body) != b"life 2":
        assert body == b"life 1"
    assert (await slow.reply()).status == 502
    await scene.over.wait()
    assert (scene.outcome.ok, scene.outcome.cut) == (True, 1)


async def test_a_reader_that_comes_late_holds_nobody_for_long(front: Front, scene: Scene) -> None:
    """A client that stops reading after the restart began is not waited for like those that kanidmd works for."""
    late = await front.connect()
    await late.send(LATE)
    await scene.asked.wait()
    scene.restart(FOR_EVER)
    await trio.testing.wait_all_tasks_blocked()
    await front.reader(b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n")
    while not any(place.held_up for place in front.pool.places()):
        await trio.testing.wait_all_tasks_blocked()
    scene.answer.set()
    assert (await late.reply()).body == b"life 1"
    await scene.over.wait()
    assert (scene.outcome.ok, scene.outcome.cut) == (True, 1)


async def test_the_gate_does_not_fill_for_the_sake_of_one(front: Front, scene: Scene) -> None:
    """When half of what may wait is waiting, what kanidmd takes its time over is cut: else the next to come would be refused."""
    front.limit(gate_requests=4)
    late = await front.connect()
    await late.send(LATE)
    await scene.asked.wait()
    scene.restart(FOR_EVER)
    await trio.testing.wait_all_tasks_blocked()
    others = [await front.connect() for _ in range(2)]
    for client in others:
        await client.send(UPLOAD + b"0\r\n\r\n")
    assert [(await client.reply()).body for client in others] == [b"life 2"] * 2
    assert (await late.reply()).status == 502
    await scene.over.wait()
    assert (scene.outcome.ok, scene.outcome.cut) == (True, 1)


async def test_a_kanidmd_that_dies_meanwhile_ends_the_wait(front: Front, scene: Scene) -> None:
    """Before the hold as well: what was in flight has lost its kanidmd, and the next one is what was asked for."""
    late = await front.connect()
    await late.send(LATE)
    await scene.asked.wait()
    scene.restart(FOR_EVER)
    await trio.testing.wait_all_tasks_blocked()
    await scene.child.replace("crashed", grace=1)
    await scene.over.wait()
    assert (scene.outcome.ok, scene.outcome.cut, scene.outcome.pid) == (True, 0, 2)
    assert (await late.reply()).status == 502
    assert (await front.ask(UPLOAD + b"0\r\n\r\n")).body == b"life 2"
