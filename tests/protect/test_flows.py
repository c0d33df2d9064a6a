"""Login protection of a whole Kiwi ID, over the stand-in and the real kanidmd: guessing ends, and nobody else notices."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from kiwi_id import demo
from tests.issuer.rp.instances import SERVERS, running
from tests.kanidm.browser import Browser
from tests.kanidm.instance import Instance
from tests.supervisor.kiwi import eventually

ALICE, BOB = demo.USERS
GUESSER, ASKER, HOME, OFFICE = "192.0.2.66", "192.0.2.77", "198.51.100.7", "198.51.100.8"
LIMITS = {
    "login_failures_per_account_and_address": "3/1h",
    "login_failures_per_account": "48/1d",
    "login_failures_per_address": "300/1h",
    "token_failures_per_client": "5/1h",
    "token_failures_per_address": "600/1h",
}


@pytest.fixture(params=SERVERS)
def instance(request: pytest.FixtureRequest) -> Iterator[Instance]:
    """An instance with low limits; its clients' addresses are what the test says, as the address of a trusted proxy."""
    settings = ['trusted_proxies = ["127.0.0.1"]', *(f'protection.{name} = "{rate}"' for name, rate in LIMITS.items())]
    with running(request, settings) as made:
        yield made


def _from(browser: Browser, address: str) -> Browser:
    browser.http.headers["x-forwarded-for"] = address
    browser.http.headers["accept"] = "text/html"
    return browser


async def _unlocked(browser: Browser, name: str) -> httpx.Response:
    """Begin a login; again, while Kanidm's own soft lock lasts (a second, and then longer), which is no guess and costs nothing."""
    while True:
        page = await browser.send("POST", "/ui/login/begin", data={"username": name, "password": "", "totp": ""})
        if "temporarily locked" not in page.text:
            return page


async def _guess(browser: Browser, name: str, password: str) -> httpx.Response:
    """Show a password; return the last answer that came."""
    page = await _unlocked(browser, name)
    if page.status_code != 200 or "/ui/login/pw" not in page.text:
        return page
    return await browser.send("POST", "/ui/login/pw", data={"password": password})


