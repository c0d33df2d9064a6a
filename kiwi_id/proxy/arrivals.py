"""A listening socket from which many connections are taken at a time, and at its end those, too, that nobody has taken yet."""

from __future__ import annotations

import socket
from collections.abc import Callable

import trio

# Trio takes one connection at each turn of its loop, and a turn takes the longer the more is going on: of thousands that come
# within a second the last waits for many turns. So many are taken at a turn here; not more, because those who make room for them at
# max_connections close a turn later, and few descriptors are in reserve.
AT_ONCE = 8
# What the kernel keeps until we take it; it takes the smaller of this and net.core.somaxconn.
BACKLOG = 4096


class Arrivals(trio.abc.Listener[trio.SocketStream]):
    """For ``trio.serve_listeners``, which rides out EMFILE and the like: it waits a moment and accepts again."""

    def __init__(self, sock: socket.socket, last: Callable[[trio.SocketStream], None] | None = None) -> None:
        """Take over ``sock``, which listens. When it is closed each connection that waits to be accepted is handed to ``last``.

        Without ``last`` they are left where they are: to whoever else holds the socket, or to be reset.
        """
        sock.setblocking(False)
        self._socket, self._last = sock, last
        self._one_by_one = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        self._taken = 0

    async def accept(self) -> trio.SocketStream:
        """Return the next connection; only every so often others have their turn before. Raises as ``SocketListener.accept``."""
        if self._taken < AT_ONCE and (stream := self._at_hand()) is not None:
            self._taken += 1
            return stream
        self._taken = 0
        return await self._one_by_one.accept()

    def _at_hand(self) -> trio.SocketStream | None:
        try:
            sock, _ = self._socket.accept()
        except OSError:  # nobody is there; or what Trio's accept meets again, and knows what to do about
            return None
        return trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    async def aclose(self) -> None:
        """Close the socket. Whoever has connected before counts on an answer: a close would reset those connections."""
        if self._last is not None:
            for _ in range(BACKLOG):
                if (stream := self._at_hand()) is None:
                    break
                self._last(stream)
        await self._one_by_one.aclose()
