"""The forwarder: passes one request to kanidmd and its answer back, streaming both ways with one piece in memory at a time."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import h11
import trio

from kiwi_id.proxy import rules
from kiwi_id.proxy.connection import Settings
from kiwi_id.proxy.exchange import Aborted, ClientGone, Exchange
from kiwi_id.proxy.gate import RETRY_AFTER, Gate, Shut
from kiwi_id.proxy.pool import Pool, Upstream, UpstreamLost
from kiwi_id.proxy.rules import BadRequest, Headers

# Response bytes collected before they are sent on: head and body of a usual answer leave in one piece.
FLUSH_AT = 65536
# Safe to ask again when an answer was lost (RFC 9110 §9.2.2 would allow more; Kanidm's PUT and DELETE are not all idempotent).
_REPEATABLE = frozenset({b"GET", b"HEAD"})
_CONTINUE_PATIENCE = 1.0
# Where kanidmd's redirects may lead to a relying party; all others pass unseen.
_LOGIN_PAGES = b"/ui/oauth2"


@dataclass
class _Attempt:
    """One try at one connection: what went wrong on the sending side, for the receiving side to tell."""

    deadline: trio.CancelScope
    upload_failed: Exception | None = None
    go_ahead: trio.Event = field(default_factory=trio.Event)


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

    async def __call__(self, exchange: Exchange) -> None:
        """Serve the exchange from kanidmd, or answer with 502, 503 or 504 when that fails."""
        headers = rules.to_upstream(exchange.headers, exchange.origin, exchange.request_id)
        repeatable = exchange.method in _REPEATABLE and not exchange.has_body
        repeats = 0
        while True:
            try:
                await self._gate.wait_open(exchange)
                upstream = await self._acquire(fresh=repeats > 0)
                if await self._attempt(exchange, upstream, headers):
                    return
            except Shut:
                await self._unavailable(exchange)
                return
            except UpstreamLost as lost:
                if exchange.started:
                    raise Aborted(str(lost)) from None
                repeats += 1
                # Unsent requests are asked again whatever they are; what may have been sent only when that is harmless, once.
                if (lost.sent and not (repeatable and repeats == 1)) or repeats > 3:
                    exchange.notes["upstream_error"] = str(lost)
                    if not lost.sent:
                        await self._unavailable(exchange)
                        return
                    message = "The login service did not answer properly. Please try again."
                    await exchange.respond_error(502, "upstream_failed", message)
                    return
                # The child's end may not have been noticed yet: give the child task its turn, then wait at the gate.
                await trio.sleep(0.02 * repeats)
            else:
                message = "The login service takes too long to answer. Please try again."
                await exchange.respond_error(504, "upstream_timeout", message)
                return

    async def _unavailable(self, exchange: Exchange) -> None:
        message = "The login service is not available right now. Please try again in a moment."
        await exchange.respond_error(503, "upstream_unavailable", message, retry_after=RETRY_AFTER)

    async def _acquire(self, *, fresh: bool) -> Upstream:
        with trio.move_on_after(self._settings().limits.gate_timeout):
            return await self._pool.acquire(fresh=fresh)
        raise Shut

    async def _attempt(self, exchange: Exchange, upstream: Upstream, headers: Headers) -> bool:
        """Try once; return False when the head of the answer did not come in time."""
        began = time.perf_counter()
        limits = self._settings().limits
        body = exchange.body_at_hand()
        try:
            with trio.CancelScope() as scope:
                attempt = _Attempt(scope)
                scope.deadline = trio.current_time() + limits.upstream_timeout
                if body is not None:
                    await upstream.send_head(exchange.method, exchange.target, headers, body)
                    await self._relay(exchange, upstream, attempt, limits.body_timeout)
                else:
                    await self._relay_both(exchange, upstream, headers, attempt)
            if scope.cancelled_caught:
                if exchange.started:
                    raise Aborted("kanidmd stopped sending")
                return False
        finally:
            exchange.notes["upstream_ms"] = round((time.perf_counter() - began) * 1000, 2)
            self._pool.release(upstream)
        return True

    async def _relay_both(self, exchange: Exchange, upstream: Upstream, headers: Headers, attempt: _Attempt) -> None:
        """Send the request body while the answer may already come: kanidmd may refuse before it has read everything."""
        limits = self._settings().limits
        await upstream.send_head(exchange.method, exchange.target, headers, None)
        attempt.deadline.deadline = float("inf")  # while the body arrives, its own timeouts count
        pieces = exchange.body()
        failure: Exception | None = None
        async with aclosing(pieces), trio.open_nursery() as nursery:
            nursery.start_soon(self._upload, exchange, upstream, attempt, pieces, nursery.cancel_scope)
            try:
                await self._relay(exchange, upstream, attempt, limits.body_timeout)
            except (UpstreamLost, ClientGone, Aborted, BadRequest) as error:  # carried out of the nursery, unwrapped
                failure = error
            nursery.cancel_scope.cancel()
        failure = attempt.upload_failed or failure
        if failure is not None:
            raise failure

    async def _upload(
        self,
        exchange: Exchange,
        upstream: Upstream,
        attempt: _Attempt,
        pieces: AsyncGenerator[bytes, None],
        cancel: trio.CancelScope,
    ) -> None:
        limits = self._settings().limits
        if exchange.expects_continue:
            await attempt.go_ahead.wait()
        try:
            async for data in pieces:
                if not exchange.started:
                    attempt.deadline.deadline = trio.current_time() + limits.upstream_timeout
                await upstream.send_body(data)
                if not exchange.started:
                    attempt.deadline.deadline = float("inf")
            await upstream.end_body(rules.trailers(exchange.request_trailers))
        except UpstreamLost:
            return  # an answer may have come before the connection broke: whoever reads it tells
        except (ClientGone, BadRequest) as error:
            attempt.upload_failed = error
            cancel.cancel()
            return
        if not exchange.started:
            attempt.deadline.deadline = trio.current_time() + limits.upstream_timeout

    async def _relay(self, exchange: Exchange, upstream: Upstream, attempt: _Attempt, body_timeout: float) -> None:
        """Pass the answer on. Raises UpstreamLost, ClientGone, Aborted."""
        head = await self._head(exchange, upstream, attempt)
        if head.status_code in (302, 303) and self._redirected is not None and exchange.path.startswith(_LOGIN_PAGES):
            attempt.deadline.deadline = trio.current_time() + self._settings().limits.upstream_timeout
            if await self._redirected(exchange, list(head.headers)):
                while isinstance(await upstream.next_event(), h11.Data):  # the redirect's own body, a few bytes at most
                    pass
                return
        exchange.start(head.status_code, rules.to_client(head.headers, exchange.request_id), head.reason)
        attempt.deadline.deadline = trio.current_time() + body_timeout
        pending = 0
        while True:
            at_hand = upstream.event_at_hand()
            if at_hand is h11.NEED_DATA:
                await exchange.flush()
                pending = 0
                at_hand = await exchange.attended(upstream.next_event)
                attempt.deadline.deadline = trio.current_time() + body_timeout
            if isinstance(at_hand, h11.Data):
                exchange.write(bytes(at_hand.data))
                pending += len(at_hand.data)
                if pending >= FLUSH_AT:
                    await exchange.flush()
                    pending = 0
            elif isinstance(at_hand, h11.EndOfMessage):
                exchange.finish(rules.trailers(at_hand.headers))
                await exchange.flush()
                return
            else:
                raise UpstreamLost("kanidmd closed the connection in the middle of its answer", sent=True)

    async def _head(self, exchange: Exchange, upstream: Upstream, attempt: _Attempt) -> h11.Response:
        """Return the head of the answer; interim responses before it are passed on."""
        if exchange.expects_continue:
            event = await self._await_word(exchange, upstream, attempt)
        else:
            event = await exchange.attended(upstream.next_event)
        while isinstance(event, h11.InformationalResponse):
            if event.status_code != 100:
                await exchange.informational(event.status_code, rules.to_client(event.headers, exchange.request_id))
            event = await exchange.attended(upstream.next_event)
        if not isinstance(event, h11.Response):
            raise UpstreamLost("kanidmd's answer has no head", sent=True)
        return event

    async def _await_word(self, exchange: Exchange, upstream: Upstream, attempt: _Attempt) -> h11.Event:
        """Return the first event of the answer to a client that waits for a word before it sends its body.

        That word is kanidmd's to say (RFC 9110 §10.1.1); when it says nothing for a while, we do, because both would wait for ever.
        It is said here and not by the upload's task: two tasks must not send to the client at once.
        """
        ends = trio.current_time() + _CONTINUE_PATIENCE
        while True:
            event: h11.Event | None = None
            with trio.CancelScope(deadline=ends):
                event = await exchange.attended(upstream.next_event)
            if event is None or (isinstance(event, h11.InformationalResponse) and event.status_code == 100):
                break
            if not isinstance(event, h11.InformationalResponse):
                return event
            await exchange.informational(event.status_code, rules.to_client(event.headers, exchange.request_id))
        await exchange.informational(100, [])
        attempt.go_ahead.set()
        return event if event is not None else await exchange.attended(upstream.next_event)
