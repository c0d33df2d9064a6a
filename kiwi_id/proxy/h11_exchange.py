"""An :class:`Exchange` on an h11 connection: bodies in and out, 100-continue, disconnects, and the canonical log line."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

import h11
import trio

from kiwi_id.config import Limits
from kiwi_id.logs import Log
from kiwi_id.proxy import rules
from kiwi_id.proxy.chunks import ChunkCheck
from kiwi_id.proxy.exchange import Aborted, ClientGone, Exchange
from kiwi_id.proxy.rules import BadRequest, Headers

if TYPE_CHECKING:
    from kiwi_id.proxy.connection import Connection

access_log = Log("access")

T = TypeVar("T")

# Answers usually come sooner than this; only then is a second task started that watches the client meanwhile.
UNATTENDED = 0.05
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class H11Exchange(Exchange):
    """An exchange on an h11 connection."""

    def __init__(self, connection: Connection, limits: Limits, event: h11.Request, headers: Headers, target: bytes) -> None:
        self._connection, self._limits, self._h11 = connection, limits, connection.h11
        self.method, self.target, self.version, self.headers = event.method, target, event.http_version, headers
        self.path = target.partition(b"?")[0]
        self.peer = connection.peer
        self.request_id = rules.request_id(headers)
        self.notes = {}
        self._out: list[bytes] = []
        self._trailers: Headers = []
        self._whole: bytes | None = None
        self._close = connection.draining or connection.eof
        self.has_body = any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")) for name, value in headers
        )
        self.expects_continue = self.has_body and self._h11.they_are_waiting_for_100_continue
        self._chunked_reply = False
        # h11's own state is no guide to whether the body has been read: an Upgrade field keeps it from being DONE.
        self._all_read = not self.has_body
        self._reading: trio.Event | None = None
        if not self.has_body:
            self._h11.next_event()  # the end of the message, so that h11 knows it, too

    def check_expectation(self) -> None:
        """Refuse what cannot be met: another Expect than 100-continue, or a body that says it is too large."""
        for name, value in self.headers:
            if name == b"expect" and value.lower() != b"100-continue":
                raise BadRequest(417, "expectation_failed", "The only expectation that is met here is 100-continue.")
            if name == b"content-length" and int(value) > self._limits.max_body_bytes:
                raise BadRequest(413, "body_too_large", f"The request body may have {self._limits.max_body_bytes} bytes at most.")

    def close_after(self) -> None:
        """End the connection after this response."""
        self._close = True

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
            raise BadRequest(413, "body_too_large", f"The request body may have {limit} bytes at most here.")
        self._whole = whole
        return whole

    def body_at_hand(self) -> bytes | None:
        if self._whole is not None:
            return self._whole
        if not self.has_body:
            return b""
        if self.expects_continue or self.received_bytes:
            return None
        buffer = self._connection.buffer
        length = next((int(value) for name, value in self.headers if name == b"content-length"), -1)
        if not 0 <= length <= len(buffer):
            return None
        self._h11.receive_data(bytes(buffer[:length]))
        del buffer[:length]
        parts: list[bytes] = []
        while isinstance(event := self._h11.next_event(), h11.Data):
            parts.append(bytes(event.data))
        self.received_bytes = length
        self._all_read = True
        return b"".join(parts)

    def body(self) -> AsyncGenerator[bytes, None]:
        # From here on the connection's bytes are the body's reader's, and not those of whoever watches whether the client stays.
        self._reading = trio.Event()
        return self._body(self._reading)

    async def _body(self, finished: trio.Event) -> AsyncGenerator[bytes, None]:
        connection = self._connection
        chunks = ChunkCheck() if any(name == b"transfer-encoding" for name, _ in self.headers) else None
        if connection.buffer:
            if chunks is not None:
                chunks.feed(bytes(connection.buffer))
            self._h11.receive_data(bytes(connection.buffer))
            connection.buffer.clear()
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError:
                if connection.eof:
                    raise ClientGone from None
                raise BadRequest(400, "malformed_body", "The request body's chunks or length are wrong.") from None
            if event is h11.NEED_DATA:
                with trio.move_on_after(self._limits.body_timeout) as scope:
                    data = await connection.receive()
                if scope.cancelled_caught:
                    raise BadRequest(408, "request_timeout", "The request body took too long to arrive.")
                connection.eof = not data
                if chunks is not None:
                    chunks.feed(data)
                self._h11.receive_data(data)
            elif isinstance(event, h11.Data):
                self.received_bytes += len(event.data)
                if self.received_bytes > self._limits.max_body_bytes:
                    raise BadRequest(413, "body_too_large", f"The body may have {self._limits.max_body_bytes} bytes at most.")
                yield bytes(event.data)
            else:
                if isinstance(event, h11.EndOfMessage):
                    self._trailers = list(event.headers)
                self._all_read = True
                finished.set()
                return

    @property
    def request_trailers(self) -> Headers:
        return self._trailers

    async def informational(self, status: int, headers: Headers) -> None:
        if self.version == b"1.1":
            self._out.append(self._h11.send(h11.InformationalResponse(status_code=status, headers=headers)) or b"")
            await self.flush()

    def start(self, status: int, headers: Headers, reason: bytes = b"") -> None:
        # While the request body has not been read to its end, the next request's beginning is unknown.
        if self._close or not self._all_read or self._connection.draining:
            headers = [*headers, (b"connection", b"close")]
        self.status = status
        reason = reason or REASONS.get(status, b"")
        head = self._h11.send(h11.Response(status_code=status, headers=headers, reason=reason)) or b""
        self._out.append(head)
        # Elsewhere there is no place for trailers, and h11 would break off a response that has them.
        self._chunked_reply = self.method != b"HEAD" and b"\r\nTransfer-Encoding: chunked\r\n" in head

    def write(self, data: bytes) -> None:
        self.sent_bytes += len(data)
        self._out.append(self._h11.send(h11.Data(data=data)) or b"")

    def finish(self, trailers: Headers | None = None) -> None:
        try:
            self._out.append(self._h11.send(h11.EndOfMessage(headers=trailers if trailers and self._chunked_reply else [])) or b"")
        except h11.LocalProtocolError:
            raise Aborted("the response is shorter than its Content-Length") from None

    async def flush(self) -> None:
        if not self._out:
            return
        data, self._out = b"".join(self._out), []
        with trio.move_on_after(self._limits.body_timeout) as scope:
            try:
                await self._connection.stream.send_all(data)
            except _GONE:
                raise ClientGone from None
        if scope.cancelled_caught:
            raise ClientGone

    async def attended(self, wait: Callable[[], Awaitable[T]]) -> T:
        with trio.move_on_after(UNATTENDED):
            return await wait()
        result: list[T] = []
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            try:
                result.append(await wait())
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
