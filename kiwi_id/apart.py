"""Work beside everything else: an async function in a Trio of its own, in a thread, so that what it computes holds up no login."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import trio

T = TypeVar("T")

CLEANUP = 3.0
"""What the work gets to end by itself when we are cancelled, seconds; then it is left behind: a file system may hang."""


async def apart(work: Callable[[], Awaitable[T]]) -> T:
    """Run ``work`` in a thread with an event loop of its own; return what it returns, or raise what it raises.

    Its own cost is what a thread costs: Python hands over every 5 ms, where a comparison of thousands of entries in our loop would
    keep everybody waiting to its end. Cancelled, it cancels the work, and waits CLEANUP for that at most.
    """
    ours, ended, scope = trio.lowlevel.current_trio_token(), trio.Event(), trio.CancelScope()
    theirs: list[trio.lowlevel.TrioToken] = []
    over = False

    async def main() -> T:
        theirs.append(trio.lowlevel.current_trio_token())
        with scope:
            if over:
                scope.cancel()
            return await work()
        raise trio.RunFinishedError  # cancelled, and nobody is there any more to hear it

    def thread() -> T:
        try:
            return trio.run(main)
        finally:
            with suppress(trio.RunFinishedError):
                ours.run_sync_soon(ended.set)

    try:
        return await trio.to_thread.run_sync(thread, abandon_on_cancel=True)
    finally:
        over = True
        if theirs:
            with suppress(trio.RunFinishedError):
                theirs[0].run_sync_soon(scope.cancel)
            with trio.move_on_after(CLEANUP, shield=True):
                await ended.wait()
