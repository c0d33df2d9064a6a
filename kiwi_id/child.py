"""The child task: start kanidmd, find out when it is ready, restart it when it ends, stop it when asked.

Restart policy: an exit nobody asked for is a failure whatever its code (kanidmd ends with 0 when its listener dies). People are
waiting at the gate, so the first restart is immediate; only *short lives*, which end before readiness or within a second after
it, back off, and a row of them gives up, so that the orchestrator sees what we cannot mend. But a full disk is waited for: that
passes by itself, and until then more can be served without kanidmd than without Kiwi ID.
"""

from __future__ import annotations

import os
import random
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import trio

from kiwi_id.descriptors import exhausted
from kiwi_id.errors import ChildUnavailable, ConfigError
from kiwi_id.logs import Log
from kiwi_id.oom import MemoryKills
from kiwi_id.reaper import ChildProcess, Reaper
from kiwi_id.relog import relog
from kiwi_id.room import Room
from kiwi_id.state import ChildState, ChildStatus

log = Log("child")

# Pauses between readiness probes, seconds: some 5% of the time so far, because people wait at the gate for what is missed. A
# refused connection costs a fifth of a millisecond.
FIRST_POLL = 0.005
SLOWEST_POLL = 0.04
POLL_GROWTH = 1.05
LONG_LIFE = 1.0
FIRST_BACKOFF = 0.1
SLOWEST_BACKOFF = 30.0
# A TERM that reaches kanidmd 1.5.0 within 5 s of a HUP is lost (its HUP arm sleeps, server/daemon/src/main.rs): say it again.
TERM_AGAIN = 5.0
# For so long after a HUP it loses a TERM, seconds (see there).
DEAF_AFTER_HUP = 5.0
# What a hung child gets to end by itself before it is killed. It has not answered for a whole health_check_timeout.
HUNG_GRACE = 3.0
# Between two tries to start it when this machine has no descriptor, process or memory for that.
EXHAUSTED_PAUSE = 0.5
TAIL_LINES = 20


@dataclass(frozen=True)
class ChildSettings:
    """What the child task reads anew before each decision: times in seconds, ``restart_limit`` short lives in a row."""

    start_timeout: float
    restart_limit: int


