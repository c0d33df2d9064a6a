"""When a connection has been silent for too long: thousands of deadlines, kept by one task.

Nearly no wait for a client or for kanidmd meets its deadline, and each request has two. A ``trio.CancelScope`` for each took a
seventh of what a request cost (docs/measurements.md). Here a deadline is a place in a set of those that fall due together; it is
met up to a tick late, which nobody notices who waits for seconds.
"""

from __future__ import annotations

import heapq
from typing import Protocol

import trio

# Deadlines that fall due within so many seconds of each other are rung together.
TICK = 0.025


class Sleeper(Protocol):
    """One that can be told that its time is up."""

    def ring(self) -> None:
        """End the wait."""


class Alarms:
    """All deadlines of one Trio run: :meth:`set` them, :meth:`cancel` them, be rung."""

    def __init__(self) -> None:
        self._due: dict[int, set[Sleeper]] = {}
        self._ticks: list[int] = []  # a heap of the keys of _due
        self._sleep = trio.CancelScope()

    def set(self, sleeper: Sleeper, deadline: float) -> int:
        """Ring ``sleeper`` at ``deadline`` (of Trio's clock) or up to a tick later; return what cancels that."""
        tick = int(max(deadline, 0.0) / TICK) + 1
        due = self._due.get(tick)
        if due is None:
            due = self._due[tick] = set()
            heapq.heappush(self._ticks, tick)
            if self._ticks[0] == tick:
                self._sleep.deadline = tick * TICK
        due.add(sleeper)
        return tick

    def cancel(self, sleeper: Sleeper, tick: int) -> None:
        """Do not ring ``sleeper`` at ``tick``, if that is still to come. An empty tick stays until it is due: that is soon."""
        due = self._due.get(tick)
        if due is not None:
            due.discard(sleeper)

    async def run(self) -> None:
        """Ring, for ever."""
        while True:
            with trio.CancelScope(deadline=self._ticks[0] * TICK if self._ticks else float("inf")) as self._sleep:
                await trio.sleep_forever()
            now = trio.current_time()
            while self._ticks and self._ticks[0] * TICK <= now:
                for sleeper in self._due.pop(heapq.heappop(self._ticks)):
                    sleeper.ring()


_CURRENT: trio.lowlevel.RunVar[Alarms | None] = trio.lowlevel.RunVar("kiwi_id.alarms", default=None)


def current() -> Alarms:
    """Return the alarms of this Trio run; the first call starts their task, which ends with the run."""
    alarms = _CURRENT.get()
    if alarms is None:
        alarms = Alarms()
        _CURRENT.set(alarms)
        trio.lowlevel.spawn_system_task(alarms.run)
    return alarms
