"""The gate: while kanidmd is not ready, requests wait here, a bounded number for a bounded time, and are then served."""

from __future__ import annotations

from collections.abc import Callable

import trio

from kiwi_id.proxy.connection import Settings
from kiwi_id.proxy.exchange import Exchange, TooSlow
from kiwi_id.proxy.hold import Hold
from kiwi_id.state import ChildStatus

# What a client is told to wait before it tries again, seconds: a restart of kanidmd takes less than one.
RETRY_AFTER = 2


class Shut(Exception):
    """The request may not pass: it waited too long, too many wait already, or Kiwi ID is stopping."""


class Gate:
    """Opens when the child serves. ``waiting`` is the number of requests that wait now."""

    def __init__(self, status: ChildStatus, settings: Callable[[], Settings]) -> None:
        self._status, self._settings = status, settings
        self.hold = Hold()
        self.waiting = 0

    async def wait_open(self, exchange: Exchange) -> None:
        """Return as soon as the child serves. Raises Shut, or ClientGone when the client leaves meanwhile."""
        if self._status.serving and self.hold.passes(exchange):
            return
        limits = self._settings().limits
        if self.waiting >= limits.gate_requests:
            raise Shut
        self.waiting += 1
        began = trio.current_time()
        try:
            if await exchange.attended(lambda: self.hold.wait_serving(self._status), limits.gate_timeout):
                return
        except TooSlow:
            pass
        finally:
            self.waiting -= 1
            exchange.notes["waited_ms"] = round((trio.current_time() - began) * 1000)
        raise Shut
