"""A connection that has been closed: whatever is done with it then says so, and leaves nothing behind in Trio."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import pytest
import trio

from kiwi_id.proxy.stream import Stream

USES: list[Callable[[Stream], Awaitable[object]]] = [Stream.receive, lambda stream: stream.send_some(memoryview(b"x"))]


@pytest.mark.parametrize("use", USES, ids=["receive", "send"])
@pytest.mark.parametrize("end", [Stream.close, Stream.abort], ids=["close", "abort"])
async def test_every_use_of_a_closed_connection_says_so(
    use: Callable[[Stream], Awaitable[object]], end: Callable[[Stream], None]
) -> None:
    """A closed socket has the descriptor -1, like all others: nobody may wait for it, or the next who does finds it taken."""
    for _ in range(3):
        ours, theirs = socket.socketpair()
        with theirs:
            stream = Stream(ours)
            end(stream)
            assert stream.closed
            with pytest.raises(trio.ClosedResourceError):
                await use(stream)


async def test_nothing_is_discarded_of_a_closed_connection() -> None:
    """Reading what a client still sends ends at once when it was we who closed, each time."""
    for _ in range(3):
        ours, theirs = socket.socketpair()
        with theirs:
            stream = Stream(ours)
            stream.abort()
            await stream.discard()