def _status(instance: Instance) -> dict[str, Any]:
    command = [sys.executable, "-m", "kiwi_id", "status", "--json", "--config", str(instance.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _reload(instance: Instance, how: str, **limits: str) -> None:
    text = instance.config.read_text()
    for name, rate in limits.items():
        text, found = re.subn(rf"^protection\.{name} = .*$", f'protection.{name} = "{rate}"', text, flags=re.MULTILINE)
        assert found == 1
    instance.config.write_text(text)
    if how == "HUP":
        before = instance.stderr().count('"msg":"reloaded')
        os.kill(instance.process.pid, signal.SIGHUP)
        eventually(lambda: instance.stderr().count('"msg":"reloaded') > before, "a reload")
    else:
        command = [sys.executable, "-m", "kiwi_id", "reload", "--wait", "--config", str(instance.config)]
        assert subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


@pytest.mark.parametrize("how", ["HUP", "reload --wait"])
async def test_guessing_passwords(instance: Instance, how: str) -> None:
    """Guessing gets 429 with Retry-After; another address logs in meanwhile; a reload forgets nothing; later it works again."""
    async with instance.browser() as guesser, instance.browser() as home:
        _from(guesser, GUESSER)
        _from(home, HOME)
        for number in range(3):
            answer = await _guess(guesser, ALICE.name, f"wrong-{number}-zxcvbn")
            assert (answer.status_code, "Login Failed" in answer.text) == (200, True)
        refused = await _guess(guesser, "Alice@localhost", ALICE.password)
        assert refused.status_code == 429
        assert 1100 < int(refused.headers["retry-after"]) <= 1200
        assert "too many wrong logins to this account" in refused.text
        assert "bearer" not in guesser.cookies

        assert (await _guess(home, ALICE.name, ALICE.password)).status_code == 303
        assert "bearer" in home.cookies
        assert (await _guess(guesser, BOB.name, BOB.password)).status_code == 303

        _reload(instance, how, login_failures_per_account_and_address="3/2h")
        refused = await _guess(guesser, ALICE.name, ALICE.password)
        assert (refused.status_code, int(refused.headers["retry-after"]) > 2000) == (429, True)
        status = _status(instance)["protection"]
        assert status["failures"] == {"login": 3, "token": 0}
        assert status["refused"] == {"login_failures_per_account_and_address": 2}

        _reload(instance, how, login_failures_per_account_and_address="3/3s")
        while (answer := await _guess(guesser, ALICE.name, ALICE.password)).status_code == 429:
            assert answer.headers["retry-after"] == "1"
        assert answer.status_code == 303
    log = instance.stderr()
    assert "zxcvbn" not in log
    assert ALICE.password not in log
    refusals = [json.loads(line) for line in log.splitlines() if '"msg":"refused"' in line]
    assert {(record["client"], record["account"]) for record in refusals} == {(GUESSER, "alice")}


async def test_the_rest_api_and_names(instance: Instance) -> None:
    """The steps of /v1/auth are counted with those of the pages; asking for names ends as well, for the one who asks."""

    async def post(step: object, token: str = "", address: str = GUESSER) -> httpx.Response:
        headers = {"x-forwarded-for": address} | ({"x-kanidm-auth-session-id": token} if token else {})
        return await http.post("/v1/auth", json={"step": step}, headers=headers)

    async def begin(name: str, address: str = GUESSER) -> httpx.Response:
        return await post({"init2": {"username": name, "issue": "token", "privileged": False}}, "", address)

    async def password(name: str, word: str, address: str = GUESSER) -> httpx.Response:
        while True:
            answer = await begin(name, address)
            if answer.status_code != 200:
                return answer
            answer = await post({"begin": "password"}, answer.headers["x-kanidm-auth-session-id"], address)
            if "continue" in answer.json()["state"]:
                return await post({"cred": {"password": word}}, answer.headers["x-kanidm-auth-session-id"], address)

    context = ssl.create_default_context(cafile=str(instance.ca))
    async with httpx.AsyncClient(base_url=instance.origin, verify=context, trust_env=False, timeout=30) as http:
        for _ in range(3):
            assert "denied" in (await password(ALICE.name, "wrong")).json()["state"]
        # However it is written, it is alice for Kanidm, and so it is here.
        for name in ("alice", "ALICE@localhost", "name=alice", "spn=alice@localhost,dc=x"):
            refused = await begin(name)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_failures")
        raw = b'[{"init2":["alice","token",false]}] and more'
        headers = {"x-forwarded-for": GUESSER, "content-type": "application/json"}
        assert (await http.post("/v1/auth", content=raw, headers=headers)).status_code == 429
        assert "success" in (await password(ALICE.name, ALICE.password, HOME)).json()["state"]
        _reload(instance, "reload", login_failures_per_address="8/1h")
        for number in range(8):
            assert (await begin(f"nobody-{number}", ASKER)).status_code == 404
        refused = await begin(BOB.name, ASKER)
        assert (refused.status_code, "from your network" in refused.text) == (429, True)
        assert "success" in (await password(BOB.name, BOB.password, OFFICE)).json()["state"]


async def test_wrong_secrets(instance: Instance) -> None:
    """Guessing a client's secret gets 429 in the form of RFC 6749; the client itself, elsewhere, is served all the while."""
    client = instance.demo.clients[0].client_id
    async with instance.browser() as browser:

        async def ask(secret: str, address: str, path: str = "/oauth2/token") -> httpx.Response:
            form = {"grant_type": "client_credentials", "token": "x"}
            headers = {"x-forwarded-for": address}
            return await browser.http.post(path, data=form, auth=httpx.BasicAuth(client, secret), headers=headers)

        for path in ("/oauth2/token", "/oauth2/introspect", "/oauth2/revoke", "/oauth2/token", "/oauth2/introspect"):
            assert (await ask("wrong", GUESSER, path)).status_code == 401
            assert (await ask(instance.secret(), HOME)).status_code == 200
        for path in ("/oauth2/token", "/oauth2/introspect", "/oauth2/revoke"):
            refused = await ask(instance.secret(), GUESSER, path)
            assert refused.status_code == 429
            assert refused.json()["error"] == "temporarily_unavailable"
            assert 600 < int(refused.headers["retry-after"]) <= 720
        for _ in range(20):
            assert (await ask(instance.secret(), HOME)).status_code == 200
        assert _status(instance)["protection"]["failures"] == {"login": 0, "token": 5}


async def test_paths_that_only_look_alike(instance: Instance) -> None:
    """A login step by another spelling of its path reaches no login step of Kanidm's either."""
    async with instance.browser() as browser:
        begun = await browser.send("POST", "/ui/login/begin", data={"username": ALICE.name, "password": "", "totp": ""})
        assert "/ui/login/pw" in begun.text
        for path in ("/ui/login/p%77", "/ui/login/pw/", "//ui/login/pw", "/ui//login/pw", "/UI/login/pw"):
            answer = await browser.send("POST", path, data={"password": ALICE.password})
            assert "bearer" not in browser.cookies, path
            assert answer.status_code in (400, 404, 405), path
        for path in ("/v1/auth/", "/v1/%61uth", "//v1/auth"):
            answer = await browser.http.post(path, json={"step": {"init": ALICE.name}})
            assert "x-kanidm-auth-session-id" not in answer.headers, path
