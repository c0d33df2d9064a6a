"""An :class:`Exchange` on an HTTP/1.1 connection: bodies in and out, 100-continue, disconnects, and the canonical log line."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, TypeVar

import trio

from kiwi_id.config import Limits
from kiwi_id.logs import Log
from kiwi_id.proxy import rules
from kiwi_id.proxy.crowd import Scope
from kiwi_id.proxy.exchange import ClientGone, Exchange, TooSlow
from kiwi_id.proxy.pace import Pace
from kiwi_id.proxy.pace import TooSlow as TooSlowClient
from kiwi_id.proxy.parser import ChunkedBody, RequestHead
from kiwi_id.proxy.rules import BadRequest, Headers
from kiwi_id.proxy.writer import ResponseWriter

if TYPE_CHECKING:
    from kiwi_id.proxy.connection import Connection

access_log = Log("access")

T = TypeVar("T")

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class Http1Exchange(Exchange):
    """An exchange on an HTTP/1.1 connection."""

    def __init__(self, connection: Connection, limits: Limits, head: RequestHead, target: bytes) -> None:
        self._connection, self._limits = connection, limits
        self.method, self.target, self.version, self.headers = head.method, target, head.version, head.headers
        self.path = target.partition(b"?")[0]
        self.peer = connection.peer
        self.request_id = rules.request_id(head.headers)
        self.notes = {}
        self._writer = ResponseWriter(head.method, head.version)
        self._close = connection.draining or head.version != b"1.1"
        self._whole: bytes | None = None
        self._reading: trio.Event | None = None
        self._length, self._chunks, self._expects = 0, None, None
        for name, value in head.headers:
            if name == b"content-length":
                self._length = int(value)
            elif name == b"transfer-encoding":
                self._chunks = ChunkedBody()
            elif name == b"expect":
                self._expects = value.lower()
            elif name == b"connection" and b"close" in value.lower():
                self._close = True
        self.has_body = self._chunks is not None or self._length > 0
        self.expects_continue = self.has_body and self._expects == b"100-continue" and head.version == b"1.1"
        self._all_read = not self.has_body

    _chunks: ChunkedBody | None
    _expects: bytes | None
    _sending: Pace | None = None  # made when the client first does not take at once what it is sent

    def check_expectation(self) -> None:
        """Refuse what cannot be met: another Expect than 100-continue, or a body that says it is too large."""
        if self._expects not in (None, b"100-continue"):
            raise BadRequest(417, "expectation_failed", "The only expectation that is met here is 100-continue.")
        if self._length > self._limits.max_body_bytes:
            raise self._too_large(self._limits.max_body_bytes)

    def close_after(self) -> None:
        """End the connection after this response."""
        self._close = True

    @property
    def reusable(self) -> bool:
        """Whether both messages are complete, and the connection can take another request."""
        return self._writer.ended and self._all_read and not self._close

    # -- the request's body --------------------------------------------------------------------------------------------------

    async def read_body(self, limit: int) -> bytes:
        whole = self.body_at_hand()
        if whole is None:
            if self.expects_continue:
                self.expects_continue = False
                await self.informational(100, [])
            parts: list[bytes] = []
            async with aclosing(self.body()) as pieces:
                async for piece in pieces:
                    parts.append(piece)
                    if self.received_bytes > limit:
                        break
            whole = b"".join(parts)
        if len(whole) > limit:
            raise self._too_large(limit)
        self._whole = whole
        return whole

    def body_at_hand(self) -> bytes | None:
        if self._whole is not None:
            return self._whole
        if not self.has_body:
            return b""
        buffer = self._connection.buffer
        if self.expects_continue or self._chunks is not None or self.received_bytes or self._length > len(buffer):
            return None
        whole = bytes(buffer[: self._length])
        del buffer[: self._length]
        self.received_bytes = self._length
        self._all_read = True
        return whole

    def body(self) -> AsyncGenerator[bytes, None]:
        # From here on the connection's bytes are the body's reader's, and not those of whoever watches whether the client stays.
        self._reading = trio.Event()
        return self._body(self._reading)

    async def _body(self, finished: trio.Event) -> AsyncGenerator[bytes, None]:
        connection = self._connection
        pace = Pace(self._limits.body_timeout, self._limits.min_rate)
        data = bytes(connection.buffer)
        connection.buffer.clear()
        while True:
            if self._chunks is not None:
                piece, rest = self._chunks.feed(data)
                ended = self._chunks.done
            else:
                left = self._length - self.received_bytes
                piece, rest = data[:left], data[left:]
                ended = len(data) >= left
            self.received_bytes += len(piece)
            if self.received_bytes > self._limits.max_body_bytes:
                raise self._too_large(self._limits.max_body_bytes)
            if ended:  # before the last piece is handed out: who has it need not come back
                connection.buffer += rest
                self._all_read = True
                finished.set()
            if piece:
                yield piece
            if ended:
                return
            self.held_up = True
            try:
                data = await pace.receive(connection.stream)
            except TooSlowClient:
                raise BadRequest(408, "slow_body", "The request body took too long to arrive.") from None
            except _GONE:
                raise ClientGone from None
            finally:
                self.held_up = False
            if not data:
                connection.eof = True
                raise ClientGone

    @staticmethod
    def _too_large(limit: int) -> BadRequest:
        return BadRequest(413, "body_too_large", f"The request body may have {limit} bytes at most here.")

    @property
    def request_trailers(self) -> Headers:
        return self._chunks.trailers if self._chunks is not None else []

    # -- the response --------------------------------------------------------------------------------------------------------

    async def informational(self, status: int, headers: Headers) -> None:
        if self.version == b"1.1":
            self._writer.informational(status, headers)
            await self.flush()

    def start(self, status: int, headers: Headers, reason: bytes = b"") -> None:
        # While the request body has not been read to its end, the next request's beginning is unknown. After the client's FIN what
        # it had sent before is still served.
        connection = self._connection
        ended = connection.eof and not connection.buffer
        self._close = self._close or ended or not self._all_read or connection.draining
        self.status = status
        self._close = self._writer.start(status, headers, reason, close=self._close)

    def write(self, data: bytes) -> None:
        self.sent_bytes += len(data)
        self._writer.write(data)

    def finish(self, trailers: Headers | None = None) -> None:
        self._writer.finish(trailers or [])

    async def flush(self) -> None:
        data = self._writer.take()
        if not data:
            return
        stream = self._connection.stream
        try:
            sent = stream.send_now(data)
            if sent < len(data):
                await self._send_slowly(memoryview(data)[sent:])
        except _GONE:
            raise ClientGone from None

    async def _send_slowly(self, data: memoryview) -> None:
        """Send what the client does not take at once, as long as it keeps pace, and as others do not need the place more."""
        pace = self._sending = self._sending or Pace(self._limits.body_timeout, self._limits.min_rate)
        readers = self._connection.shared.readers
        with trio.CancelScope() as scope, suppress(TooSlowClient):
            reader = Scope(scope)
            readers.join(reader)
            self.held_up = True
            try:
                # Each of them may hold a connection to kanidmd, with an answer on it that is not read to its end.
                if len(readers) > max(1, self._limits.upstream_connections // 4):
                    readers.end_longest()
                await pace.send(self._connection.stream, data)
                return
            finally:
                self.held_up = False
                readers.leave(reader)
        self._connection.shared.refusals.count("slow_reader", self.peer[0])
        self.notes["error"] = "slow_reader"
        self._connection.stream.abort()
        raise ClientGone

    async def attended(self, wait: Callable[[], Awaitable[T]], patience: float) -> T:
        result: list[T] = []
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            try:
                with trio.CancelScope(deadline=trio.current_time() + patience) as scope:
                    result.append(await wait())
                if scope.cancelled_caught:
                    failure = TooSlow()
            except Exception as error:  # noqa: BLE001 - carried out of the nursery, which would wrap it in a group
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if not result:
            raise ClientGone
        return result[0]

    async def _watch(self, cancel: trio.CancelScope) -> None:
        if self._reading is not None:
            await self._reading.wait()  # until the body is complete, whoever reads it notices
        await self._connection.watch(cancel)

    def log(self, seconds: float, outcome: str) -> None:
        """Write the canonical line of this request: no query, no header values, nothing that opens a session."""
        fields: dict[str, object] = {
            "method": self.method.decode("ascii", "replace"),
            "path": self.path[:256].decode("ascii", "replace"),
            "status": self.status,
            "in": self.received_bytes,
            "out": self.sent_bytes,
            "ms": round(seconds * 1000, 2),
            "client": self.origin.client,
            "request_id": self.request_id.decode("latin-1"),
            **self.notes,
        }
        if outcome:
            fields["outcome"] = outcome
        access_log.info("request", **fields)
