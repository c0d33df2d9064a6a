"""Delivery of logout tokens (Back-Channel Logout 1.0 §2.5): posted to the clients, tried again a bounded number of times.

Whatever a client does or its address is: a delivery ends in bounded time, takes bounded memory, and fails alone.
"""

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
# A whole try, from the look-up of the name to the head of the answer, seconds.
TIMEOUT = 5.0
_MOST_WAITING = 1000
_MOST_UNDER_WAY = 1000


class Courier:
    """Delivers notices in the background; one that cannot be delivered is logged, and nobody's logout waits for it.

    ``waits`` are those before each try and ``timeout`` is that of one try, in seconds. ``undelivered`` counts the notices that no
    client has taken.
    """

    def __init__(self, *, waits: tuple[float, ...] = TRIES, timeout: float = TIMEOUT) -> None:
        self._send, self._receive = trio.open_memory_channel[Notice](_MOST_WAITING)
        self._waits, self._timeout = waits, timeout
        self.undelivered = 0

    async def deliver(self, notices: list[Notice]) -> None:
        """Take notices for delivery; return at once."""
        for notice in notices:
            try:
                self._send.send_nowait(notice)
            except trio.WouldBlock:
                self._failed(notice, "too many are waiting")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver for ever; cancel to end."""
        task_status.started()
        slots = trio.Semaphore(_MOST_UNDER_WAY)
        client: httpx.AsyncClient | None = None
        async with trio.open_nursery() as nursery:
            try:
                async for notice in self._receive:
                    try:
                        client = client or self._client()
                    except Exception as error:  # noqa: BLE001 - a proxy or certificates in the environment that cannot be used
                        log.crash("logout tokens cannot be sent", error)
                        self._failed(notice, type(error).__name__)
                        continue
                    await slots.acquire()
                    nursery.start_soon(self._deliver_in, slots, client, notice)
            finally:
                if client is not None:
                    with trio.move_on_after(1, shield=True):
                        await client.aclose()

    def _client(self) -> httpx.AsyncClient:
        import httpx  # noqa: PLC0415 - 10 MB that an instance without back-channel logout never needs

        return httpx.AsyncClient(timeout=self._timeout, follow_redirects=False)

    async def _deliver_in(self, slots: trio.Semaphore, client: httpx.AsyncClient, notice: Notice) -> None:
        try:
            await self._deliver(client, notice)
        except Exception as error:  # noqa: BLE001 - one delivery, and not the process with everybody's logins
            log.crash("internal error while telling a client of a logout", error, client_id=notice.client_id)
            self._failed(notice, type(error).__name__)
        finally:
            slots.release()

    async def _deliver(self, client: httpx.AsyncClient, notice: Notice) -> None:
        outcome = "no try"
        for wait in self._waits:
            await trio.sleep(wait)
            status, outcome = await self._try(client, notice)
            if status in (200, 204):
                log.info("told a client of a logout", client_id=notice.client_id)
                return
            if 400 <= status < 500:
                break  # it has understood and refuses: asking again changes nothing
            log.debug("a client was not told of a logout yet", client_id=notice.client_id, outcome=outcome)
        self._failed(notice, outcome)

    async def _try(self, client: httpx.AsyncClient, notice: Notice) -> tuple[int, str]:
        """Post the token once; return the status, 0 when none came, and what came of it in a word."""
        import httpx  # noqa: PLC0415

        status = 0
        # Of the whole: httpx's own timeouts are of each read, and a byte now and then would keep them from ever coming.
        with trio.move_on_after(self._timeout):
            try:
                async with client.stream("POST", notice.uri, data={"logout_token": notice.token}) as answer:
                    status = answer.status_code  # its body says nothing more, so none of it is read
            # ValueError: an address that only its use shows to be none (UnicodeError, InvalidURL's like).
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                return status, str(status) if status else type(error).__name__
        return status, str(status) if status else "timeout"

    def _failed(self, notice: Notice, outcome: str) -> None:
        self.undelivered += 1
        total = self.undelivered
        log.warn("a client could not be told of a logout", client_id=notice.client_id, outcome=outcome, undelivered=total)
