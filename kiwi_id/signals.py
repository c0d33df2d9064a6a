"""Signals: what an init, a service manager and a person at a terminal send, turned into two events: *stop* and *reload*."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable

import trio

from kiwi_id.early_signals import RELOAD, STOP, held, ignore_late
from kiwi_id.logs import Log

log = Log("signals")


def name(number: int) -> str:
    """Return a signal's usual name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


class Signals:
    """The signal task. ``stop`` is set by the first stop signal, ``hurry`` by the second; ``reload`` yields one per SIGHUP."""

    def __init__(self) -> None:
        self.stop = trio.Event()
        self.hurry = trio.Event()
        self.reason = ""
        # One place: reloads that arrive while one waits ask for the same thing, and the waiting one reads the newest files.
        self._send_reload, self.reload = trio.open_memory_channel[None](1)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Receive signals for ever; cancel to end. Ends last of all tasks, because the receiver re-raises what is pending."""
        try:
            with trio.open_signal_receiver(*STOP, RELOAD) as received:
                for number in held:
                    self._take(number)
                held.clear()
                task_status.started()
                async for number in received:
                    self._take(number)
        finally:
            ignore_late()

    def request_reload(self) -> None:
        """Ask for a reload, as SIGHUP does."""
        try:
            self._send_reload.send_nowait(None)
        except trio.WouldBlock:
            log.debug("a reload is waiting already")

    def request_stop(self, reason: str) -> None:
        """Ask for an orderly stop, as SIGTERM does; the second request hurries."""
        if self.stop.is_set():
            log.warn("hurrying", reason=reason)
            self.hurry.set()
        else:
            log.info("stopping", reason=reason)
            self.reason = reason
            self.stop.set()

    async def cancel_at_stop(self, scope: trio.CancelScope) -> None:
        """Cancel ``scope`` when a stop is asked for."""
        await self.stop.wait()
        scope.cancel()

    async def unless_hurried(self, wait: Callable[[], Awaitable[object]], seconds: float) -> None:
        """Wait for ``wait``, at most so many seconds, and not at all from a second stop signal on."""
        async with trio.open_nursery() as nursery:

            async def hurry() -> None:
                await self.hurry.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(hurry)
            with trio.move_on_after(seconds):
                await wait()
            nursery.cancel_scope.cancel()

    def _take(self, number: int) -> None:
        if number == RELOAD:
            log.info("signal received", signal=name(number), pid=os.getpid())
            self.request_reload()
        else:
            self.request_stop(name(number))
