"""One request and its response, as the handlers of the front see them; and the small interfaces between the rooms.

Whatever parses connections hands out :class:`Exchange` objects, whatever answers is a :data:`Handler`: either side can be
replaced for speed without the other noticing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from kiwi_id.proxy import pages
from kiwi_id.proxy.rules import Headers, Origin

T = TypeVar("T")


class ClientGone(Exception):
    """The client has left, or stopped moving bytes, before its response was complete."""


class TooSlow(Exception):
    """What was waited for did not come in time."""


class Aborted(Exception):
    """The response cannot be completed after its head was sent; the client's connection must end so that it can tell."""


class Exchange(ABC):
    """A request (attributes) and the means to answer it (methods).

    ``held_up`` while it waits for its client to send more of the body or to take more of the answer.

    ``target`` is path and query, ``path`` without the query; ``headers`` are lower-case names; ``has_body`` tells whether a
    request body follows; ``status``, ``sent_bytes``, ``received_bytes`` count for the log; ``notes`` are extra log fields.
    """

    method: bytes
    target: bytes
    path: bytes
    version: bytes
    headers: Headers
    origin: Origin
    request_id: bytes
    has_body: bool
    expects_continue: bool
    peer: tuple[str, int]
    status: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    held_up: bool = False
    notes: dict[str, object]

    @property
    def started(self) -> bool:
        """Whether the head of the response has been handed out already."""
        return self.status != 0

    @abstractmethod
    def body_at_hand(self) -> bytes | None:
        """Return the whole request body when it has arrived already, without waiting; else None, and read :meth:`body`."""

    @abstractmethod
    def body(self) -> AsyncGenerator[bytes, None]:
        """Yield the request body in pieces as they arrive; ``request_trailers`` is complete afterwards.

        Call it once, and before a concurrent :meth:`attended`: from the call on its bytes are the reader's alone. Raises ClientGone
        when it stops arriving, BadRequest when it is malformed or larger than the limit.
        """

    @abstractmethod
    async def read_body(self, limit: int) -> bytes:
        """Return the whole request body, of ``limit`` bytes at most; whoever handles the exchange next can read it again.

        Raises ClientGone and BadRequest as :meth:`body` does.
        """

    @property
    @abstractmethod
    def request_trailers(self) -> Headers:
        """Trailer fields of a chunked request body, once it has been read."""

    @abstractmethod
    async def informational(self, status: int, headers: Headers) -> None:
        """Send a 1xx response, such as 100 (Continue). Raises ClientGone."""

    @abstractmethod
    def start(self, status: int, headers: Headers, reason: bytes = b"") -> None:
        """Begin the response; nothing is sent before :meth:`flush`, so that head and first bytes leave together."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Add a piece of the response body."""

    @abstractmethod
    def finish(self, trailers: Headers | None = None) -> None:
        """End the response."""

    @abstractmethod
    async def flush(self) -> None:
        """Send what has been written. Raises ClientGone."""

    @abstractmethod
    async def attended(self, wait: Callable[[], Awaitable[T]], patience: float) -> T:
        """Await ``wait()`` while the client stays: raise ClientGone as soon as it leaves, TooSlow after ``patience`` seconds.

        ``wait`` may be cancelled and called again, so it must lose nothing by that: a receive is fine, a send is not.
        """

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response. Raises ClientGone."""
        self.start(status, headers)
        if body and self.method != b"HEAD":
            self.write(body)
        self.finish()
        await self.flush()

    async def respond_error(
        self, status: int, code: str, message: str, *, retry_after: int | None = None, headers: Headers | None = None
    ) -> None:
        """Send our own error page, or JSON, in answer to the request; ``headers`` are added to it. Raises ClientGone."""
        own, body = pages.error(
            status,
            code,
            message,
            request_id=self.request_id,
            html_wanted=pages.wants_html(self.headers),
            retry_after=retry_after,
            method=self.method,
        )
        self.notes.setdefault("error", code)
        await self.respond(status, [*own, *(headers or [])], body)


Handler = Callable[[Exchange], Awaitable[None]]
