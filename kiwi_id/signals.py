"""Signals: what an init, a service manager and a person at a terminal send, turned into two events: *stop* and *reload*."""

from __future__ import annotations

import os
import signal
from types import FrameType

import trio

from kiwi_id.logs import Log

log = Log("signals")

# SIGPWR and SIGRTMIN+3 are how LXC and systemd-nspawn ask an init to power off; SIGINT is LXC's reboot and a person's Ctrl-C.
STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGPWR, signal.SIGRTMIN + 3)
RELOAD = signal.SIGHUP

_early: list[int] = []


def hold_early() -> None:
    """Install plain handlers that remember stop signals until the Trio task takes over.

    Called before the heavy imports: the kernel discards signals to a PID 1 without handlers, so a container that is stopped
    while it starts would otherwise hang until it is killed. Must run in the main thread.
    """

    def remember(number: int, _frame: FrameType | None) -> None:
        _early.append(number)

    for number in STOP:
        signal.signal(number, remember)
    # A reload before the configuration has been read has nothing to do: reading it is what comes next anyway.
    signal.signal(RELOAD, lambda _number, _frame: None)


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
        with trio.open_signal_receiver(*STOP, RELOAD) as received:
            for number in _early:
                self._stop(number)
            _early.clear()
            task_status.started()
            async for number in received:
                if number == RELOAD:
                    log.info("signal received", signal=name(number), pid=os.getpid())
                    self.request_reload()
                else:
                    self._stop(number)

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

    def _stop(self, number: int) -> None:
        self.request_stop(name(number))
