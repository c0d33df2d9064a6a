"""Connections to kanidmd: opened over the pinned TLS, kept alive, thrown away together when a life of the child ends."""

from __future__ import annotations

import select
import ssl
from collections.abc import Awaitable, Callable

import trio

from kiwi_id.kanidm.pin import UpstreamPin
from kiwi_id.kanidm.probe import acknowledge_now, connect
from kiwi_id.proxy import writer
from kiwi_id.proxy.exchange import Exchange, TooSlow
from kiwi_id.proxy.parser import BadResponse, ResponseHead, ResponseParser
from kiwi_id.proxy.rules import Headers
from kiwi_id.proxy.stream import Stream
from kiwi_id.values import Address

MOST_IDLE = 64
# Seconds after which an idle connection is not used again: kanidmd may be about to close it, and a POST that crosses that close
# is lost, because it is never sent twice.
MAX_IDLE = 15.0
# What kanidmd (hyper) reads at once, bytes. It may answer before it has read a body that goes beyond this, and it closes the
# connection then, without having said so: a POST that crosses that close is lost as well.
ONE_READ = 8192
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, ssl.SSLError)


class UpstreamLost(Exception):
    """The connection to kanidmd failed. ``sent`` tells whether bytes of the request may have reached it."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Place:
    """A place among the connections to kanidmd. ``exchange``: the request that has it, where it is a client's and not our own."""

    __slots__ = ("exchange",)

    def __init__(self) -> None:
        self.exchange: Exchange | None = None

    @property
    def held_up(self) -> bool:
        """Whether it is the client that the request waits for, and not kanidmd."""
        return self.exchange is not None and self.exchange.held_up


class Upstream:
    """One HTTP/1.1 connection to kanidmd; every failure of it raises UpstreamLost.

    ``response`` is the parser of the answer to the request that was sent last; :meth:`receive` brings it on. A send that kanidmd
    does not take within ``patience`` seconds raises TooSlow.
    """

    def __init__(self, stream: Stream, life: int) -> None:
        self._stream = stream
        self.life = life
        self.place = Place()
        self.response = ResponseParser(b"")
        self._ended = False  # the request has been sent to its end
        self._read_whole = False  # kanidmd cannot but have read all of the request, answered or not
        self._chunked = False
        self._left = 0  # bytes of a body with Content-Length that are still to be sent
        self.patience = float("inf")
        self._fresh = True
        self._used = 0.0
        self._poller = select.poll()  # not select(): descriptors above 1,023 are usual here
        self._poller.register(stream.socket.fileno(), select.POLLIN)

    async def send_head(self, method: bytes, target: bytes, headers: Headers, body: bytes | None) -> None:
        """Send a request's head, and with it the whole ``body`` when that is known (None: it follows).

        A whole request that cannot be sent to its end raises nothing: kanidmd may have answered before it closed the connection,
        and whoever receives gets that answer, or UpstreamLost.
        """
        self.response = ResponseParser(method)
        self._ended, self._chunked = body is not None, False
        length = next((value for name, value in headers if name == b"content-length"), None)
        self._left = int(length or 0)
        if body != b"" and length is None:
            # The client sent it chunked; that was for its connection only.
            self._chunked = body is None
            framing = (b"transfer-encoding", b"chunked") if body is None else (b"content-length", b"%d" % len(body))
            headers = [*headers, framing]
        out = writer.head(b"%s %s HTTP/1.1" % (method, target), headers)
        self._read_whole = body is not None and (not body or len(out) + len(body) <= ONE_READ)
        try:
            await self._send(out + body if body else out)
        except UpstreamLost:
            if body is None:
                raise

    async def send_body(self, data: bytes) -> None:
        """Send a piece of the request body."""
        if self._chunked:
            await self._send(b"%x\r\n%s\r\n" % (len(data), data))
            return
        self._left -= len(data)
        self._ended = self._left == 0  # before it is sent: the answer may be here before this task goes on
        await self._send(data)

    async def end_body(self, trailers: Headers) -> None:
        """End the request body."""
        if self._chunked:
            await self._send(writer.head(b"0", trailers))
        self._ended = True

    async def _send(self, data: bytes) -> None:
        stream = self._stream
        try:
            sent = stream.send_now(data)
            if self._fresh:
                self._fresh = False
                acknowledge_now(stream)
            if sent == len(data):
                return
            with trio.CancelScope(deadline=trio.current_time() + self.patience):
                await stream.send(data[sent:])
                return
        except _BROKEN as error:
            self._ended = False  # whatever is answered, no other request can follow this one
            raise UpstreamLost(f"sending failed: {error}", sent=True) from None
        raise TooSlow

    def expect_within(self, seconds: float | None) -> None:
        """Have the receives raise :class:`~kiwi_id.proxy.stream.Late` when nothing comes for so long; None: never."""
        self._stream.expect_by(None if seconds is None else trio.current_time() + seconds)

    async def receive(self) -> None:
        """Receive some of the response; may be cancelled and called again."""
        response = self.response
        try:
            data = await self._stream.receive()
        except _BROKEN as error:
            raise UpstreamLost(f"receiving failed: {error}", sent=True) from None
        try:
            if data:
                response.feed(data)
            elif not response.end():
                raise UpstreamLost("kanidmd closed the connection", sent=True)
        except BadResponse as error:
            raise UpstreamLost(f"the answer is not valid HTTP/1.1: {error}", sent=True) from None

    async def receive_head(self) -> ResponseHead:
        """Return the next head, be it an interim one; may be cancelled and called again."""
        response = self.response
        while not response.interim and response.head is None:
            await self.receive()
        if response.interim:
            return response.interim.pop(0)
        assert response.head is not None  # noqa: S101 - for the type checker
        return response.head

    def recycle(self) -> bool:
        """Make ready for another request; return False when the connection cannot take one."""
        # Bytes behind the answer would be taken for the answer to the next request, of another client.
        if not (self._ended and self._read_whole and self.response.reusable) or self._stream.pending():
            return False
        self._used = trio.current_time()
        return True

    def is_quiet(self) -> bool:
        """Tell whether an idle connection is still good: anything to read on it now is its end, or nobody's answer."""
        if trio.current_time() - self._used > MAX_IDLE:
            return False
        return not self._poller.poll(0)

    def close(self) -> None:
        """Close at once, without TLS's good-bye: nothing is in progress, or what is has failed."""
        self._stream.close()


