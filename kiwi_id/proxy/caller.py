"""The caller: small requests of our own to kanidmd, over the same pool and through the same gate as those that pass through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from kiwi_id.proxy.connection import Settings
from kiwi_id.proxy.gate import Gate, Shut
from kiwi_id.proxy.pool import Pool, UpstreamLost
from kiwi_id.proxy.rules import Header, Headers

# Nothing that Kanidm answers to the issuer comes near this; what does is not an answer to it.
MOST = 1 << 20


class Unavailable(Exception):
    """kanidmd did not answer: it is not ready, or the connection failed and asking again would not be safe.

    ``uncertain``: the request may have had its effect. Whoever asked us must hear another word then than "try again".
    """

    def __init__(self, message: str, *, uncertain: bool = False) -> None:
        super().__init__(message)
        self.uncertain = uncertain


@dataclass(frozen=True)
class Answer:
    """kanidmd's answer, whole; ``headers`` are lower-case names."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: bytes) -> bytes:
        """Return the first header of that name, or nothing."""
        return next((value for key, value in self.headers if key == name), b"")


class Caller:
    """Asks kanidmd on behalf of the issuer."""

    def __init__(self, pool: Pool, gate: Gate, settings: Callable[[], Settings]) -> None:
        self._pool, self._gate, self._settings = pool, gate, settings

    async def __call__(self, method: str, target: str, headers: list[Header], body: bytes = b"") -> Answer:
        """Send one request and return the answer. Raises Unavailable.

        Waits at the gate like any other request; a GET whose connection died is asked once more, anything else only when no byte
        of it was sent.
        """
        limits = self._settings().limits
        sent = [
            (b"host", b"kanidm.internal"),
            (b"content-length", str(len(body)).encode()),
            *headers,
        ]
        repeats, second_life = 0, False
        while True:
            try:
                await self._gate.wait_inner(len(target) + len(body) + sum(len(name) + len(value) for name, value in headers))
                life = self._gate.life
                with trio.fail_after(limits.upstream_timeout):
                    return await self._once(method, target, sent, body, fresh=repeats > 0)
            except Shut:
                raise Unavailable("kanidmd is not ready") from None
            except trio.TooSlowError:
                raise Unavailable("kanidmd does not answer in time", uncertain=method != "GET") from None
            except UpstreamLost as lost:
                repeats += 1
                if repeats > 3 or (lost.sent and not (method == "GET" and repeats == 1)):
                    if (method == "GET" or not lost.sent) and not second_life and await self._gate.life_ends(life):
                        repeats, second_life = 1, True  # as in the forwarder
                        continue
                    raise Unavailable(str(lost), uncertain=lost.sent and method != "GET") from None
                await trio.sleep(0.02 * repeats)

    async def _once(self, method: str, target: str, headers: Headers, body: bytes, *, fresh: bool) -> Answer:
        upstream = await self._pool.acquire(fresh=fresh)
        try:
            await upstream.send_head(method.encode(), target.encode("ascii"), headers, body)
            while (head := await upstream.receive_head()).status < 200:
                pass
            body = upstream.response.take()
            while not upstream.response.complete:
                await upstream.receive()
                body += upstream.response.take()
                if len(body) > MOST:
                    raise UpstreamLost("the answer is larger than any that the issuer expects", sent=True)
            return Answer(head.status, head.headers, body)
        finally:
            self._pool.release(upstream)
