"""One client connection: HTTP/1.1, request after request, each handed to the handler as an :class:`Exchange`.

This stands in place of Hypercorn's per-connection server, which spends about a millisecond a request, takes a stray byte for the
end of the whole server, and shields its sends without a deadline (docs/architecture.md, "The connection loop").
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress

import trio

from kiwi_id.config import Limits
from kiwi_id.logs import Log
from kiwi_id.proxy import pages, rules
from kiwi_id.proxy.crowd import Shared
from kiwi_id.proxy.exchange import Aborted, ClientGone, Handler
from kiwi_id.proxy.guard import Guard
from kiwi_id.proxy.http1 import Http1Exchange
from kiwi_id.proxy.parser import parse_request
from kiwi_id.proxy.rules import BadRequest
from kiwi_id.proxy.stream import READ_SIZE, Late, Stream
from kiwi_id.proxy.writer import ResponseWriter
from kiwi_id.values import Network

log = Log("front")
access_log = Log("access")

# A client that has sent its request may close its sending side and still read (RFC 9112 §9.6 allows it), and a FIN looks the
# same when it has gone for good. It gets this long, in seconds, for its answer to begin; Kanidm needs milliseconds.
HALF_CLOSE_GRACE = 2.0
LINGER = 1.0
# A connection that is new when the drain begins gets so long to bring its first request, seconds: it was accepted, so its client
# counts on an answer, while whoever keeps an idle one knows that it may be closed at any time (RFC 9112 §9.3.1).
FRESH_GRACE = 0.5
# Good enough to choose between two ways of saying no, for a request that may not even be one.
_WANTS_HTML = re.compile(rb"\r\naccept:[^\r\n]*text/html", re.IGNORECASE)
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class Settings:
    """What a connection reads anew at each request. Replaced as a whole by a reload.

    ``guard`` judges Host and administration paths; None when everybody may ask for everything by any name.
    """

    def __init__(self, limits: Limits, trusted: tuple[Network, ...], guard: Guard | None = None) -> None:
        self.limits, self.trusted, self.guard = limits, trusted, guard


class Connection:
    """A client's connection. ``serve`` runs it to its end; ``drain`` asks it to end after the request in progress."""

    def __init__(
        self,
        stream: Stream,
        peer: tuple[str, int],
        scheme: str,
        *,
        handler: Handler,
        settings: Callable[[], Settings],
        shared: Shared,
    ) -> None:
        self.shared = shared
        self.stream, self.peer, self.scheme = stream, peer, scheme
        self.settings = settings
        self.draining = False
        self.eof = False
        self.buffer = bytearray()
        self._handler = handler
        self._head_by: float | None = None  # while a head is awaited: until when
        self._fresh = True
        self._unwanted = False
        self._guard: Guard | None = None

    def drain(self) -> None:
        """End the connection as soon as no request is in progress on it: now, when it is idle."""
        self.draining = True
        if self._head_by is not None and not self.buffer:
            self._expect_head(min(self._head_by, self._drained_at()))

    def make_room(self) -> None:
        """End the connection, which waits for a request (see :class:`Crowd`), without a word: its place is needed."""
        self.draining = self._unwanted = True
        if self._head_by is not None:
            self.stream.ring()

    def _drained_at(self) -> float:
        """When a connection on which nothing has been asked for since is ended, now that it drains."""
        return trio.current_time() + FRESH_GRACE if self._fresh else float("-inf")

    async def serve(self) -> None:
        """Serve requests until the connection ends. The stream is closed by the caller."""
        with suppress(ClientGone):
            head: bytes | None = None
            try:
                first = True
                while (head := await self._receive_head(first)) is not None:
                    first = self._fresh = False
                    exchange = self._exchange(head)
                    await self._handle(exchange)
                    head = None
                    if self.draining or not exchange.reusable:
                        break
                    if self.buffer:  # it pipelines, and what is answered without waiting would let nobody else have a turn
                        await trio.lowlevel.checkpoint()
            except BadRequest as refusal:
                await self._refuse(refusal, head or bytes(self.buffer))
        if not (self._unwanted or self.stream.closed):
            await self._linger()

    async def _receive_head(self, first: bool) -> bytes | None:
        """Return the raw head of the next request, or None when there is none. Raises BadRequest."""
        limits = self.settings().limits
        buffer, scanned = self.buffer, 0
        # A new connection that says nothing is a held resource; a kept-alive one is a browser that may come back.
        patience = limits.header_timeout if first or buffer else limits.keep_alive_timeout
        deadline = trio.current_time() + patience
        idle = not buffer
        self._expect_head(min(deadline, self._drained_at()) if self.draining and idle else deadline)
        self.shared.heads.join(self)
        try:
            while True:
                while buffer.startswith(b"\r\n"):  # RFC 9112 §2.2: an empty line before a request is ignored
                    del buffer[:2]
                    scanned = 0
                if buffer:
                    if (head := self._cut_head(scanned, limits.max_header_bytes)) is not None:
                        return head
                    scanned = len(buffer)
                    if idle:
                        idle = False
                        self._expect_head(trio.current_time() + limits.header_timeout)
                if self.eof or (self.draining and not buffer and not first):
                    return None
                data = await self.receive()
                if not data:
                    self.eof = True
                    if buffer:
                        return None
                buffer += data
        except Late:
            pass
        finally:
            self._expect_head(None)
            self.shared.heads.leave(self)
        if not self.draining:
            self._time_is_up(first)
        return None

    def _cut_head(self, scanned: int, most: int) -> bytes | None:
        """Take a whole head out of the buffer, whose first ``scanned`` bytes have been looked at. Raises BadRequest."""
        buffer = self.buffer
        end = buffer.find(b"\r\n\r\n", max(0, scanned - 3))
        if end < 0 or scanned:  # one that comes whole, as nearly all do, is judged by parse_request alone
            rules.check_head(buffer, scanned, end + 4 if end >= 0 else len(buffer))
        if 0 <= end <= most - 4:
            head = bytes(buffer[: end + 4])
            del buffer[: end + 4]
            return head
        if len(buffer) > most:
            raise BadRequest(431, "headers_too_large", "Request line and headers are larger than allowed here.")
        return None

    def _expect_head(self, by: float | None) -> None:
        self._head_by = by
        self.stream.expect_by(by)

    def _time_is_up(self, first: bool) -> None:
        """Judge a client that sent no whole head in its time: a kept-alive one owes us none. Raises BadRequest."""
        if self.buffer:
            raise BadRequest(408, "slow_headers", "The request's headers took too long to arrive.")
        if first:
            self.shared.refusals.count("silent_connection", self.peer[0])

    async def receive(self) -> bytes:
        """Return the next bytes of the client, empty at its end. Raises ClientGone."""
        try:
            return await self.stream.receive()
        except _GONE:
            raise ClientGone from None

    def _exchange(self, head: bytes) -> Http1Exchange:
        request = parse_request(head)
        headers = request.headers
        host = next((value for name, value in headers if name == b"host"), None)
        target, host = rules.origin_form(request.method, request.target, host)
        settings = self.settings()
        self._guard = settings.guard
        exchange = Http1Exchange(self, settings.limits, request, target)
        exchange.origin = rules.find_origin(self.peer[0], self.scheme, headers, host, settings.trusted)
        return exchange

    async def _handle(self, exchange: Http1Exchange) -> None:
        began = time.perf_counter()
        outcome = ""
        try:
            try:
                exchange.check_expectation()
                if self._guard is not None:
                    self._guard.check(exchange)
                await self._handler(exchange)
            except BadRequest as refusal:
                self.shared.refusals.count(refusal.code, exchange.origin.client, status=refusal.status)
                if exchange.started:
                    raise Aborted(refusal.code) from None
                exchange.close_after()
                await exchange.respond_error(refusal.status, refusal.code, refusal.message, retry_after=refusal.retry_after)
        except ClientGone:
            outcome = "client gone"
            raise
        except Aborted as error:
            outcome = f"aborted: {error}"
            self.stream.abort()  # to an HTTP/1.0 client an orderly end would mean that the response was complete
            raise ClientGone from None
        except Exception as error:  # noqa: BLE001 - a bug of ours costs one request, never the server
            log.crash("unexpected error in a request", error, request_id=exchange.request_id.decode("latin-1"))
            outcome = "internal error"
            if exchange.started:
                self.stream.abort()
                raise ClientGone from None
            exchange.close_after()
            await exchange.respond_error(500, "internal_error", "An unexpected error occurred. It has been logged.")
        except BaseException:  # Cancelled, by itself or in a nursery's group
            outcome = "cancelled"
            raise
        finally:
            exchange.log(time.perf_counter() - began, outcome)

    async def _refuse(self, refusal: BadRequest, head: bytes) -> None:
        """Answer what could not even become an exchange, and end the connection."""
        request_id = rules.request_id([])
        html_wanted = _WANTS_HTML.search(head) is not None
        headers, body = pages.error(refusal.status, refusal.code, refusal.message, request_id=request_id, html_wanted=html_wanted)
        self.shared.refusals.count(refusal.code, self.peer[0], status=refusal.status)
        access_log.info(
            "request", status=refusal.status, error=refusal.code, client=self.peer[0], request_id=request_id.decode("latin-1")
        )
        writer = ResponseWriter(b"", b"1.1")
        writer.start(refusal.status, headers, b"", close=True)
        writer.write(body)
        with trio.move_on_after(LINGER), suppress(*_GONE):
            await self.stream.send(writer.take())

    async def _linger(self) -> None:
        """Close so that the client can read what we sent: a close with unread bytes of its would reset the connection."""
        self.stream.say_goodbye()
        if not self.eof:
            with trio.move_on_after(LINGER):
                await self.stream.discard()

    async def watch(self, cancel: trio.CancelScope) -> None:
        """Read ahead while a request is in progress; cancel ``cancel`` when the client has gone."""
        try:
            while not self.eof:
                if len(self.buffer) > READ_SIZE:  # it pipelines: it is there, and what it sends can wait
                    return
                data = await self.stream.receive()
                self.buffer += data
                self.eof = not data
            await trio.sleep(HALF_CLOSE_GRACE)
        except _GONE:
            pass
        cancel.cancel()