class Pool:
    """At most ``size()`` connections at once; the most recently used idle one is taken first, so that the rest can go."""

    def __init__(
        self,
        address: Address,
        pin: UpstreamPin,
        *,
        size: int,
        dial: Callable[..., Awaitable[Stream]] = connect,
    ) -> None:
        self._address, self._pin, self._dial = address, pin, dial
        self._idle: list[Upstream] = []
        self._life = 0
        self.limiter = trio.CapacityLimiter(size)

    def resize(self, size: int) -> None:
        """Change the cap on connections; those above it end as they are given back."""
        self.limiter.total_tokens = size

    def places(self) -> set[Place]:
        """Return the places that are taken: one for each request in flight."""
        return {borrower for borrower in self.limiter.statistics().borrowers if isinstance(borrower, Place)}

    def child_ended(self) -> None:
        """Forget every connection of the life of the child that has just ended."""
        self._life += 1
        for upstream in self._idle:
            upstream.close()
        self._idle.clear()

    def take(self) -> Upstream | None:
        """Take an idle connection, when there are one and a place for it right now; else wait for :meth:`acquire`."""
        if self._idle and self.limiter.available_tokens >= 1:
            place = Place()
            self.limiter.acquire_on_behalf_of_nowait(place)
            if (upstream := self._pop(place)) is not None:
                return upstream
            self.limiter.release_on_behalf_of(place)
        return None

    def _pop(self, place: Place) -> Upstream | None:
        while self._idle:
            upstream = self._idle.pop()
            if upstream.is_quiet():
                upstream.place = place
                return upstream
            upstream.close()
        return None

    async def acquire(self, *, fresh: bool = False) -> Upstream:
        """Take a connection, kept alive or (always, when ``fresh``) new. Give it back by :meth:`release`.

        Raises UpstreamLost with ``sent=False`` when none can be opened. Waits for a free place: bound it.
        """
        # Borrowed on behalf of the connection and not of the task: one task may hold two for a moment, while it retries.
        place = Place()
        await self.limiter.acquire_on_behalf_of(place)
        try:
            if not fresh and (idle := self._pop(place)) is not None:
                return idle
            life = self._life
            try:
                upstream = Upstream(await self._dial(self._address, self._pin), life)
            except _BROKEN as error:
                raise UpstreamLost(
                    f"cannot connect to kanidmd on {self._address}: {error.__cause__ or error}", sent=False
                ) from None
            upstream.place = place
        except BaseException:
            self.limiter.release_on_behalf_of(place)
            raise
        return upstream

    def release(self, upstream: Upstream) -> None:
        """Give a connection back; it is kept when it can take another request and its child still lives."""
        self.limiter.release_on_behalf_of(upstream.place)
        if upstream.life == self._life and len(self._idle) < MOST_IDLE and upstream.recycle():
            self._idle.append(upstream)
        else:
            upstream.close()
