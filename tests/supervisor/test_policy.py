"""The restart policy of Child on Trio's mock clock, over a reaper and a probe that the test drives."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import trio

from kiwi_id.child import Child, ChildSettings
from kiwi_id.errors import ChildUnavailable, ConfigError, Problem
from kiwi_id.reaper import ChildProcess, Reaper
from kiwi_id.room import Room
from kiwi_id.state import ChildState, ChildStatus

# No process has such an id, so nothing can be hit if a signal should escape.
FIRST_PID = 1 << 29
S = ChildState


@dataclass
class Life:
    """One life: it answers after ``boots`` seconds and ends by itself after ``lasts``, unless a signal ends it before."""

    boots: float = 0.0
    lasts: float = math.inf
    obeys: tuple[int, ...] = (signal.SIGTERM, signal.SIGKILL)
    output: bytes = b""
    began: float = 0.0
    ended: float = math.inf
    signals: list[tuple[float, int]] = field(default_factory=list)


class World(Reaper):
    """Stands for reaper, probe and kernel; ``lives`` are lived in order, the last one again and again."""

    def __init__(self, *lives: Life, limit: int = 5, start_timeout: float = 60.0) -> None:
        super().__init__()
        self.plan = list(lives)
        self.lives: list[Life] = []
        self.processes: list[ChildProcess] = []
        self.settings = ChildSettings(start_timeout, limit)
        self.nursery: trio.Nursery
        self.check: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.lack = ""
        self.status = ChildStatus()
        self.states: list[tuple[float, ChildState]] = []
        self.status.on_change.append(lambda: self.states.append((trio.current_time(), self.status.state)))
        self.child = Child(
            argv=self.argv,
            status=self.status,
            reaper=self,
            probe=self.probe,
            settings=lambda: self.settings,
            environ={},
            room=Room(self.look),
        )

    async def look(self) -> str:
        await trio.lowlevel.checkpoint()
        return self.lack

    async def argv(self) -> list[str]:
        await self.check()
        return ["kanidmd"]

    def spawn(self, argv: object, *, env: object, pass_fds: object = ()) -> ChildProcess:
        """Begin the next life, as Reaper.spawn does."""
        number = len(self.lives)
        template = self.plan[min(number, len(self.plan) - 1)]
        life = Life(template.boots, template.lasts, template.obeys, template.output, trio.current_time())
        read_end, write_end = os.pipe()
        os.write(write_end, life.output)
        os.close(write_end)
        process = ChildProcess(FIRST_PID + number, read_end)
        self.lives.append(life)
        self.processes.append(process)
        self.nursery.start_soon(self._live, number, life.lasts)
        return process

    async def _live(self, number: int, seconds: float) -> None:
        await trio.sleep(seconds)
        self._end(number, 1)

    def _end(self, number: int, status: int) -> None:
        process = self.processes[number]
        if not process.ended.is_set():
            process.status, self.lives[number].ended = status, trio.current_time()
            process.ended.set()

    def kill(self, pid: int, number: int) -> None:
        """Be os.kill and os.killpg."""
        life = self.lives[pid - FIRST_PID]
        life.signals.append((trio.current_time(), number))
        if number in life.obeys:
            self._end(pid - FIRST_PID, -number)

    async def probe(self) -> None:
        life = self.lives[-1]
        await trio.lowlevel.checkpoint()
        if trio.current_time() < life.began + life.boots or life.ended <= trio.current_time():
            raise OSError("refused")

    def at(self, state: ChildState) -> list[float]:
        """Return the times at which the child came into a state."""
        return [time for time, entered in self.states if entered is state]

    async def live(self, then: Callable[[], Awaitable[None]] | None = None) -> None:
        """Run the child task to its end, with ``then`` beside it; raise what it raises."""
        failure: list[ChildUnavailable | ConfigError] = []

        async def run_child() -> None:
            try:
                await self.child.run()
            except (ChildUnavailable, ConfigError) as error:
                failure.append(error)
            self.nursery.cancel_scope.cancel()

        async with trio.open_nursery() as self.nursery:
            self.nursery.start_soon(run_child)
            if then is not None:
                await then()
        if failure:
            raise failure[0]

    async def stop_after(self, seconds: float, grace: float = 20.0) -> None:
        """Ask for the stop at that time."""
        await trio.sleep(seconds)
        await self.child.stop(grace=grace)


@pytest.fixture(autouse=True)
def _kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(pid: int, number: int) -> None:
        _current[0].kill(pid, number)

    monkeypatch.setattr("kiwi_id.child.os", SimpleNamespace(kill=kill, killpg=kill, read=os.read))


_current: list[World] = []


def world(*lives: Life, limit: int = 5, start_timeout: float = 60.0) -> World:
    """Make the world that signals go to."""
    _current[:] = [World(*lives, limit=limit, start_timeout=start_timeout)]
    return _current[0]


@pytest.mark.parametrize("boots", [0, 0.001, 0.0199, 0.021, 0.18, 0.26, 0.3333, 1.7, 12.34, 59.8])
async def test_readiness_is_seen_within_100_ms(autojump_clock: object, boots: float) -> None:
    """However long kanidmd boots, the poll that finds it ready comes less than 100 ms after its first possible answer."""
    one = world(Life(boots=boots))
    await one.live(lambda: one.stop_after(100))
    [ready] = one.at(S.READY)
    assert boots <= ready - one.lives[0].began < boots + 0.1


async def test_the_first_restart_is_immediate(autojump_clock: object) -> None:
    """People wait at the gate: between the end of a life that served and the next one no time passes."""
    one = world(Life(lasts=50), Life())
    await one.live(lambda: one.stop_after(100))
    assert one.lives[1].began == one.lives[0].ended
    assert [state for _, state in one.states] == [S.STARTING, S.READY, S.BACKOFF, S.STARTING, S.READY, S.STOPPING, S.STOPPED]
    assert one.status.restarts == 1


@pytest.mark.parametrize("life", [Life(boots=9, lasts=0.2), Life(boots=0.1, lasts=0.9)], ids=["before", "just-after"])
async def test_short_lives_back_off_exponentially(autojump_clock: object, life: Life) -> None:
    """After the immediate restart 0.1 s, doubled each time up to 30 s, each 20 % up or down; then it is restarted for ever."""
    one = world(life, limit=1000)
    await one.live(lambda: one.stop_after(600))
    pauses = [after.began - before.ended for before, after in zip(one.lives, one.lives[1:], strict=False)]
    assert pauses[0] == 0
    for number, pause in enumerate(pauses[1:]):
        expected = min(0.1 * 2**number, 30.0)
        assert 0.79 * expected <= pause <= 1.21 * expected
    assert pauses[-1] > 20
    assert len(set(pauses[-8:])) > 1  # jitter


async def test_a_row_of_short_lives_gives_up(autojump_clock: object) -> None:
    """After restart_limit of them: failed, with the last words of the child in the error, and no further start."""
    one = world(Life(boots=9, lasts=0.2, output=b"broken\n"), limit=5)
    with pytest.raises(ChildUnavailable, match="ended 5 times in a row") as caught:
        await one.live()
    assert len(one.lives) == 5
    assert caught.value.output == ["broken"] * 5
    assert [state for _, state in one.states][-2:] == [S.FAILED, S.STOPPED]


async def test_a_full_disk_is_waited_for(autojump_clock: object, caplog: pytest.LogCaptureFixture) -> None:
    """Without room it is tried every half a minute, for ever, and told once; with room again at once, and counted anew."""
    one = world(*[Life(boots=9, lasts=0.2)] * 9, Life(), limit=5)
    one.lack = "the disk is full"

    async def then() -> None:
        await trio.sleep(95)
        assert one.status.state is S.BACKOFF
        assert len(one.lives) == 8
        one.lack = ""
        await one.stop_after(10)

    await one.live(then)
    pauses = [after.began - before.ended for before, after in zip(one.lives[4:], one.lives[5:], strict=False)]
    assert pauses[:3] == pytest.approx([30, 30, 30])
    assert one.lives[8].began < 97
    assert one.lives[9].ended > one.lives[9].began + 5
    assert [record.message for record in caplog.records if "cannot run" in record.message] == [
        "kanidmd cannot run; serving what needs none, and trying again"
    ]


async def test_a_broken_kanidmd_with_room_gives_up(autojump_clock: object) -> None:
    """When there is room again and it still does not live, a row of short lives gives up as ever."""
    one = world(Life(boots=9, lasts=0.2), limit=5)
    one.lack = "the disk is full"

    async def then() -> None:
        await trio.sleep(95)
        one.lack = ""

    with pytest.raises(ChildUnavailable, match="ended 5 times in a row"):
        await one.live(then)
    assert len(one.lives) == 13


async def test_a_stop_cuts_the_wait_for_room(autojump_clock: object) -> None:
    """Nobody waits for the end of a pause that is over."""
    one = world(Life(boots=9, lasts=0.2), limit=2)
    one.lack = "the disk is full"
    await one.live(lambda: one.stop_after(20.5))
    assert trio.current_time() == pytest.approx(20.5)
    assert one.status.state is S.STOPPED


async def test_a_long_life_begins_the_count_anew(autojump_clock: object) -> None:
    """One second of service is enough not to be counted: four short, one long, four short do not reach a limit of five."""
    short, long = Life(boots=9, lasts=0.1), Life(lasts=1.2)
    one = world(*[short] * 4, long, *[short] * 4, Life())
    await one.live(lambda: one.stop_after(100))
    assert len(one.lives) == 10


async def test_a_kanidmd_that_is_killed_every_few_seconds_is_restarted_for_ever(autojump_clock: object) -> None:
    """Lives that served never add up to giving up, and each restart is immediate."""
    one = world(Life(lasts=3))
    await one.live(lambda: one.stop_after(1000))
    assert len(one.lives) > 300
    assert all(after.began == before.ended for before, after in zip(one.lives, one.lives[1:], strict=False))


async def test_never_ready_at_the_first_start_gives_up_at_once(autojump_clock: object) -> None:
    """An orchestrator should hear of a broken installation after one health_check_timeout, not after five."""
    one = world(Life(boots=math.inf, output=b"hopeless\n"), start_timeout=60)
    with pytest.raises(ChildUnavailable, match=r"did not answer within health_check_timeout \(60 s\)") as caught:
        await one.live()
    assert one.lives[0].ended == one.lives[0].began + 60
    assert caught.value.output == ["hopeless"]
    assert len(one.lives) == 1


async def test_never_ready_later_is_a_short_life(autojump_clock: object) -> None:
    """Once it has served, a boot that hangs is ended after the timeout and tried again, up to the limit."""
    one = world(Life(lasts=5), Life(boots=math.inf), limit=3, start_timeout=60)
    with pytest.raises(ChildUnavailable, match="ended 3 times in a row"):
        await one.live()
    assert len(one.lives) == 4


async def test_settings_are_read_anew_for_each_decision(autojump_clock: object) -> None:
    """A reload that raises restart_limit is in force at the next short life."""
    one = world(Life(boots=9, lasts=0.05), limit=3)

    async def change() -> None:
        await trio.sleep(0.07)
        one.settings = ChildSettings(60, 6)

    with pytest.raises(ChildUnavailable, match="ended 6 times"):
        await one.live(change)


async def test_a_stop_cuts_the_pause_before_a_restart(autojump_clock: object) -> None:
    """Waiting thirty seconds to start a process that is then stopped would be absurd."""
    one = world(Life(boots=9, lasts=0.05), limit=1000)
    await one.live(lambda: one.stop_after(120))
    assert trio.current_time() == pytest.approx(120)
    assert one.status.state is S.STOPPED


async def test_a_stop_while_the_binary_is_checked_starts_nothing(autojump_clock: object) -> None:
    """The check hashes in a thread; a stop that comes meanwhile must not be followed by a start, nor by an illegal move."""
    one = world(Life(lasts=5), Life())

    async def slow() -> None:
        await trio.sleep(2)

    async def then() -> None:
        await trio.sleep(1)
        one.check = slow
        await one.stop_after(5)

    await one.live(then)
    assert len(one.lives) == 1
    assert one.status.state is S.STOPPED


async def test_a_stop_repeats_term_and_kills_at_the_end(autojump_clock: object) -> None:
    """TERM at 0, 5, 10 and 15 seconds, for a child may lose one, then KILL at the end of its grace."""
    one = world(Life(obeys=(signal.SIGKILL,)))
    await one.live(lambda: one.stop_after(10, grace=18))
    terms = [round(time - 10, 3) for time, number in one.lives[0].signals if number == signal.SIGTERM]
    assert terms == [0, 5, 10, 15]
    assert [time for time, number in one.lives[0].signals if number == signal.SIGKILL] == [28]
    assert one.lives[0].ended == 28


async def test_a_restart_kills_what_does_not_end_in_three_seconds(autojump_clock: object) -> None:
    """A hung child has had a whole health_check_timeout: TERM, three seconds, KILL, and the next life at once."""
    one = world(Life(obeys=(signal.SIGKILL,)), Life())

    async def then() -> None:
        await trio.sleep(100)
        await one.child.restart("no answer")
        await one.stop_after(10)

    await one.live(then)
    assert one.lives[0].ended == 103
    assert one.lives[1].began == 103


async def test_hang_up_reaches_a_ready_child_only(autojump_clock: object) -> None:
    """Before readiness a HUP kills kanidmd; it is not sent, and the caller is told."""
    one = world(Life(boots=5))

    async def then() -> None:
        await trio.sleep(4)
        assert one.child.hang_up() is False
        await trio.sleep(2)
        assert one.child.hang_up() is True
        await one.stop_after(1)
        assert one.child.hang_up() is False

    await one.live(then)
    assert [number for _, number in one.lives[0].signals] == [signal.SIGHUP, signal.SIGTERM]


async def test_a_refused_binary_fails_for_good(autojump_clock: object) -> None:
    """Bytes that are not the pinned ones will not become right by trying again: failed, and the check's own words."""
    one = world(Life(lasts=5))

    async def refuse() -> None:
        if one.lives:
            raise ConfigError([Problem("/bin/kanidmd", "", "other bytes", "the pin", "")])

    one.check = refuse
    with pytest.raises(ConfigError, match="other bytes"):
        await one.live()
    assert [state for _, state in one.states][-3:] == [S.BACKOFF, S.FAILED, S.STOPPED]
