"""Which signals mean what, and handlers for the time before Trio runs. Imports nothing heavy, so that it can come first."""

from __future__ import annotations

import signal
from types import FrameType

# SIGPWR and SIGRTMIN+3 are how LXC and systemd-nspawn ask an init to power off; SIGINT is LXC's reboot and a person's Ctrl-C.
STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGPWR, signal.SIGRTMIN + 3)
RELOAD = signal.SIGHUP

# Signals that came before the signal task ran.
held: list[int] = []


def hold_early() -> None:
    """Install plain handlers that remember signals until the Trio task takes over.

    Called before the heavy imports: the kernel discards signals to a PID 1 without handlers, so a container that is stopped
    while it starts would otherwise hang until it is killed. Must run in the main thread.
    """

    def remember(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    # A HUP too: the configuration may have been read already, in the version before the one that it tells of.
    for number in (*STOP, RELOAD):
        signal.signal(number, remember)


def ignore_late() -> None:
    """Ignore signals from here on, when everything has ended but the interpreter.

    Python gives handlers back to the kernel while it shuts down: one more TERM would turn the exit code 0 into a death by signal.
    """
    for number in (*STOP, RELOAD):
        signal.signal(number, signal.SIG_IGN)
