"""The watchdog and the keep-alive on Trio's mock clock."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import pytest
import trio

from kiwi_id import notify, watchdog
from kiwi_id.kanidm.probe import ProbeFailed
from kiwi_id.state import ChildState, ChildStatus
from kiwi_id.watchdog import WatchdogSettings

S = ChildState


class Watched:
    """A child that the test makes well, silent or slow; ``restarts`` are the times at which the watchdog had it restarted."""

    def __init__(self, interval: float, timeout: float) -> None:
        self.status = ChildStatus()
        self.settings = WatchdogSettings(interval, timeout)
        self.answers = True
        self.probes: list[float] = []
        self.restarts: list[float] = []
        self.restarted = trio.Event()
        self.pid = 100
        self.begin()

    def begin(self) -> None:
        """Begin a life that is ready at once."""
        self.pid += 1
        self.status.pid = self.pid
        self.status.transition(S.STARTING, "test")
        self.status.transition(S.READY, "test")

    async def probe(self, seconds: float) -> None:
        self.probes.append(trio.current_time())
        if not self.answers:
            await trio.sleep(seconds)  # a hung child costs each probe its whole deadline
            raise ProbeFailed("no answer")
        await trio.lowlevel.checkpoint()

    async def restart(self, _reason: str) -> None:
        self.restarts.append(trio.current_time())
        self.restarted.set()
        self.status.transition(S.BACKOFF, "test")
        await trio.sleep(50)  # however long that takes, it is no time in which it did not answer
        self.begin()

    async def during(self, script: Callable[[], Awaitable[None]]) -> None:
        """Run the watchdog while ``script`` runs."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: watchdog.watch(status=self.status, probe=self.probe, restart=self.restart, settings=lambda: self.settings)
            )
            await script()
            nursery.cancel_scope.cancel()


async def test_probes_come_every_interval(autojump_clock: object) -> None:
    """A child that answers is asked once an interval and left alone."""
    watched = Watched(5, 60)

    async def script() -> None:
        await trio.sleep(102)

    await watched.during(script)
    assert watched.probes == [5.0 * number for number in range(1, 21)]
    assert watched.restarts == []


@pytest.mark.parametrize("doubted", [False, True])
async def test_a_child_that_does_not_listen_any_more_is_replaced_at_once(autojump_clock: object, doubted: bool) -> None:
    """Two refused connections are enough, and nothing is sent to it from then on; a doubt brings the first of them forward."""
    watched = Watched(5, 60)

    async def refuse(_seconds: float) -> None:
        watched.probes.append(trio.current_time())
        if len(watched.probes) > 1:
            raise ProbeFailed("refused", refused=True)

    watched.probe = refuse  # type: ignore[method-assign, assignment]
    states: list[S] = []
    watched.status.on_change.append(lambda: states.append(watched.status.state))

    async def script() -> None:
        await trio.sleep(6)
        if doubted:
            watched.status.doubt()
        await watched.restarted.wait()

    await watched.during(script)
    assert watched.probes == pytest.approx([5, 6, 6.2] if doubted else [5, 10, 10.2])
    assert watched.restarts == pytest.approx([6.2 if doubted else 10.2])
    assert S.RESTARTING in states


async def test_one_refused_connection_is_no_reason(autojump_clock: object) -> None:
    """A kanidmd that answers the next probe is left alone."""
    watched = Watched(5, 60)

    async def refuse(_seconds: float) -> None:
        watched.probes.append(trio.current_time())
        if len(watched.probes) % 2:
            raise ProbeFailed("refused", refused=True)

    watched.probe = refuse  # type: ignore[method-assign, assignment]

    async def script() -> None:
        await trio.sleep(60)

    await watched.during(script)
    assert watched.restarts == []
    assert watched.status.state is S.READY


