"""The forwarder: passes one request to kanidmd and its answer back, streaming both ways with one piece in memory at a time."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from kiwi_id.proxy import rules
from kiwi_id.proxy.connection import Settings
from kiwi_id.proxy.exchange import Aborted, ClientGone, Exchange, TooSlow
from kiwi_id.proxy.gate import RETRY_AFTER, Gate, Shut
from kiwi_id.proxy.parser import ResponseHead
from kiwi_id.proxy.pool import Pool, Upstream, UpstreamLost
from kiwi_id.proxy.rules import BadRequest, Headers
from kiwi_id.proxy.stream import Late

# Safe to ask again when an answer was lost (RFC 9110 §9.2.2 would allow more; Kanidm's PUT and DELETE are not all idempotent).
_REPEATABLE = frozenset({b"GET", b"HEAD"})
_CONTINUE_PATIENCE = 1.0
# Bodies up to this size are awaited before a connection to kanidmd is taken for them: no slow client holds one with less.
_COLLECTED = 65536
# Where kanidmd's redirects may lead to a relying party; all others pass unseen.
_LOGIN_PAGES = b"/ui/oauth2"
# Answers usually come sooner than this, seconds; only then is a second task started that watches the client meanwhile.
UNATTENDED = 0.05

T = TypeVar("T")


@dataclass
class _Upload:
    """A request body on its way: what went wrong with it, for the receiving side to tell, and how long an answer may take."""

    deadline: trio.CancelScope = field(default_factory=trio.CancelScope)
    go_ahead: trio.Event = field(default_factory=trio.Event)
    failed: Exception | None = None


class Forwarder:
    """The handler for everything that is not our own."""

    def __init__(
        self,
        pool: Pool,
        gate: Gate,
        settings: Callable[[], Settings],
        redirected: Callable[[Exchange, Headers], Awaitable[bool]] | None = None,
    ) -> None:
        """``redirected`` sees kanidmd's redirects with their headers; when it returns True it has answered the exchange itself."""
        self._pool, self._gate, self._settings = pool, gate, settings
        self._redirected = redirected
        self._uploads = 0

    def __call__(self, exchange: Exchange) -> Awaitable[None]:
        """Serve the exchange from kanidmd, or answer with 502, 503 or 504 when that fails. Raises BadRequest."""
        return self._serve_with_body(exchange) if exchange.has_body else self._serve(exchange)

    async def _serve_with_body(self, exchange: Exchange) -> None:
        if _is_small(exchange):
            await exchange.read_body(_COLLECTED)
            await self._serve(exchange)
            return
        # A body that is passed on as it comes holds a connection to kanidmd for as long as its client likes, within min_rate. These
        # may take a quarter of the connections, slow readers another, and logins find one among the rest.
        if self._uploads >= max(1, self._settings().limits.upstream_connections // 4):
            message = "Too many large requests are on their way. Try again in a moment."
            raise BadRequest(503, "too_many_uploads", message, retry_after=RETRY_AFTER)
        self._uploads += 1
        try:
            await self._serve(exchange, upload=True)
        finally:
            self._uploads -= 1

    async def _serve(self, exchange: Exchange, *, upload: bool = False) -> None:
        headers = rules.to_upstream(exchange.headers, exchange.origin, exchange.request_id)
        repeatable = exchange.method in _REPEATABLE and not exchange.has_body
        repeats, second_life = 0, False
        while True:
            try:
                await self._gate.wait_open(exchange, upload=upload)
                life = self._gate.life
                upstream = (self._pool.take() if not repeats else None) or await self._acquire(fresh=repeats > 0)
                return await self._attempt(exchange, upstream, headers)
            except Shut:
                await self._unavailable(exchange)
                return
            except TooSlow:
                if exchange.started:
                    raise Aborted("kanidmd stopped sending") from None
                message = "The login service takes too long to answer. Please try again."
                await exchange.respond_error(504, "upstream_timeout", message)
                return
            except UpstreamLost as lost:
                if exchange.started:
                    raise Aborted(str(lost)) from None
                repeats += 1
                # Unsent requests are asked again whatever they are; what may have been sent only when that is harmless, once.
                if (lost.sent and not (repeatable and repeats == 1)) or repeats > 3:
                    # A kanidmd that is ending takes a moment over it, and loses all that it gets meanwhile; the next one is asked.
                    if (repeatable or not lost.sent) and not second_life and await self._gate.life_ends(life):
                        repeats, second_life = 1, True
                        continue
                    exchange.notes["upstream_error"] = str(lost)
                    if not lost.sent:
                        await self._unavailable(exchange)
                        return
                    message = "The login service did not answer properly. Please try again."
                    await exchange.respond_error(502, "upstream_failed", message)
                    return
                # The child's end may not have been noticed yet: give the child task its turn, then wait at the gate.
                await trio.sleep(0.02 * repeats)

    async def _unavailable(self, exchange: Exchange) -> None:
        message = "The login service is not available right now. Please try again in a moment."
        await exchange.respond_error(503, "upstream_unavailable", message, retry_after=RETRY_AFTER)

    async def _acquire(self, *, fresh: bool) -> Upstream:
        with trio.move_on_after(self._settings().limits.gate_timeout):
            return await self._pool.acquire(fresh=fresh)
        raise Shut

    async def _attempt(self, exchange: Exchange, upstream: Upstream, headers: Headers) -> None:
        """Try once. Raises TooSlow, UpstreamLost, ClientGone, Aborted, BadRequest."""
        began = time.perf_counter()
        body = exchange.body_at_hand()
        patience = self._settings().limits.upstream_timeout
        upstream.patience = patience
        upstream.place.exchange = exchange
        try:
            if body is not None:
                await upstream.send_head(exchange.method, exchange.target, headers, body)
                await self._relay(exchange, upstream, await self._head(exchange, upstream, patience))
            else:
                await self._relay_both(exchange, upstream, headers)
        finally:
            exchange.notes["upstream_ms"] = round((time.perf_counter() - began) * 1000, 2)
            self._pool.release(upstream)

    async def _relay_both(self, exchange: Exchange, upstream: Upstream, headers: Headers) -> None:
        """Send the request body while the answer may already come: kanidmd may refuse before it has read everything."""
        await upstream.send_head(exchange.method, exchange.target, headers, None)
        upload = _Upload()
        pieces = exchange.body()
        failure: Exception | None = None
        async with aclosing(pieces), trio.open_nursery() as nursery:
            nursery.start_soon(self._upload, exchange, upstream, upload, pieces, nursery.cancel_scope)
            try:
                await self._relay(exchange, upstream, await self._head_meanwhile(exchange, upstream, upload))
            except (TooSlow, UpstreamLost, ClientGone, Aborted, BadRequest) as error:  # carried out of the nursery, unwrapped
                failure = error
            nursery.cancel_scope.cancel()
        failure = upload.failed or failure
        if failure is not None:
            raise failure

    async def _upload(
        self,
        exchange: Exchange,
        upstream: Upstream,
        upload: _Upload,
        pieces: AsyncGenerator[bytes, None],
        cancel: trio.CancelScope,
    ) -> None:
        if exchange.expects_continue:
            await upload.go_ahead.wait()
        try:
            async for data in pieces:
                await upstream.send_body(data)
            await upstream.end_body(rules.trailers(exchange.request_trailers))
        except UpstreamLost:
            return  # an answer may have come before the connection broke: whoever reads it tells
        except (TooSlow, ClientGone, BadRequest) as error:
            upload.failed = error
            cancel.cancel()
            return
        upload.deadline.deadline = trio.current_time() + self._settings().limits.upstream_timeout

    async def _head_meanwhile(self, exchange: Exchange, upstream: Upstream, upload: _Upload) -> ResponseHead:
        """Return the head of the answer; its time begins to run when the request has been sent. Raises TooSlow."""
        with upload.deadline:
            head = await self._await_word(exchange, upstream, upload) if exchange.expects_continue else None
            return head or await self._head(exchange, upstream, float("inf"))
        raise TooSlow

    async def _head(self, exchange: Exchange, upstream: Upstream, patience: float) -> ResponseHead:
        """Return the head of the answer; interim responses before it are passed on."""
        while (head := await _attended(exchange, upstream, upstream.receive_head, patience)).status < 200:
            if head.status != 100:
                await exchange.informational(head.status, rules.to_client(head.headers, exchange.request_id))
        return head

    async def _await_word(self, exchange: Exchange, upstream: Upstream, upload: _Upload) -> ResponseHead | None:
        """Give a client that waits for a word before it sends its body that word; return an answer that comes instead.

        The word is kanidmd's to say (RFC 9110 §10.1.1); when it says nothing for a while, we do, because both would wait for ever.
        It is said here and not by the upload's task: two tasks must not send to the client at once.
        """
        ends = trio.current_time() + _CONTINUE_PATIENCE
        while True:
            head: ResponseHead | None = None
            with trio.CancelScope(deadline=ends):
                head = await _attended(exchange, upstream, upstream.receive_head, float("inf"))
            if head is None or head.status == 100:
                break
            if head.status >= 200:
                return head
            await exchange.informational(head.status, rules.to_client(head.headers, exchange.request_id))
        await exchange.informational(100, [])
        upload.go_ahead.set()
        return None

    async def _relay(self, exchange: Exchange, upstream: Upstream, head: ResponseHead) -> None:
        """Pass the answer on. Raises TooSlow, UpstreamLost, ClientGone, Aborted."""
        response, patience = upstream.response, self._settings().limits.body_timeout
        elsewhere = head.status in (302, 303) and exchange.path.startswith(_LOGIN_PAGES)
        if elsewhere and self._redirected is not None and await self._redirected(exchange, head.headers):
            while not response.complete:  # the redirect's own body, a few bytes at most
                await _attended(exchange, upstream, upstream.receive, patience)
            return
        exchange.start(head.status, rules.to_client(head.headers, exchange.request_id), head.reason)
        while True:
            if data := response.take():
                exchange.write(data)
            if response.complete:
                exchange.finish(rules.trailers(response.trailers))
                await exchange.flush()
                return
            await exchange.flush()
            await _attended(exchange, upstream, upstream.receive, patience)


async def _attended(exchange: Exchange, upstream: Upstream, wait: Callable[[], Awaitable[T]], patience: float) -> T:
    """Await ``wait()``, a receive of ``upstream``, while the client stays. Raises what :meth:`Exchange.attended` raises."""
    upstream.expect_within(UNATTENDED)
    try:
        return await wait()
    except Late:
        pass
    finally:
        upstream.expect_within(None)
    return await exchange.attended(wait, patience)


def _is_small(exchange: Exchange) -> bool:
    """Tell whether the body says that it is small, and is not held back for a word (100-continue), which is kanidmd's to say."""
    length = next((value for name, value in exchange.headers if name == b"content-length"), None)
    return length is not None and int(length) <= _COLLECTED and not exchange.expects_continue
