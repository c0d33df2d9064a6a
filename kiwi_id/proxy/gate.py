"""The gate: while kanidmd is not ready, requests wait here, a bounded number and size for a bounded time, and are then served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from kiwi_id.proxy.connection import Settings
from kiwi_id.proxy.exchange import Exchange, TooSlow
from kiwi_id.proxy.hold import Hold
from kiwi_id.proxy.stream import READ_SIZE
from kiwi_id.state import ChildStatus

# What a client is told to wait before it tries again, seconds: a restart of kanidmd takes less than one.
RETRY_AFTER = 2
# How long kanidmd may take from closing its connections to its end, seconds. It does not matter for one that is killed.
DYING = 1.0
_POLL = 0.01


class Shut(Exception):
    """The request may not pass: it waited too long, too many wait already, or Kiwi ID is stopping."""


class Gate:
    """Opens when the child serves. ``waiting`` is the number of requests that wait now, ``held`` what they hold in bytes."""

    def __init__(self, status: ChildStatus, settings: Callable[[], Settings]) -> None:
        self._status, self._settings = status, settings
        self.hold = Hold()
        self.waiting = 0
        self.held = 0

    async def wait_open(self, exchange: Exchange, *, upload: bool = False) -> None:
        """Return as soon as the child serves; ``upload``: its body is passed on at the speed of its client.

        Raises Shut, or ClientGone when the client leaves meanwhile.
        """
        if self._status.serving and self.hold.passes(exchange, upload=upload):
            return
        limits = self._settings().limits
        began = trio.current_time()
        try:
            with self._place(_size(exchange)):
                if await exchange.attended(lambda: self.hold.wait_serving(self._status, upload=upload), limits.gate_timeout):
                    return
        except TooSlow:
            pass
        finally:
            exchange.notes["waited_ms"] = round((trio.current_time() - began) * 1000)
        raise Shut

    async def wait_inner(self, size: int) -> None:
        """The same for a request of our own that holds ``size`` bytes: it takes a place like any other. Raises Shut."""
        if self._status.serving:
            return
        with self._place(size), trio.move_on_after(self._settings().limits.gate_timeout):
            if await self._status.wait_serving():
                return
        raise Shut

    @property
    def crowded(self) -> bool:
        """Whether half of what may wait is waiting: from here on it is a matter of seconds until the next are refused."""
        limits = self._settings().limits
        return 2 * self.waiting >= limits.gate_requests or 2 * self.held >= limits.gate_bytes

    @property
    def life(self) -> int | None:
        """Which life of the child it is, for :meth:`life_ends`."""
        return self._status.pid

    async def life_ends(self, life: int | None) -> bool:
        """Wait a moment for the end of a life of the child that has begun to end; tell whether it has ended."""
        self._status.doubt()
        with trio.move_on_after(DYING):
            # Looked at and not waited for: this is rare, and whoever ends, stops or restarts the child would have to tell.
            while self._status.pid == life and self._status.serving:  # noqa: ASYNC110
                await trio.sleep(_POLL)
        return self._status.pid != life or not self._status.serving

    @contextmanager
    def _place(self, size: int) -> Iterator[None]:
        """Take a place, with so many bytes, for the time of the block. Raises Shut when there is none."""
        limits = self._settings().limits
        if self.waiting >= limits.gate_requests or self.held + size > limits.gate_bytes:
            raise Shut
        self.waiting += 1
        self.held += size
        try:
            yield
        finally:
            self.waiting -= 1
            self.held -= size


def _size(exchange: Exchange) -> int:
    """Return what a waiting request may hold, in bytes: its head, and as much of its body as is read ahead at most."""
    size = len(exchange.target) + sum(len(name) + len(value) for name, value in exchange.headers)
    if exchange.has_body:
        length = next((value for name, value in exchange.headers if name == b"content-length"), None)
        ahead = 2 * READ_SIZE  # connection.watch stops behind the first, one read later
        size += min(int(length), ahead) if length is not None else ahead
    return size
