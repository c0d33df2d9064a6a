"""The Quart-Trio application with the probes that orchestrators ask.

None of them asks kanidmd anything: a probe that waits for what it reports on is down when it is needed most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quart_trio import QuartTrio

from kiwi_id import __version__
from kiwi_id.state import ChildState, ChildStatus

PATHS = frozenset({b"/livez", b"/readyz", b"/healthz"})

Answer = tuple[dict[str, Any], int, dict[str, str]]
_HEADERS = {"cache-control": "no-store"}


@dataclass(frozen=True)
class Health:
    """What the probes report: the child's status, and whether Kiwi ID is draining."""

    status: ChildStatus
    draining: Callable[[], bool]


def create_app(health: Health) -> QuartTrio:
    """Return the application."""
    app = QuartTrio("kiwi_id", static_folder=None, template_folder=None)
    status = health.status

    @app.get("/livez")
    async def livez() -> Answer:
        """Liveness: that this answers shows that the event loop turns and the listener serves. Restart us when it does not."""
        return {"status": "ok"}, 200, _HEADERS

    @app.get("/readyz")
    async def readyz() -> Answer:
        """Readiness: send us traffic, or do not. Kanidm serves and we are not about to stop."""
        if health.draining():
            return {"status": "draining"}, 503, _HEADERS
        if not status.serving:
            return {"status": "waiting", "upstream": status.state.value}, 503, _HEADERS
        return {"status": "ok"}, 200, _HEADERS

    @app.get("/healthz")
    async def healthz() -> Answer:
        """Health of the whole: 200 when Kanidm answers its probes, else 503; with ``?verbose`` what is known besides."""
        from quart import request  # noqa: PLC0415 - Quart's context-local; the module itself is loaded by now

        healthy = status.state is ChildState.READY
        body: dict[str, Any] = {
            "status": "ok" if healthy else "degraded",
            "upstream": "healthy" if healthy else "unhealthy",
        }
        if "verbose" in request.args:
            body["details"] = {
                "version": __version__,
                "upstream_state": status.state.value,
                "upstream_version": status.version,
                "upstream_tested": status.tested,
                "upstream_restarts": status.restarts,
                "upstream_since": round(status.since, 3),
                "draining": health.draining(),
            }
        return body, 200 if healthy else 503, _HEADERS

    return app
