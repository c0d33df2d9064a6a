"""Planned restarts while people log in: whole logins with several steps each, over the stand-in and the real kanidmd."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from kiwi_id import control, demo
from kiwi_id.instance import layout
from tests.kanidm import instance
from tests.kanidm.instance import Instance

ALICE, BOB = demo.USERS[:2]
PATIENCE = 60


@pytest.fixture
def kiwi(binary: Path) -> Iterator[Instance]:
    """A running instance with demo users."""
    with tempfile.TemporaryDirectory(prefix="kiwi-sup-") as name:
        made = instance.start(binary, Path(name))
        try:
            yield made
        finally:
            made.stop()


class Load:
    """Whole tasks of clients, again and again; what failed, in words, and how many of each kind succeeded."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.failed: list[str] = []
        self._changed = trio.Event()
        self._over = False

    async def keep(self, kind: str, task: Callable[[], Awaitable[None]]) -> None:
        """Carry out a task again and again, to the end of :meth:`running`, each time whole."""
        while not self._over:
            try:
                await task()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what must not happen
                self.failed.append(f"{kind}: {error!r}")
            else:
                self.done[kind] += 1
            self._changed.set()
            self._changed = trio.Event()
            if self.failed:
                return

    async def more(self, number: int) -> None:
        """Wait until each kind has succeeded so many more times."""
        wanted = {kind: count + number for kind, count in self.done.items()}
        with trio.fail_after(PATIENCE):
            while not self.failed and any(self.done[kind] < count for kind, count in wanted.items()):
                await self._changed.wait()

    @asynccontextmanager
    async def running(self, tasks: Mapping[str, Callable[[], Awaitable[None]]]) -> AsyncIterator[None]:
        """Keep all tasks going for the time of the block, each of them having succeeded once before it."""
        self.done.update(dict.fromkeys(tasks, 0))
        async with trio.open_nursery() as nursery:
            for kind, task in tasks.items():
                nursery.start_soon(self.keep, kind, task)
            await self.more(1)
            yield
            self._over = True


async def test_whole_logins_go_on(kiwi: Instance) -> None:
    """Three restarts: no login by page, none by API, no refresh and no GET fails, at whatever step it is caught."""

    async def log_in_by_page() -> None:
        async with kiwi.browser() as browser:
            request = kiwi.request()
            await browser.authorize(request)
            page = await browser.sign_in(ALICE.name, ALICE.password)
            location = page.headers["location"] if page.status_code == 303 else await browser.consent(page)
            await browser.token(request, location, kiwi.secret())

    async def log_in_by_api() -> None:
        async with kiwi.rest() as rest:
            await rest.login(BOB.name, BOB.password)

    async with kiwi.browser() as browser:
        request = kiwi.request()
        await browser.authorize(request)
        page = await browser.sign_in(ALICE.name, ALICE.password)
        location = page.headers["location"] if page.status_code == 303 else await browser.consent(page)
        tokens: dict[str, Any] = await browser.token(request, location, kiwi.secret())

        async def refresh() -> None:
            form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
            answer = await browser.http.post("/oauth2/token", data=form, auth=(request.client_id, kiwi.secret()))
            assert answer.status_code == 200, answer.text
            tokens.update(answer.json())

        async def read() -> None:
            answer = await browser.http.get("/status")
            assert (answer.status_code, answer.text) == (200, "true")

        socket = layout.Places.under(kiwi.directory).runtime_dir / "control.sock"
        load = Load()
        tasks = {"page": log_in_by_page, "api": log_in_by_api, "refresh": refresh, "read": read}
        async with load.running(tasks):
            for _ in range(3):
                await load.more(2)
                outcome = await trio.to_thread.run_sync(lambda: control.call(socket, "restart_upstream", timeout=PATIENCE))
                assert outcome["ok"] is True
                assert outcome["restart"]["cut"] == 0
            await load.more(2)
    assert load.failed == []
