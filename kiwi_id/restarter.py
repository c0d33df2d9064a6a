"""The planned restart: another kanidmd in place of the one that runs, and no request lost over it.

    hold ── logins in progress go on, for a moment ── drain ── TERM ── start ── release

kanidmd does not drain: a TERM ends every request that it has (server/core/src/https/mod.rs leaves its accept loop, and the runtime
goes). So nothing may be in flight when the TERM is sent. Requests that come meanwhile wait at the gate and are served by the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import trio

from kiwi_id.child import HUNG_GRACE, Child
from kiwi_id.logs import Log
from kiwi_id.proxy.hold import Hold
from kiwi_id.proxy.pool import Pool
from kiwi_id.state import ChildState, ChildStatus

log = Log("restarter")

# A login that kanidmd has in memory dies with it (its cookie key is made at each start, server/core/src/lib.rs). Those that a
# program carries out step by step are let through to their end: until nothing has been asked for the one time, at most the other.
LOGIN_QUIET = 0.25
LOGIN_GRACE = 2.0
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
    """Times in seconds: how long requests in flight may take to end, and kanidmd to start."""

    drain_timeout: float
    start_timeout: float


class Restarter:
    """Restarts the child in order; one restart at a time. What must be right before it is the caller's to check."""

    def __init__(
        self, *, child: Child, status: ChildStatus, hold: Hold, pool: Pool, settings: Callable[[], RestartSettings]
    ) -> None:
        self._child, self._status, self._hold, self._pool, self._settings = child, status, hold, pool, settings
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
            began, old, serves = trio.current_time(), self._status.pid, False
            log.info("restarting the child", reason=reason, pid=old, in_flight=self._in_flight)
            cut = await self._replace(old, reason, settings)
            with trio.move_on_after(settings.start_timeout):
                serves = await self._status.wait_serving()
            held_ms = round((trio.current_time() - began) * 1000)
            if not serves:
                error = f"kanidmd was not ready within {settings.start_timeout:g} s after the restart: see the log"
                return Restart(ok=False, held_ms=held_ms, cut=cut, error=error)
            log.info("restarted the child", held_ms=held_ms, cut=cut, pid=self._status.pid)
            return Restart(ok=True, held_ms=held_ms, cut=cut, pid=self._status.pid)

    @property
    def _in_flight(self) -> int:
        return self._pool.limiter.borrowed_tokens

    async def _replace(self, old: int | None, reason: str, settings: RestartSettings) -> int:
        """Hold, drain and end the child; return how many requests did not end in time."""
        try:
            with self._hold.shut():
                await self._let_logins_end()
                if self._child_changed(old):
                    return 0  # it ended meanwhile, and the next one is there or about to be
                # From here on everybody waits, the issuer's own requests too: the state itself is what they look at.
                self._status.transition(ChildState.RESTARTING, reason)
            await self._drain(old, settings.drain_timeout)
            cut = 0 if self._child_changed(old) else self._in_flight
            if cut:
                log.warn("requests did not end in time and are cut", requests=cut, seconds=settings.drain_timeout)
            if not self._child_changed(old):
                await self._child.replace(reason, grace=HUNG_GRACE)
            return cut
        finally:
            if self._status.state is ChildState.RESTARTING and not self._child.replacing and not self._child_changed(old):
                # Cancelled while it waited: a stop has begun, and those who wait shall be served before it.
                self._status.transition(ChildState.READY, "the restart was given up")

    async def _let_logins_end(self) -> None:
        quiet_since = trio.current_time()
        with trio.move_on_after(LOGIN_GRACE):
            while (now := trio.current_time()) < max(quiet_since, self._hold.last_login) + LOGIN_QUIET:
                if self._in_flight:
                    quiet_since = now
                await trio.sleep(_POLL)

    async def _drain(self, old: int | None, timeout: float) -> None:
        ends = trio.current_time() + timeout
        # Looked at and not waited for: a restart is rare, and an event would cost each request something.
        while self._in_flight and not self._child_changed(old) and trio.current_time() < ends:  # noqa: ASYNC110
            await trio.sleep(_POLL)

    def _child_changed(self, old: int | None) -> bool:
        return self._status.pid != old
