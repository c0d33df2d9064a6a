"""Delivery of logout tokens (Back-Channel Logout 1.0 §2.5): posted to the clients, tried again a bounded number of times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from kiwi_id.issuer.logout import Notice
from kiwi_id.logs import Log

if TYPE_CHECKING:
    import httpx

log = Log("logout")

# Waits before each try, seconds. The token lives two minutes, so later tries would carry one that is over.
TRIES = (0.0, 2.0, 10.0, 30.0)
TIMEOUT = 5.0
_MOST_WAITING = 1000


class Courier:
    """Delivers notices in the background; one that cannot be delivered is logged, and nobody's logout waits for it."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Notice](_MOST_WAITING)

    async def deliver(self, notices: list[Notice]) -> None:
        """Take notices for delivery; return at once."""
        for notice in notices:
            try:
                self._send.send_nowait(notice)
            except trio.WouldBlock:
                log.error("too many logout tokens are waiting; one is dropped", client_id=notice.client_id)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver for ever; cancel to end."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            client: httpx.AsyncClient | None = None
            try:
                async for notice in self._receive:
                    if client is None:
                        import httpx  # noqa: PLC0415 - 10 MB that an instance without back-channel logout never needs

                        client = httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False)
                    nursery.start_soon(self._deliver, client, notice)
            finally:
                if client is not None:
                    with trio.move_on_after(1, shield=True):
                        await client.aclose()

    async def _deliver(self, client: httpx.AsyncClient, notice: Notice) -> None:
        import httpx  # noqa: PLC0415

        for wait in TRIES:
            await trio.sleep(wait)
            try:
                answer = await client.post(notice.uri, data={"logout_token": notice.token})
            except httpx.HTTPError as error:
                outcome = type(error).__name__
            else:
                outcome = str(answer.status_code)
                if answer.status_code in (200, 204):
                    log.info("told a client of a logout", client_id=notice.client_id)
                    return
                if 400 <= answer.status_code < 500:
                    break  # it has understood and refuses: asking again changes nothing
            log.debug("a client was not told of a logout yet", client_id=notice.client_id, outcome=outcome)
        log.warn("a client could not be told of a logout", client_id=notice.client_id, outcome=outcome)
