"""Connections to kanidmd: opened over the pinned TLS, kept alive, thrown away together when a life of the child ends."""

from __future__ import annotations

import select
import ssl
from collections.abc import Awaitable, Callable

import h11
import trio

from kiwi_id.kanidm.pin import UpstreamPin
from kiwi_id.kanidm.probe import acknowledge_now, connect
from kiwi_id.proxy.rules import Headers
from kiwi_id.values import Address

READ_SIZE = 65536
MOST_IDLE = 64
# Seconds after which an idle connection is not used again: kanidmd may be about to close it, and a POST that crosses that close
# is lost, because it is never sent twice.
MAX_IDLE = 15.0
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, ssl.SSLError)


class UpstreamLost(Exception):
    """The connection to kanidmd failed. ``sent`` tells whether bytes of the request may have reached it."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Upstream:
    """One HTTP/1.1 connection to kanidmd; every failure of it raises UpstreamLost."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], life: int) -> None:
        self._stream = stream
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 18)
        self.life = life
        self.borrower: object = None
        self._fresh = True
        self._used = 0.0

    async def send_head(self, method: bytes, target: bytes, headers: Headers, body: bytes | None) -> None:
        """Send a request's head, and with it the whole ``body`` when that is known (None: it follows)."""
        if body != b"" and not any(name == b"content-length" for name, _ in headers):
            # The client sent it chunked; that was for its connection only, and without either field h11 allows no body.
            framing = (b"transfer-encoding", b"chunked") if body is None else (b"content-length", b"%d" % len(body))
            headers = [*headers, framing]
        out = self._h11.send(h11.Request(method=method, target=target, headers=headers)) or b""
        if body is not None:
            if body:
                out += self._h11.send(h11.Data(data=body)) or b""
            out += self._h11.send(h11.EndOfMessage()) or b""
        await self._send(out)

    async def send_body(self, data: bytes) -> None:
        """Send a piece of the request body."""
        await self._send(self._h11.send(h11.Data(data=data)) or b"")

    async def end_body(self, trailers: Headers) -> None:
        """End the request body."""
        await self._send(self._h11.send(h11.EndOfMessage(headers=trailers)) or b"")

    async def _send(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
            if self._fresh:
                self._fresh = False
                acknowledge_now(self._stream)
        except _BROKEN as error:
            raise UpstreamLost(f"sending failed: {error}", sent=True) from None

    def event_at_hand(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next event of the response without waiting, or ``h11.NEED_DATA``."""
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as error:
            # What h11 says behind the colon is the line itself, and that may be a cookie.
            raise UpstreamLost(f"the answer is not valid HTTP/1.1: {str(error).partition(':')[0]}", sent=True) from None

    async def next_event(self) -> h11.Event:
        """Return the next event of the response; may be cancelled and called again."""
        while True:
            event = self.event_at_hand()
            if isinstance(event, h11.ConnectionClosed):
                raise UpstreamLost("kanidmd closed the connection", sent=True)
            if isinstance(event, h11.Event):
                return event
            try:
                data = await self._stream.receive_some(READ_SIZE)
            except _BROKEN as error:
                raise UpstreamLost(f"receiving failed: {error}", sent=True) from None
            self._h11.receive_data(bytes(data))

    def recycle(self) -> bool:
        """Make ready for another request; return False when the connection cannot take one."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        if self._h11.trailing_data[0] or self._stream._incoming.pending:
            return False  # bytes behind the answer would be taken for the answer to the next request, of another client
        self._h11.start_next_cycle()
        self._used = trio.current_time()
        return True

    def is_quiet(self) -> bool:
        """Tell whether an idle connection is still good: anything to read on it now is its end, or nobody's answer."""
        if trio.current_time() - self._used > MAX_IDLE:
            return False
        poller = select.poll()  # not select(): descriptors above 1,023 are usual here
        poller.register(self._stream.transport_stream.socket.fileno(), select.POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        """Close at once, without TLS's good-bye: nothing is in progress, or what is has failed."""
        self._stream.transport_stream.socket.close()


class Pool:
    """At most ``size()`` connections at once; the most recently used idle one is taken first, so that the rest can go."""

    def __init__(
        self,
        address: Address,
        pin: UpstreamPin,
        *,
        size: int,
        dial: Callable[..., Awaitable[trio.SSLStream[trio.SocketStream]]] = connect,
    ) -> None:
        self._address, self._pin, self._dial = address, pin, dial
        self._idle: list[Upstream] = []
        self._life = 0
        self.limiter = trio.CapacityLimiter(size)

    def resize(self, size: int) -> None:
        """Change the cap on connections; those above it end as they are given back."""
        self.limiter.total_tokens = size

    def child_ended(self) -> None:
        """Forget every connection of the life of the child that has just ended."""
        self._life += 1
        for upstream in self._idle:
            upstream.close()
        self._idle.clear()

    async def acquire(self, *, fresh: bool = False) -> Upstream:
        """Take a connection, kept alive or (always, when ``fresh``) new. Give it back by :meth:`release`.

        Raises UpstreamLost with ``sent=False`` when none can be opened. Waits for a free place: bound it.
        """
        # Borrowed on behalf of the connection and not of the task: one task may hold two for a moment, while it retries.
        borrower = object()
        await self.limiter.acquire_on_behalf_of(borrower)
        try:
            while self._idle and not fresh:
                upstream = self._idle.pop()
                if upstream.is_quiet():
                    upstream.borrower = borrower
                    return upstream
                upstream.close()
            life = self._life
            try:
                upstream = Upstream(await self._dial(self._address, self._pin), life)
            except _BROKEN as error:
                raise UpstreamLost(
                    f"cannot connect to kanidmd on {self._address}: {error.__cause__ or error}", sent=False
                ) from None
            upstream.borrower = borrower
        except BaseException:
            self.limiter.release_on_behalf_of(borrower)
            raise
        return upstream

    def release(self, upstream: Upstream) -> None:
        """Give a connection back; it is kept when it can take another request and its child still lives."""
        self.limiter.release_on_behalf_of(upstream.borrower)
        if upstream.life == self._life and len(self._idle) < MOST_IDLE and upstream.recycle():
            self._idle.append(upstream)
        else:
            upstream.close()
