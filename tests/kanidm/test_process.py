"""What people notice of a crash, a reload and a stop: next to nothing."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import httpx
import pytest
import trio

from kiwi_id import demo
from tests.kanidm.browser import Browser
from tests.kanidm.instance import Instance

ALICE = demo.USERS[0]


async def _signed_in(kiwi: Instance, browser: Browser) -> None:
    """Sign alice in, with consent given, so that the next authorization goes straight through."""
    await browser.authorize(kiwi.request())
    await browser.consent(await browser.sign_in(ALICE.name, ALICE.password))


class _Load:
    """Requests in a loop from several tasks; counts what comes back, and lets a test wait for a number of good answers."""

    def __init__(self, browser: Browser, path: str) -> None:
        self._browser, self._path = browser, path
        self._changed = trio.Event()
        self.answers: Counter[int | str] = Counter()

    async def run(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            try:
                answer = await self._browser.http.get(self._path)
            except httpx.TransportError as error:
                self.answers[type(error).__name__] += 1
            else:
                self.answers[answer.status_code] += 1
            self._changed.set()
            self._changed = trio.Event()

    async def more(self, number: int) -> None:
        """Wait until ``number`` more requests have been answered with 200."""
        wanted = self.answers[200] + number
        with trio.fail_after(60):
            while self.answers[200] < wanted:
                await self._changed.wait()


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_crash_under_load(own_kiwi: Instance) -> None:
    """kanidmd is killed while requests run: service returns by itself, every GET is answered, and sessions and tokens live on."""
    kiwi = own_kiwi
    async with kiwi.browser() as browser:
        await _signed_in(kiwi, browser)
        request = kiwi.request()
        tokens = await browser.token(request, (await browser.authorize(request)).headers["location"], kiwi.secret())
        killed = kiwi.kanidmd_pid()
        load = _Load(browser, f"/oauth2/openid/{request.client_id}/.well-known/openid-configuration")
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(load.run)
            await load.more(50)
            os.kill(killed, signal.SIGKILL)
            await load.more(100)
            nursery.cancel_scope.cancel()
        assert set(load.answers) == {200}
        assert kiwi.kanidmd_pid() != killed

        again = kiwi.request()
        answer = await browser.authorize(again)
        assert answer.status_code == 303, "the session did not survive"
        await browser.token(again, answer.headers["location"], kiwi.secret())
        bearer = {"authorization": f"Bearer {tokens['access_token']}"}
        answer = await browser.http.get(f"/oauth2/openid/{request.client_id}/userinfo", headers=bearer)
        assert answer.status_code == 200, "the access token did not survive"


async def test_reload_while_serving(own_kiwi: Instance) -> None:
    """SIGHUP while requests run loses none of them, keeps the same kanidmd, and a stop right after it still works."""
    kiwi = own_kiwi
    child = kiwi.kanidmd_pid()
    async with kiwi.browser() as browser:
        load = _Load(browser, "/status")
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(load.run)
            for _ in range(3):
                await load.more(30)
                kiwi.process.send_signal(signal.SIGHUP)
            await load.more(100)
            nursery.cancel_scope.cancel()
    assert set(load.answers) == {200}
    assert kiwi.kanidmd_pid() == child
    # Kanidm 1.5.0 loses a TERM within five seconds of a HUP; Kiwi ID sends it again.
    assert await trio.to_thread.run_sync(kiwi.stop) == 0
    assert not _alive(child)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
async def test_clean_stop(own_kiwi: Instance, how: signal.Signals) -> None:
    """SIGTERM and SIGINT end Kiwi ID with exit 0; no kanidmd, no socket and no listener stay behind."""
    kiwi = own_kiwi
    child = kiwi.kanidmd_pid()
    assert await trio.to_thread.run_sync(kiwi.stop, how) == 0
    assert not _alive(child)
    port = int(kiwi.origin.rpartition(":")[2])
    with pytest.raises(OSError):  # noqa: PT011  # refused, in whatever words
        await trio.open_tcp_stream("127.0.0.1", port)
