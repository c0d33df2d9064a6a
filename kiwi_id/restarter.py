"""The planned restart: another kanidmd in place of the one that runs, and no request lost over it.

    what is in flight ends ── hold ── logins in progress go on, for a moment ── drain ── TERM ── start ── release

kanidmd does not drain: a TERM ends every request that it has (server/core/src/https/mod.rs leaves its accept loop, and the runtime
goes). So nothing may be in flight when the TERM is sent. Requests that come meanwhile wait at the gate and are served by the next.

A hold for as long as anything is in flight would let one client that sends or reads slowly keep everybody waiting, until the gate
is full. So what was in flight when the restart began gets its time before the hold, while others are served; only new uploads wait
from the beginning, because they would be what is slow next. During the hold everybody waits, and nobody is waited for long who is
held up by nothing but a client.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import trio

from kiwi_id.child import HUNG_GRACE, Child
from kiwi_id.logs import Log
from kiwi_id.proxy.gate import Gate
from kiwi_id.proxy.pool import Place, Pool
from kiwi_id.state import ChildState, ChildStatus

log = Log("restarter")

# A login that kanidmd has in memory dies with it (its cookie key is made at each start, server/core/src/lib.rs). Those that a
# program carries out step by step are let through to their end: until nothing has been asked for the one time, at most the other.
LOGIN_QUIET = 0.25
LOGIN_GRACE = 2.0
# How long everybody is held, seconds, for what came since the restart began and waits for nothing but its own client; and for what
# kanidmd takes its time over when the gate is half full, because the next to come would be refused.
CLIENT_GRACE = 1.0
CROWDED_GRACE = 0.5
_POLL = 0.005


@dataclass(frozen=True, slots=True)
class Restart:
    """What a planned restart did. ``held_ms``: how long requests were held; ``cut``: requests that did not end in time."""

    ok: bool
    held_ms: int = 0
    cut: int = 0
    pid: int | None = None
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RestartSettings:
    """Times in seconds: how long requests in flight may take to end, half of it before the hold; and kanidmd to start."""

    drain_timeout: float
    start_timeout: float


class Restarter:
    """Restarts the child in order; one restart at a time. What must be right before it is the caller's to check."""

    def __init__(
        self, *, child: Child, status: ChildStatus, gate: Gate, pool: Pool, settings: Callable[[], RestartSettings]
    ) -> None:
        self._child, self._status, self._gate, self._pool, self._settings = child, status, gate, pool, settings
        self._held_since = 0.0
        self._one_at_a_time = trio.Lock()

    async def restart(self, reason: str) -> Restart:
        """Restart the child and return when the next one serves, or does not come in time. Never raises for a child that fails."""
        async with self._one_at_a_time:
            settings = self._settings()
            with trio.move_on_after(settings.start_timeout):
                await self._status.wait_serving()
                await self._child.wait_attentive()
            if not self._status.serving:
                return Restart(ok=False, error="kanidmd is not ready, so it cannot be restarted in order")
            self._held_since = trio.current_time()
            old, serves = self._status.pid, None
            log.info("restarting the child", reason=reason, pid=old, in_flight=len(self._pool.places()))
            cut = await self._replace(old, reason, settings)
            with trio.move_on_after(settings.start_timeout):
                serves = await self._status.wait_serving()
            held_ms = round((trio.current_time() - self._held_since) * 1000)
            if not serves:
                error = f"kanidmd was not ready within {settings.start_timeout:g} s after the restart: see the log"
                if serves is not None:  # it is over before that time is
                    error = f"kanidmd did not come back (last: {self._last_end()}) and is not started any more: see the log"
                return Restart(ok=False, held_ms=held_ms, cut=cut, error=error)
            log.info("restarted the child", held_ms=held_ms, cut=cut, pid=self._status.pid)
            return Restart(ok=True, held_ms=held_ms, cut=cut, pid=self._status.pid)

    async def _replace(self, old: int | None, reason: str, settings: RestartSettings) -> int:
        """Hold, drain and end the child; return how many requests did not end in time."""
        began, hold = trio.current_time(), self._gate.hold
        try:
            with hold.shut_to_uploads():
                overdue = await self._let_requests_end(old, began + settings.drain_timeout / 2)
                self._held_since = trio.current_time()
                with hold.shut():
                    await self._let_logins_end(old)
                    if self._child_changed(old):
                        return 0  # it ended meanwhile, and the next one is there or about to be
                    # From here on everybody waits, the issuer's own requests too: the state itself is what they look at.
                    self._status.transition(ChildState.RESTARTING, reason)
            await self._drain(old, began + settings.drain_timeout, overdue)
            cut = 0 if self._child_changed(old) else len(self._pool.places())
            if cut:
                waited = round(trio.current_time() - began, 1)
                log.warn("requests did not end in time and are cut", requests=cut, seconds=waited)
            if not self._child_changed(old):
                await self._child.replace(reason, grace=HUNG_GRACE)
            return cut
        finally:
            if self._status.state is ChildState.RESTARTING and not self._child.replacing and not self._child_changed(old):
                # Cancelled while it waited: a stop has begun, and those who wait shall be served before it.
                self._status.transition(ChildState.READY, "the restart was given up")

    # Requests are looked at and not waited for: a restart is rare, and an event would cost each request something.

    async def _let_requests_end(self, old: int | None, ends: float) -> set[Place]:
        """Wait for what is in flight now, and not for what comes meanwhile, which is served; return what has not ended."""
        left = self._pool.places()
        while left and not self._child_changed(old) and not self._gate.crowded and trio.current_time() < ends:
            await trio.sleep(_POLL)
            left &= self._pool.places()
        return left

    async def _let_logins_end(self, old: int | None) -> None:
        quiet_since = trio.current_time()
        with trio.move_on_after(LOGIN_GRACE):
            while (now := trio.current_time()) < max(quiet_since, self._gate.hold.last_login) + LOGIN_QUIET:
                if self._child_changed(old) or (self._gate.crowded and now >= self._held_since + LOGIN_QUIET):
                    return
                if any(not place.held_up for place in self._pool.places()):
                    quiet_since = now
                await trio.sleep(_POLL)

    async def _drain(self, old: int | None, ends: float, overdue: set[Place]) -> None:
        began = trio.current_time()
        while not self._child_changed(old) and (now := trio.current_time()) < ends:
            if self._gate.crowded and now >= began + CROWDED_GRACE:
                return
            patient = now < self._held_since + CLIENT_GRACE
            if not any(not place.held_up or (patient and place not in overdue) for place in self._pool.places()):
                return
            await trio.sleep(_POLL)

    def _last_end(self) -> str:
        return self._status.history[-1].reason if self._status.history else "it has not ended"

    def _child_changed(self, old: int | None) -> bool:
        return self._status.pid != old
