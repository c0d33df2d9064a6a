"""The facade: enters the Quart-Trio application through Hypercorn's ASGI machinery, one exchange at a time.

Hypercorn's ``HTTPStream`` turns protocol events into ASGI messages and back; our connection loop takes the place of its protocol
servers. The application is imported, in a thread, when the first of its pages is asked for: it takes 16 MB and a quarter of a
second, and many instances never show one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from kiwi_id.logs import Log
from kiwi_id.proxy.exchange import ClientGone, Exchange

if TYPE_CHECKING:
    from hypercorn.config import Config as HypercornConfig
    from hypercorn.typing import AppWrapper
    from quart_trio import QuartTrio

log = Log("facade")

# A page's form is a box and a decision.
MAX_BODY = 65536


class Facade:
    """A handler for the pages of the application that ``make_app`` returns; loads it when it is first needed."""

    def __init__(self, make_app: Callable[[], QuartTrio]) -> None:
        self._make_app = make_app
        self._loading = trio.Lock()
        self._app: AppWrapper | None = None
        self._config: HypercornConfig

    async def load(self) -> None:
        """Import and start the application, unless that has been done."""
        async with self._loading:
            if self._app is None:
                app, wrapper = await trio.to_thread.run_sync(self._import)
                await app.startup()
                self._app = wrapper
                log.debug("the application is loaded")

    def _import(self) -> tuple[QuartTrio, AppWrapper]:
        from hypercorn.app_wrappers import ASGIWrapper  # noqa: PLC0415 - heavy, and wanted late
        from hypercorn.config import Config as HypercornConfig  # noqa: PLC0415
        from hypercorn.protocol import http_stream  # noqa: F401, PLC0415
        from hypercorn.trio import task_group, worker_context  # noqa: F401, PLC0415

        app = self._make_app()
        self._config = HypercornConfig()
        # Its access log would write query strings, and copy the environment to do so; our own line is written anyway.
        self._config.accesslog = None
        self._config.errorlog = logging.getLogger("hypercorn.error")
        return app, ASGIWrapper(app)

    async def __call__(self, exchange: Exchange) -> None:
        """Serve the exchange by the application. Raises ClientGone."""
        if self._app is None:  # first, because its thread does the imports below without holding up everybody else
            await self.load()
            assert self._app is not None  # noqa: S101 - for the type checker
        from hypercorn.protocol import events  # noqa: PLC0415
        from hypercorn.protocol.http_stream import HTTPStream  # noqa: PLC0415
        from hypercorn.trio.task_group import TaskGroup  # noqa: PLC0415
        from hypercorn.trio.worker_context import WorkerContext  # noqa: PLC0415

        body = await exchange.read_body(MAX_BODY)
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
