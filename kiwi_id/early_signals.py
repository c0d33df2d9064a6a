"""Which signals mean what, and handlers for the time before Trio runs. Imports nothing heavy, so that it can come first."""

from __future__ import annotations

import signal
from types import FrameType

# SIGPWR and SIGRTMIN+3 are how LXC and systemd-nspawn ask an init to power off; SIGINT is LXC's reboot and a person's Ctrl-C.
STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGPWR, signal.SIGRTMIN + 3)
RELOAD = signal.SIGHUP

# Stop signals that came before the signal task ran.
held: list[int] = []


def hold_early() -> None:
    """Install plain handlers that remember stop signals until the Trio task takes over.

    Called before the heavy imports: the kernel discards signals to a PID 1 without handlers, so a container that is stopped
    while it starts would otherwise hang until it is killed. Must run in the main thread.
    """

    def remember(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    for number in STOP:
        signal.signal(number, remember)
    # A reload before the configuration has been read has nothing to do: reading it is what comes next anyway.
    signal.signal(RELOAD, lambda _number, _frame: None)
