"""The state of the Kanidm child: named states, one ``transition`` that logs each change, and a way to wait for readiness."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import trio

from kiwi_id.logs import Log

log = Log("child")


class ChildState(Enum):
    """Where the child is in its life; the values stand in logs and ``/healthz``."""

    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    RESTARTING = "restarting"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


_S = ChildState
_ALLOWED: dict[ChildState, frozenset[ChildState]] = {
    _S.STOPPED: frozenset({_S.STARTING, _S.STOPPING, _S.FAILED}),
    _S.STARTING: frozenset({_S.READY, _S.BACKOFF, _S.STARTING, _S.STOPPING, _S.FAILED}),
    _S.READY: frozenset({_S.UNHEALTHY, _S.RESTARTING, _S.BACKOFF, _S.STARTING, _S.STOPPING, _S.FAILED}),
    _S.UNHEALTHY: frozenset({_S.READY, _S.RESTARTING, _S.BACKOFF, _S.STARTING, _S.STOPPING, _S.FAILED}),
    # Asked to end by us, and nothing is sent to it any more; READY again when that was taken back.
    _S.RESTARTING: frozenset({_S.READY, _S.RESTARTING, _S.BACKOFF, _S.STARTING, _S.STOPPING, _S.FAILED}),
    _S.BACKOFF: frozenset({_S.STARTING, _S.STOPPING, _S.FAILED}),
    _S.STOPPING: frozenset({_S.STOPPED}),
    _S.FAILED: frozenset({_S.STOPPING, _S.STOPPED}),
}
# An unhealthy child is still asked: it may be slow only, and a slow answer is worth more than a refusal.
_SERVING = frozenset({_S.READY, _S.UNHEALTHY})
_OVER = frozenset({_S.STOPPING, _S.FAILED})


REMEMBERED = 20
"""Restarts of the child that are remembered, the latest."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a life of the child ended that was followed by another: when (seconds since 1970), why, and whether it was asked for."""

    at: float
    reason: str
    planned: bool

    def as_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return asdict(self)


class ChildStatus:
    """What is known of the child: ``state`` and when it began (``since``), ``pid`` and when that process was started
    (``started``), ``version``, ``restarts`` (that nobody planned), and the ``history`` of the latest.

    ``on_exit`` callbacks run, in the child's task, each time a life of the child ends (the upstream pool empties itself there);
    ``on_change`` callbacks run after each transition (the service manager's status line is set there).
    """

    def __init__(self) -> None:
        self.state = ChildState.STOPPED
        self.pid: int | None = None
        self.version = ""
        self.tested = True
        self.restarts = 0
        self.since = self.started = time.time()
        self.history: deque[Ended] = deque(maxlen=REMEMBERED)
        self.on_exit: list[Callable[[], None]] = []
        self.on_change: list[Callable[[], None]] = []
        self._changed = trio.Event()
        self._doubted = trio.Event()
        self._over = False

    @property
    def serving(self) -> bool:
        """Whether requests can be sent to the child now."""
        return self.state in _SERVING

    def transition(self, new: ChildState, reason: str, **fields: Any) -> None:
        """Move to ``new`` and log it; a move that the state machine does not know is a bug and raises RuntimeError."""
        old = self.state
        if new not in _ALLOWED[old]:
            raise RuntimeError(f"cannot move the child from {old.value} to {new.value}: {reason}")
        self.state, self.since = new, time.time()
        if new is _S.STARTING:
            self.started = self.since
        # Sticky: whoever waits may look only after the next transition, from failed to stopped.
        self._over = self._over or new in _OVER
        self._changed.set()
        self._changed = trio.Event()
        level = log.warn if new in (_S.UNHEALTHY, _S.BACKOFF) else log.error if new is _S.FAILED else log.info
        level("child " + new.value, reason=reason, was=old.value, pid=self.pid, **fields)
        for callback in self.on_change:
            callback()

    async def wait_serving(self) -> bool:
        """Wait until requests can be sent to the child and return True; return False as soon as it is over for good.

        Bound it with a cancel scope: neither may come for a long time.
        """
        while not self.serving:
            if self._over:
                return False
            await self._changed.wait()
        return True

    def doubt(self) -> None:
        """Ask the watchdog to look now: kanidmd has lost what it was sent, or takes no connection."""
        self._doubted.set()

    async def wait_doubt(self) -> None:
        """Wait until somebody doubts that the child serves."""
        await self._doubted.wait()
        self._doubted = trio.Event()

    def note_end(self, reason: str, *, planned: bool) -> None:
        """Remember why another life follows."""
        self.history.append(Ended(time.time(), reason, planned))
        self.restarts += not planned

    def give_up(self) -> None:
        """Let nobody wait for readiness any longer who has waited until now."""
        self._over = True
        self._changed.set()
        self._changed = trio.Event()

    def ended(self) -> None:
        """Tell everyone who holds something of the child's (connections) that this life of it is over."""
        self.pid = None
        for callback in self.on_exit:
            callback()
