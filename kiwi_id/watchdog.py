"""The watchdog: probes kanidmd for ever, tells when it does not answer, and has it restarted when that lasts too long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from kiwi_id.kanidm.probe import ProbeFailed
from kiwi_id.logs import Log
from kiwi_id.state import ChildState, ChildStatus

log = Log("watchdog")

# The least that a probe gets, seconds: when interval and timeout are the same, the only one may begin when the time is over.
LAST_PROBE = 1.0
# Between two probes that fail at once, when there is time left for no more than one that hangs, seconds.
SHORTEST_PAUSE = 0.2
# So many refused connections in a row, SHORTEST_PAUSE apart, show that a live kanidmd has closed its listener.
REFUSALS = 2
_TICK = 0.01


@dataclass(frozen=True)
class WatchdogSettings:
    """``interval`` and ``timeout`` in seconds; read anew before each probe, so that a reload takes effect at once."""

    interval: float
    timeout: float

    @property
    def probe_timeout(self) -> float:
        """One probe's own deadline, seconds: shorter than the interval, so that probes never overlap."""
        return min(self.interval * 0.9, 10.0)


async def watch(
    *,
    status: ChildStatus,
    probe: Callable[[float], Awaitable[None]],
    restart: Callable[[str], Awaitable[None]],
    settings: Callable[[], WatchdogSettings],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Probe every interval; without a success for ``timeout`` seconds call ``restart``. Runs until cancelled.

    ``probe(seconds)`` raises ProbeFailed. Time in which the child starts, waits to be restarted or stops does not count: the
    child task has deadlines of its own for these.
    """
    task_status.started()
    while await status.wait_serving():
        life = status.pid
        healthy_at = trio.current_time()
        refusals = 0
        while status.serving and status.pid == life:
            now = settings()
            left = healthy_at + now.timeout - trio.current_time()
            # Once it is failing, the last probe ends when the time is over, and not up to an interval later.
            failing = status.state is ChildState.UNHEALTHY
            pause = max(min(now.interval, SHORTEST_PAUSE), left - now.probe_timeout)
            if refusals:
                await trio.sleep(SHORTEST_PAUSE)
            else:
                with trio.move_on_after(min(now.interval, pause, max(left, 0.0)) if failing else now.interval):
                    await status.wait_doubt()
            if not status.serving or status.pid != life:
                break
            began = trio.current_time()
            left = healthy_at + now.timeout - began
            try:
                await probe(min(now.probe_timeout, max(left, LAST_PROBE)))
            except ProbeFailed as error:
                if error.ours:
                    # Nothing is known of kanidmd, and what is needed least now is another process to be started.
                    log.warn("cannot ask kanidmd, for lack of our own", error=str(error))
                    healthy_at = began
                    continue
                refusals = refusals + 1 if error.refused else 0
                if refusals >= REFUSALS and status.serving and status.pid == life:
                    # It is ending, for a reason of its own, and may take long over it: connections that are open hold it. Meanwhile
                    # it half works: what is sent on them fails in odd ways. Requests wait for the next one.
                    status.transition(ChildState.RESTARTING, "it does not listen any more")
                    await restart("it does not listen any more")
                    continue
                # The probe's answer may be older than the state: the child may have ended while we waited for it.
                if status.state is ChildState.READY and status.pid == life:
                    status.transition(ChildState.UNHEALTHY, f"probe failed: {error}")
                silent = trio.current_time() - healthy_at
                log.debug("probe failed", error=str(error), silent_s=round(silent, 1))
                if silent >= settings().timeout - _TICK and status.state is ChildState.UNHEALTHY and status.pid == life:
                    await restart(f"no successful probe for {silent:.0f} s")
            else:
                healthy_at, refusals = began, 0
                if status.state is ChildState.UNHEALTHY and status.pid == life:
                    status.transition(ChildState.READY, "probe answered")
