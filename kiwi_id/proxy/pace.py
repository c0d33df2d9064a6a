"""How slow a client may be while a body is on its way: a minimum rate, with a grace.

A fixed time without a byte is no bound: one byte each half minute keeps a connection, and one to kanidmd behind it, for a year. A
fixed time for each piece is too narrow: it cuts whoever has a slow line. So patience is a bucket: it is full at first, waiting
empties it, and bytes that move fill it, each by the time that it may take at the minimum rate. Whoever is faster than that never
runs out of it; whoever is slower does, the sooner the slower; and speed cannot be saved up beyond the grace.
"""

from __future__ import annotations

import trio

from kiwi_id.proxy.stream import Stream

# Below this, seconds, what is left is not worth waking up for.
_LEAST = 0.01


class TooSlow(Exception):
    """The client has been slower than the minimum rate for longer than the grace."""


class Pace:
    """The patience with one body in one direction: ``grace`` in seconds, ``rate`` in bytes a second (0: any progress will do)."""

    def __init__(self, grace: float, rate: int) -> None:
        self._grace, self._rate = grace, rate
        self._left = grace

    def _account(self, waited: float, moved: int) -> None:
        gained = moved / self._rate if self._rate else self._grace * bool(moved)
        self._left = min(self._grace, self._left - waited + gained)

    async def receive(self, stream: Stream) -> bytes:
        """Receive once. Raises TooSlow, and what :meth:`Stream.receive` raises."""
        began = trio.current_time()
        with trio.CancelScope(deadline=began + self._left):
            data = await stream.receive()
            self._account(trio.current_time() - began, len(data))
            return data
        raise TooSlow

    async def send(self, stream: Stream, data: memoryview) -> None:
        """Send all of ``data``. Raises TooSlow, and what :meth:`Stream.send` raises.

        What counts is what the client's kernel has taken. Ours takes bytes by the ten thousand, and then for a long while none.
        """
        arrived = stream.acknowledged()
        while True:
            began, size = trio.current_time(), len(data)
            with trio.CancelScope(deadline=began + self._left):
                data = await stream.send_some(data)
            now = stream.acknowledged()
            # Where the kernel does not tell, what it has taken must do.
            moved = now - arrived if now else size - len(data)
            arrived = now
            self._account(trio.current_time() - began, moved)
            if not data:
                return
            if self._left < _LEAST:
                raise TooSlow
