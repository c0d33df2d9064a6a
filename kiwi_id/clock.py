"""The system's clock: when somebody sets it, what is done by age waits until it has proved to be right.

A machine may begin in 1970, or a glitch of its time source may show a year ahead for a minute; keys that are removed for their age
then are gone for ever. The kernel's other clock, which nobody can set, shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from kiwi_id.logs import Log

log = Log("clock")

# A jump is what moves the clock by more than this, seconds; time sources that slew do less.
JUMP = 60.0
# How often it is looked at, seconds.
LOOK = 30.0
# How long the clock must have run on without a jump before it is believed, seconds.
PROOF = 86400.0


class Clock:
    """Watches the system's clock beside the kernel's own."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        """``steady`` also counts the time in which the machine was suspended, as ``wall`` does."""
        self._wall, self._steady = wall, steady
        self._offset = wall() - steady()
        self._jumped_at = float("-inf")

    def look(self) -> float:
        """Return by how much the clock was set since the last look, seconds; 0 when it was not. Logs a jump."""
        offset = self._wall() - self._steady()
        moved, self._offset = offset - self._offset, offset
        if abs(moved) < JUMP:
            return 0.0
        self._jumped_at = self._steady()
        log.warn(
            "the clock was set: tokens, codes and logins under way may be taken for too old or too new; no key is rotated or "
            "removed for its age until it has run on for a day",
            seconds=round(moved),
        )
        return moved

    def believed(self) -> bool:
        """Tell whether what is irrevocable may be done by this clock."""
        self.look()
        return self._steady() - self._jumped_at >= PROOF

    async def wait(self, seconds: float) -> None:
        """Sleep so long by Trio's clock, which nobody can set, and look meanwhile."""
        ends = trio.current_time() + seconds
        while (left := ends - trio.current_time()) > 0:
            await trio.sleep(min(left, LOOK))
            self.look()
