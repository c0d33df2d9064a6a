"""The siblings: tasks of one nursery, each by name under a cancel scope of its own, so that they can be ended one by one.

Trio ends the tasks of a nursery all at once. A stop that loses nothing needs an order: no more clients, then kanidmd, then orphans.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import trio


class Siblings:
    """Tasks by name. Those in ``shielded`` do not end with the nursery, but only by :meth:`end` or :meth:`cancel`."""

    def __init__(self, *, shielded: Collection[str] = ()) -> None:
        self._shielded = shielded
        self._scopes: dict[str, trio.CancelScope] = {}
        self._ended: dict[str, trio.Event] = {}

    def __contains__(self, name: str) -> bool:
        """Tell whether a task of this name was ever started."""
        return name in self._ended

    async def run(
        self, name: str, task: Callable[..., Awaitable[None]], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run ``task`` to its end; for ``nursery.start``."""
        self._ended[name] = trio.Event()
        try:
            with trio.CancelScope(shield=name in self._shielded) as self._scopes[name]:
                await task(task_status=task_status)
        finally:
            self._ended[name].set()

    async def ended(self, name: str) -> None:
        """Wait until a task has ended by itself; return at once when it was never started."""
        if name in self._ended:
            await self._ended[name].wait()

    def cancel(self, name: str) -> None:
        """Cancel a task that was started, without waiting for it."""
        self._scopes[name].cancel()

    async def end(self, name: str) -> None:
        """Cancel a task and wait until it has ended."""
        if name in self._ended:
            self.cancel(name)
            await self.ended(name)
