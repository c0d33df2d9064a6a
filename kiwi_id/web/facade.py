"""The facade: enters the Quart-Trio application through Hypercorn's ASGI machinery, one exchange at a time.

Hypercorn's ``HTTPStream`` turns protocol events into ASGI messages and back; our connection loop takes the place of its protocol
servers. The application is imported in a thread while kanidmd boots: a quarter of a second that nobody waits for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import trio

from kiwi_id.logs import Log
from kiwi_id.proxy.exchange import ClientGone, Exchange

if TYPE_CHECKING:
    from hypercorn.config import Config as HypercornConfig
    from hypercorn.typing import AppWrapper
    from quart_trio import QuartTrio

log = Log("facade")

# A facade request has a small form or nothing for a body.
MAX_BODY = 1 << 20


class Facade:
    """A handler for the paths that Kiwi ID serves itself. ``load`` makes it ready; requests before that wait for it."""

    def __init__(self, make_app: Callable[[], QuartTrio]) -> None:
        self._make_app = make_app
        self._loaded = trio.Event()
        self._app: AppWrapper
        self._config: HypercornConfig

    async def load(self) -> None:
        """Import and start the application."""
        app = await trio.to_thread.run_sync(self._import)
        await app.startup()
        self._loaded.set()
        log.debug("the facade is loaded")

    def _import(self) -> QuartTrio:
        from hypercorn.app_wrappers import ASGIWrapper  # noqa: PLC0415 - heavy, and wanted late
        from hypercorn.config import Config as HypercornConfig  # noqa: PLC0415
        from hypercorn.protocol import http_stream  # noqa: F401, PLC0415

        app = self._make_app()
        self._config = HypercornConfig()
        # Its access log would write query strings, and copy the environment to do so; our own line is written anyway.
        self._config.accesslog = None
        self._config.errorlog = logging.getLogger("hypercorn.error")
        self._app = ASGIWrapper(app)
        return app

    async def __call__(self, exchange: Exchange) -> None:
        """Serve the exchange by the application. Raises ClientGone."""
        from hypercorn.protocol import events  # noqa: PLC0415
        from hypercorn.protocol.http_stream import HTTPStream  # noqa: PLC0415
        from hypercorn.trio.task_group import TaskGroup  # noqa: PLC0415
        from hypercorn.trio.worker_context import WorkerContext  # noqa: PLC0415

        with trio.fail_after(30):
            await self._loaded.wait()
        body = await self._read(exchange)
        failure: list[ClientGone] = []

        async def send(event: Any) -> None:
            try:
                if isinstance(event, events.Response):
                    headers = [*event.headers, (b"x-request-id", exchange.request_id)]
                    exchange.start(event.status_code, headers)
                elif isinstance(event, events.Body):
                    exchange.write(bytes(event.data))
                elif isinstance(event, events.EndBody):
                    exchange.finish()
                    await exchange.flush()
            except ClientGone as error:  # carried out of the task group, which would wrap it
                failure.append(error)

        async with TaskGroup() as tasks:
            stream = HTTPStream(
                self._app,
                self._config,
                WorkerContext(None),
                tasks,
                exchange.origin.scheme == "https",
                (exchange.origin.client, exchange.peer[1]),
                None,
                send,
                1,
            )
            headers = exchange.headers
            state: Any = {"request_id": exchange.request_id}
            version, method = exchange.version.decode(), exchange.method.decode("ascii", "replace")
            await stream.handle(events.Request(1, headers, version, method, exchange.target, state))
            if body:
                await stream.handle(events.Body(1, body))
            await stream.handle(events.EndBody(1))
        if failure:
            raise failure[0]

    async def _read(self, exchange: Exchange) -> bytes:
        body = exchange.body_at_hand()
        if body is not None:
            return body
        from kiwi_id.proxy.rules import BadRequest  # noqa: PLC0415

        if exchange.expects_continue:
            await exchange.informational(100, [])
        parts: list[bytes] = []
        async with aclosing(exchange.body()) as pieces:
            async for part in pieces:
                parts.append(part)
                if exchange.received_bytes > MAX_BODY:
                    raise BadRequest(413, "body_too_large", f"The body may have {MAX_BODY} bytes at most.")
        return b"".join(parts)