@pytest.mark.parametrize(("interval", "timeout"), [(5, 60), (1, 1), (0.2, 1), (30, 45)])
async def test_silence_for_the_timeout_restarts(autojump_clock: object, interval: float, timeout: float) -> None:
    """Restarted when the timeout is over: not before, and at most the least time of one probe after it."""
    watched = Watched(interval, timeout)

    async def script() -> None:
        await trio.sleep(interval * 4.5)
        watched.answers = False
        await watched.restarted.wait()
        watched.answers = True
        await trio.sleep(100)

    await watched.during(script)
    [restarted] = watched.restarts
    due = interval * 4 + timeout
    assert due - 0.01 <= restarted <= due + watchdog.LAST_PROBE
    assert watched.status.state is S.READY


async def test_an_answer_in_time_makes_it_healthy_again(autojump_clock: object) -> None:
    """Silent for less than the timeout: unhealthy meanwhile, then ready, and the count begins anew."""
    watched = Watched(5, 60)
    seen: list[ChildState] = []
    watched.status.on_change.append(lambda: seen.append(watched.status.state))

    async def script() -> None:
        for _ in range(5):
            watched.answers = False
            await trio.sleep(40)
            watched.answers = True
            await trio.sleep(20)

    await watched.during(script)
    assert seen == [S.UNHEALTHY, S.READY] * 5
    assert watched.restarts == []


async def test_a_probe_of_an_earlier_life_says_nothing_of_the_next(autojump_clock: object) -> None:
    """The child ends and comes back while a probe waits for its deadline: the new life stays ready."""
    watched = Watched(5, 60)

    async def script() -> None:
        watched.answers = False
        await trio.sleep(6)  # the probe of second 5 waits until 9.5
        watched.status.transition(S.BACKOFF, "test")
        watched.answers = True
        watched.begin()
        await trio.sleep(4)
        assert watched.status.state is S.READY

    await watched.during(script)


async def test_time_without_a_serving_child_does_not_count(autojump_clock: object) -> None:
    """An hour of starting and backoff is the child task's business: the watchdog neither probes nor restarts."""
    watched = Watched(5, 60)

    async def script() -> None:
        watched.status.transition(S.BACKOFF, "test")
        await trio.sleep(3600)
        watched.begin()
        await trio.sleep(7)

    await watched.during(script)
    assert len(watched.probes) == 1
    assert watched.restarts == []


async def test_a_reload_changes_interval_and_timeout(autojump_clock: object) -> None:
    """The settings are read anew: a shorter interval is in force after the pause that runs."""
    watched = Watched(100, 1000)

    async def script() -> None:
        await trio.sleep(150)
        watched.settings = WatchdogSettings(1, 2)
        await trio.sleep(60)

    await watched.during(script)
    assert watched.probes[:2] == [100, 200]
    assert watched.probes[2:4] == [201, 202]


async def test_the_keep_alive_comes_three_times_a_period_and_only_after_a_probe(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answered: three a period. Refused, or without an answer: none."""
    notifier = notify.Notifier({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "30000000"})
    sent: list[float] = []
    monkeypatch.setattr(notifier, "keep_alive", lambda: sent.append(trio.current_time()))
    takes, answer = 0.01, True

    async def probe() -> bool:
        await trio.sleep(takes)
        return answer

    async with trio.open_nursery() as nursery:
        nursery.start_soon(notify.keep_alive, notifier, probe)
        await trio.sleep(59)
        assert len(sent) == 6
        answer = False
        await trio.sleep(60)
        assert len(sent) == 6
        takes, answer = math.inf, True
        await trio.sleep(60)
        assert len(sent) == 6
        takes = 0.01
        await trio.sleep(60)
        assert len(sent) == 12
        nursery.cancel_scope.cancel()


async def test_no_keep_alive_without_a_watchdog() -> None:
    """Without WATCHDOG_USEC the task returns, and no probe disturbs the listener."""

    async def probe() -> bool:
        raise AssertionError("probed")

    await notify.keep_alive(notify.Notifier({}), probe)
