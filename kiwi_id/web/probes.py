"""The probes that orchestrators ask: liveness, readiness, health.

Answered on the connection loop itself, by nothing that has to be loaded first, and without asking kanidmd anything: a probe that
waits for what it reports on is down when it is needed most.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from kiwi_id import __version__
from kiwi_id.page import NOSNIFF
from kiwi_id.proxy.exchange import Exchange
from kiwi_id.state import ChildState, ChildStatus

MAX_BODY = 65536

_Answer = tuple[int, dict[str, Any]]


class Probes:
    """Handlers for ``/livez``, ``/readyz`` and ``/healthz``; ``draining`` tells whether Kiwi ID is about to stop."""

    def __init__(self, status: ChildStatus, draining: Callable[[], bool]) -> None:
        self._status, self._draining = status, draining
        self._routes: dict[bytes, Callable[[bytes], _Answer]] = {
            b"/livez": self._livez,
            b"/readyz": self._readyz,
            b"/healthz": self._healthz,
        }

    @property
    def paths(self) -> tuple[bytes, ...]:
        """The paths of the probes."""
        return tuple(self._routes)

    async def __call__(self, exchange: Exchange) -> None:
        """Answer a probe."""
        await exchange.read_body(MAX_BODY)  # none is expected, but one that is there must not be taken for the next request
        if exchange.method not in (b"GET", b"HEAD"):
            allow = [(b"allow", b"GET, HEAD")]
            await exchange.respond_error(405, "method_not_allowed", "A probe is asked by GET or HEAD.", headers=allow)
            return
        status, content = self._routes[exchange.path](exchange.target.partition(b"?")[2])
        body = json.dumps(content, separators=(",", ":")).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            NOSNIFF,
            (b"x-request-id", exchange.request_id),
        ]
        await exchange.respond(status, headers, body)

    def _livez(self, _query: bytes) -> _Answer:
        """Liveness: that this answers shows that the event loop turns and the listener serves. Restart us when it does not."""
        return 200, {"status": "ok"}

    def _readyz(self, _query: bytes) -> _Answer:
        """Readiness: send us traffic, or do not. Kanidm serves and we are not about to stop."""
        if self._draining():
            return 503, {"status": "draining"}
        if not self._status.serving:
            return 503, {"status": "waiting", "upstream": self._status.state.value}
        return 200, {"status": "ok"}

    def _healthz(self, query: bytes) -> _Answer:
        """Health of the whole: 200 when Kanidm answers its probes, else 503; with ``?verbose`` what is known besides."""
        status = self._status
        healthy = status.state is ChildState.READY
        content: dict[str, Any] = {"status": "ok" if healthy else "degraded", "upstream": "healthy" if healthy else "unhealthy"}
        if b"verbose" in parse_qs(query, keep_blank_values=True):
            content["details"] = {
                "version": __version__,
                "upstream_state": status.state.value,
                "upstream_version": status.version,
                "upstream_tested": status.tested,
                "upstream_restarts": status.restarts,
                "upstream_since": round(status.since, 3),
                "draining": self._draining(),
            }
        return (200 if healthy else 503), content