class Child:
    """kanidmd under supervision. ``run`` is the task; ``stop``, ``restart`` and ``hang_up`` are what the siblings may ask."""

    def __init__(
        self,
        *,
        argv: Callable[[], Awaitable[list[str]]],
        status: ChildStatus,
        reaper: Reaper,
        probe: Callable[[], Awaitable[None]],
        settings: Callable[[], ChildSettings],
        environ: Mapping[str, str],
        room: Room,
        keep_fds: tuple[int, ...] = (),
    ) -> None:
        """``argv`` checks the binary and returns the command line, or raises ConfigError; ``probe`` raises when not ready.

        ``environ`` is passed on as it is, ``room`` says what is waited for instead of giving up. ``keep_fds`` are
        inherited by the child: the lock beside the database lives as long as whoever uses the database.
        """
        self.status = status
        self.starts = 0
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._argv, self._reaper, self._probe, self._settings = argv, reaper, probe, settings
        self._env, self._keep_fds, self._room = environ, keep_fds, room
        self._process: ChildProcess | None = None
        self._stopping = trio.Event()
        self._short_lives = 0
        self._was_ready = False
        self._hung_up_at = float("-inf")
        self.replacing = False
        self._killing = False
        # What led to the end of this life, when more is known than how it ended.
        self._why = ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep kanidmd alive until ``stop``. Raises ChildUnavailable when that cannot be done; leaves no process behind."""
        try:
            while not self._stopping.is_set():
                process = await self._start()
                if process is None:
                    break
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                reason, short = await self._live(process)
                why, self._why = self._why or reason, ""
                if self.replacing:
                    self.replacing = False  # asked for: no failure, and nothing to wait for
                    self.status.note_end(why, planned=True)
                elif not self._stopping.is_set():
                    self.status.note_end(why, planned=False)
                    await self._back_off(reason, short)
        finally:
            if self._process is not None:
                with trio.move_on_after(HUNG_GRACE + 1, shield=True):
                    await self.end(grace=HUNG_GRACE)
            if self.status.state in (ChildState.STOPPING, ChildState.FAILED):
                self.status.transition(ChildState.STOPPED, "no process is left")

    async def _start(self) -> ChildProcess | None:
        """Start a process; return None when a stop came first."""
        try:
            process = await self._spawn()
        except (ConfigError, OSError) as error:
            self.status.transition(ChildState.FAILED, "the binary cannot be started")
            if isinstance(error, ConfigError):
                raise
            raise ChildUnavailable(f"cannot start kanidmd: {error}") from error
        if process is None:
            return None
        self.starts += 1
        self._process, self.status.pid = process, process.pid
        self.status.transition(ChildState.STARTING, "spawned")
        return process

    async def _spawn(self) -> ChildProcess | None:
        while True:
            try:
                argv = await self._argv()
                if self._stopping.is_set():
                    return None
                return self._reaper.spawn(argv, env=self._env, pass_fds=self._keep_fds)
            except (ConfigError, OSError) as error:
                # At the first start an orchestrator should hear of it. Later it is no fault of kanidmd's, and it may pass.
                no_process = isinstance(error, BlockingIOError)  # EAGAIN: there may be no more processes (fork(2))
                if not (self.starts and (no_process or exhausted(error))):
                    raise
                log.error("kanidmd cannot be started for lack of descriptors, processes or memory; trying again", error=str(error))
                with trio.move_on_after(EXHAUSTED_PAUSE):
                    await self._stopping.wait()

    async def _live(self, process: ChildProcess) -> tuple[str, bool]:
        """Watch one life of the child to its end; return how it ended and whether it was a short one."""
        began, memory = trio.current_time(), MemoryKills()
        ready_at: float | None = None
        never_ready = False
        async with trio.open_nursery() as nursery:
            output = trio.CancelScope()
            nursery.start_soon(relog, process.output, output, self.tail.extend)
            with trio.CancelScope() as until_end:
                nursery.start_soon(_cancel_when, process.ended, until_end)
                with trio.move_on_after(self._settings().start_timeout):
                    await self._poll_ready()
                    ready_at = trio.current_time()
                    self._was_ready = True
                    if self.status.state is ChildState.STARTING:
                        self.status.transition(ChildState.READY, "answered", after_ms=round((ready_at - began) * 1000))
                if ready_at is None:
                    log.error("the child did not become ready in time; ending it", seconds=self._settings().start_timeout)
                    never_ready = True
                    await self.end(grace=HUNG_GRACE)
                await process.ended.wait()
            # Not at the end of the output: grandchildren may hold the pipe open for ever.
            output.cancel()
        self._process = None
        self.status.ended()
        if never_ready and not self._was_ready and not self._stopping.is_set():
            # The first start decides: an orchestrator should hear of a broken installation at once, not after five tries.
            self.status.transition(ChildState.FAILED, "never ready")
            seconds = self._settings().start_timeout
            raise ChildUnavailable(
                f"kanidmd did not answer within health_check_timeout ({seconds:g} s) after its start", list(self.tail)
            )
        lived = trio.current_time() - (ready_at if ready_at is not None else began)
        if process.status == -signal.SIGKILL and not self._killing:
            log.warn("the child was killed, and not by us", pid=process.pid, why=memory.explain())
            self._why = f"{process.describe_exit()}, {'for lack of memory' if memory.happened() else 'not by us'}"
        if never_ready:
            self._why = f"not ready within {self._settings().start_timeout:g} s"
        self._killing = False
        return process.describe_exit(), ready_at is None or lived < LONG_LIFE

    async def _poll_ready(self) -> None:
        delay = FIRST_POLL
        while True:
            try:
                await self._probe()
            except Exception as error:  # noqa: BLE001 - refused, half-open, wrong certificate: all mean "not yet"
                log.trace("not ready", error=str(error))
            else:
                return
            await trio.sleep(delay)
            delay = min(delay * POLL_GROWTH, SLOWEST_POLL)

    async def _back_off(self, reason: str, short: bool) -> None:
        self._short_lives = self._short_lives + 1 if short else 0
        if self._short_lives >= self._settings().restart_limit:
            if not (lack := await self._room.look()):
                self.status.transition(ChildState.FAILED, f"{self._short_lives} short lives in a row")
                text = f"kanidmd ended {self._short_lives} times in a row before or just after it was ready"
                raise ChildUnavailable(f"{text}; giving up (last: {reason})", list(self.tail))
            self.status.transition(ChildState.BACKOFF, lack, short_lives=self._short_lives)
            if await self._room.wait(lack, self._stopping):
                self._short_lives = 0
            return
        self._room.forget()
        delay = 0.0
        if self._short_lives > 1:
            # Jitter, so that replicas that fail for one reason do not come back in step.
            delay = min(FIRST_BACKOFF * 2 ** (self._short_lives - 2), SLOWEST_BACKOFF) * random.uniform(0.8, 1.2)  # noqa: S311
        self.status.transition(ChildState.BACKOFF, reason, restart_in_ms=round(delay * 1000), short_lives=self._short_lives)
        with trio.move_on_after(delay):
            await self._stopping.wait()

    def hang_up(self) -> bool:
        """Send SIGHUP, so that kanidmd reads its TLS files anew; return False when it is not ready (an early HUP kills it)."""
        if self._process is None or not self.status.serving:
            return False
        self._signal(signal.SIGHUP)
        self._hung_up_at = trio.current_time()
        return True

    async def wait_attentive(self) -> None:
        """Wait while the child would lose a TERM: it then serves on, while a restart in order would keep clients waiting."""
        await trio.sleep_until(self._hung_up_at + DEAF_AFTER_HUP)

    async def replace(self, reason: str, *, grace: float) -> None:
        """End the child, and return when it has ended; the task starts the next at once, and counts no failure."""
        if self._process is not None:
            self.replacing, self._why = True, reason
            await self.end(grace=grace)

    async def restart(self, reason: str) -> None:
        """End the child, hung or not; the task then restarts it by its policy."""
        log.warn("ending the child to restart it", reason=reason)
        self._why = reason
        await self.end(grace=HUNG_GRACE)

    async def stop(self, *, grace: float) -> None:
        """Stop for good: TERM, again every 5 s, and KILL after ``grace`` seconds."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self.status.state is not ChildState.STOPPED:
            self.status.transition(ChildState.STOPPING, "asked to")
        await self.end(grace=grace)

    async def end(self, *, grace: float) -> None:
        """End the current process and its group and wait until it is reaped; at most ``grace`` seconds and a moment."""
        process = self._process
        if process is None:
            return
        try:
            with trio.move_on_after(grace):
                while True:
                    self._signal(signal.SIGTERM)
                    self._signal(signal.SIGCONT)  # a stopped process would not see the TERM
                    with trio.move_on_after(TERM_AGAIN):
                        await process.ended.wait()
                        return
        finally:
            if not process.ended.is_set():
                log.warn("killing the child: it did not end in time", pid=process.pid, grace=grace)
                self.kill()
                with trio.move_on_after(1, shield=True):
                    await process.ended.wait()

    def kill(self) -> None:
        """Kill the process group at once."""
        if self._process is not None and not self._process.ended.is_set():
            self._killing = True
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        process = self._process
        # Unreaped, so the pid is still this child's: only our reaper frees it.
        if process is not None and not process.ended.is_set():
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
