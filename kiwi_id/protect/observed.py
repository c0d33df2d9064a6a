"""An exchange that remembers what was answered: the head, and the beginning of the body."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

from kiwi_id.proxy.exchange import Exchange
from kiwi_id.proxy.rules import Headers

T = TypeVar("T")

# An answer of /v1/auth is some hundred bytes; a passkey's challenge more, but its state stands in the beginning.
_KEPT = 1024


class Observed(Exchange):
    """``exchange``, and what goes out through it: ``answer`` are the headers, ``beginning`` the first bytes of the body."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.answer: Headers = []
        self.beginning = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange, name)

    # Attributes with a default there, that we never set.
    @property
    def status(self) -> int:  # type: ignore[override]
        """The status of the answer, 0 before its head was handed out."""
        return self._exchange.status

    @property
    def sent_bytes(self) -> int:  # type: ignore[override]
        """Bytes of the answer's body so far."""
        return self._exchange.sent_bytes

    @property
    def received_bytes(self) -> int:  # type: ignore[override]
        """Bytes of the request's body so far."""
        return self._exchange.received_bytes

    def start(self, status: int, headers: Headers, reason: bytes = b"") -> None:
        """Begin the response."""
        self.answer = headers
        self._exchange.start(status, headers, reason)

    def write(self, data: bytes) -> None:
        """Add a piece of the response body."""
        if len(self.beginning) < _KEPT:
            self.beginning += data[: _KEPT - len(self.beginning)]
        self._exchange.write(data)

    # -- as it is ------------------------------------------------------------------------------------------------------------

    def body_at_hand(self) -> bytes | None:
        """Return the whole request body when it has arrived already."""
        return self._exchange.body_at_hand()

    def body(self) -> AsyncGenerator[bytes, None]:
        """Yield the request body in pieces."""
        return self._exchange.body()

    async def read_body(self, limit: int) -> bytes:
        """Return the whole request body."""
        return await self._exchange.read_body(limit)

    @property
    def request_trailers(self) -> Headers:
        """Trailer fields of a chunked request body."""
        return self._exchange.request_trailers

    async def informational(self, status: int, headers: Headers) -> None:
        """Send a 1xx response."""
        await self._exchange.informational(status, headers)

    def finish(self, trailers: Headers | None = None) -> None:
        """End the response."""
        self._exchange.finish(trailers)

    async def flush(self) -> None:
        """Send what has been written."""
        await self._exchange.flush()

    async def attended(self, wait: Callable[[], Awaitable[T]], patience: float) -> T:
        """Await ``wait()`` while the client stays."""
        return await self._exchange.attended(wait, patience)
