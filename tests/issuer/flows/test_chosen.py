"""Chosen client secrets over a running Kiwi ID: every way to show one, rotation, broken files, restarts, resets in Kanidm."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from kiwi_id import bootstrap, config, control
from kiwi_id.kanidm import everyday
from tests.issuer.flows.checks import basic, refused
from tests.issuer.flows.tab import Client, Tab
from tests.issuer.flows.test_native import direct
from tests.issuer.flows.world import ALICE, World
from tests.kanidm.instance import ROOT
from tests.supervisor.kiwi import alive, eventually

URI = "https://chosen.localhost/cb"
# Everything that makes trouble: separators of Basic and of forms, and what is another character when it is decoded once too often.
CHOSEN = "Chosen:by+a%20person/=~&1"
STATE = """
[clients.flow-chosen]
landing = "https://chosen.localhost/"
redirect_uris = ["{uri}"]
scopes = {{ kiwi_users = ["openid", "profile", "email", "groups"] }}
secret_file = "{file}"
{more}
"""


@dataclass
class Chosen:
    """A client of the world's instance with a chosen secret; ``kanidms`` is the one that Kanidm has made for it."""

    world: World
    client: Client
    kanidms: str = ""
    touched: bool = False

    @property
    def directory(self) -> Path:
        """Where the instance's files are."""
        return self.world.places.config.parent

    @property
    def file(self) -> Path:
        """The file of the current secret."""
        return self.directory / "chosen-secret"

    @property
    def previous(self) -> Path:
        """The file of the secret before."""
        return self.directory / "chosen-secret-before"

    def write(self, more: str = "") -> None:
        """Write the state file; ``more`` are further lines of the client."""
        self.touched = True
        (self.directory / "identities.toml").write_text(STATE.format(uri=URI, file=self.file, more=more))

    def put(self, path: Path, secret: str) -> None:
        """Write a secret file, and note the secret for the search of the logs."""
        self.world.note(secret)
        self.touched = True
        path.touch(0o600)
        path.chmod(0o600)
        path.write_text(secret + "\n")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``kiwi-id`` on this instance."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("KIWI_", "KANIDM_"))}
        environment["KIWI_CONFIG"] = str(self.world.places.config)
        command = [sys.executable, "-m", "kiwi_id", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)

    def ok(self, *arguments: str) -> str:
        """Run ``kiwi-id``, which must work; return its output."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def shown(self, secret: str) -> Client:
        """Return the client with that secret."""
        return Client(self.client.client_id, secret, URI)

    def log(self) -> str:
        """What Kiwi ID has written so far."""
        return self.world.instance.stderr()

    async def accepted(self, tab: Tab, secret: str) -> bool:
        """Tell whether a secret is the client's, by a token for itself."""
        answer = await tab.post("/oauth2/token", {"grant_type": "client_credentials"}, headers=encoded(secret))
        if answer.status_code == 401:
            assert refused(answer, "invalid_client", 401)
        else:
            assert answer.status_code == 200, answer.text
        return answer.status_code == 200


def encoded(secret: str) -> dict[str, str]:
    """Return Basic credentials as RFC 6749 §2.3.1 wants them."""
    pair = f"{quote('flow-chosen', safe='')}:{quote(secret, safe='')}"
    return {"authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


@pytest.fixture(scope="module")
def everything(world: World) -> Iterator[Chosen]:
    """The account of Kiwi ID, and a client that ``kiwi-id apply`` has made while the instance ran, which was told of it."""
    made = Chosen(world, Client("flow-chosen", CHOSEN, URI))
    settings = config.load(world.places.config)

    async def account() -> None:
        await bootstrap.bootstrap(settings, world.instance.server, password=world.admin_password)

    trio.run(account)
    world.note(settings.kanidm_token.read_text().strip())
    made.put(made.file, CHOSEN)
    made.write()
    made.ok("apply")
    made.kanidms = made.ok("client", "secret", "flow-chosen", "--kanidm").strip()
    world.note(made.kanidms)
    yield made
    (made.directory / "identities.toml").write_text("")
    made.ok("reload", "--wait")


@pytest.fixture
def chosen(everything: Chosen) -> Chosen:
    """The same, with the files as they were at first before each test, whatever the one before has done."""
    if everything.touched:  # a reload has kanidmd wait for some seconds before it stops
        everything.put(everything.file, CHOSEN)
        everything.write()
        everything.ok("reload", "--wait")
        everything.touched = False
    return everything


WAYS: dict[str, Callable[[str], tuple[dict[str, str], dict[str, str]]]] = {
    "basic": lambda secret: ({}, encoded(secret)),
    "basic, not encoded": lambda secret: ({}, basic("flow-chosen", secret)),
    "post": lambda secret: ({"client_id": "flow-chosen", "client_secret": secret}, {}),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_whole_life(chosen: Chosen, way: str) -> None:
    """Login, refresh, userinfo, introspection, revocation and client_credentials, each with the chosen secret alone."""
    world = chosen.world
    form, headers = WAYS[way](CHOSEN)
    async with world.tab() as tab:

        async def ask(path: str, **fields: str) -> Any:
            answer = await tab.post(path, {**fields, **form}, headers=headers)
            assert answer.status_code == 200, answer.text
            return answer.json()

        asked = world.asked(chosen.client)
        came = await tab.log_in(asked, ALICE)
        grant = {"code": came.parameters["code"], "redirect_uri": URI, "code_verifier": asked.verifier}
        tokens = await ask("/oauth2/token", grant_type="authorization_code", **grant)
        assert world.verified(tokens["id_token"], audience="flow-chosen")["nonce"] == asked.nonce
        tokens = await ask("/oauth2/token", grant_type="refresh_token", refresh_token=tokens["refresh_token"])
        assert (await tab.userinfo(tokens["access_token"])).status_code == 200
        for path in ("/oauth2/introspect", "/oauth2/token/introspect"):
            assert (await ask(path, token=tokens["access_token"]))["active"] is True
        await ask("/oauth2/revoke", token=tokens["refresh_token"])
        assert (await ask("/oauth2/introspect", token=tokens["access_token"])) == {"active": False}
        assert (await tab.userinfo(tokens["access_token"])).status_code == 401
        assert (await ask("/oauth2/token", grant_type="client_credentials"))["token_type"] == "Bearer"


async def test_other_secrets(chosen: Chosen) -> None:
    """Wrong ones, none, and the one that Kanidm has made are refused as invalid_client, counted, and use nothing up."""
    world = chosen.world
    before = failures(world)
    async with world.tab() as tab:
        asked = world.asked(chosen.client)
        came = await tab.log_in(asked, ALICE)
        form = {"grant_type": "authorization_code", "code": came.parameters["code"], "redirect_uri": URI}
        form["code_verifier"] = asked.verifier
        for secret in ("wrong", chosen.kanidms, CHOSEN.lower(), "sha256:" + "0" * 64):
            assert refused(await tab.post("/oauth2/token", form, headers=encoded(secret)), "invalid_client", 401)
            for path in ("/oauth2/introspect", "/oauth2/revoke"):
                assert refused(await tab.post(path, {"token": "x"}, headers=encoded(secret)), "invalid_client", 401)
        assert refused(await tab.post("/oauth2/token", {**form, "client_id": "flow-chosen"}), "invalid_client", 401)
        assert failures(world) == before + 13
        answer = await tab.post("/oauth2/token", form, headers=encoded(CHOSEN))
        assert answer.status_code == 200, answer.text


def failures(world: World) -> int:
    """How many refused token requests login protection has counted."""
    status = control.call(config.load(world.places.config).control_socket, "status", timeout=10)
    return int(status["protection"]["failures"]["token"])


async def test_kanidms_own_paths(chosen: Chosen) -> None:
    """Kanidm's own issuer of the client knows Kanidm's secret and not the chosen one, in the front as in kanidmd itself."""
    async with chosen.world.tab() as tab, direct(chosen.world) as kanidmd:
        for asks in (tab.http, kanidmd):
            statuses = []
            for secret in (chosen.kanidms, "wrong-secret"):
                data = {"grant_type": "refresh_token", "refresh_token": "gAAAAABm" + "A" * 120}
                statuses.append((await asks.post("/oauth2/token", data=data, headers=basic("flow-chosen", secret))).status_code)
            assert statuses == [400, 401]


async def test_rotation(chosen: Chosen) -> None:
    """Two secrets count from one reload on, and a login goes on from the old to the new; the old one ends at its time."""
    world, new = chosen.world, secrets.token_urlsafe(32)
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(chosen.client), ALICE)
        chosen.put(chosen.previous, CHOSEN)
        chosen.put(chosen.file, new)
        soon = datetime.now(UTC) + timedelta(days=1)
        chosen.write(f'previous_secret_file = "{chosen.previous}"\nprevious_secret_until = {soon:%Y-%m-%dT%H:%M:%SZ}')
        assert "Changed: the chosen secret of flow-chosen." in chosen.ok("reload", "--wait")
        assert await chosen.accepted(tab, CHOSEN)
        assert await chosen.accepted(tab, new)
        answer = await tab.refresh(chosen.shown(new), tokens["refresh_token"])
        assert answer.status_code == 200, answer.text
        past = datetime.now(UTC) - timedelta(seconds=1)
        chosen.write(f'previous_secret_file = "{chosen.previous}"\nprevious_secret_until = {past:%Y-%m-%dT%H:%M:%SZ}')
        chosen.previous.unlink()  # nobody reads it any more
        chosen.ok("reload", "--wait")
        assert not await chosen.accepted(tab, CHOSEN)
        assert await chosen.accepted(tab, new)
        assert await tab.introspect(chosen.shown(new), answer.json()["access_token"])


async def test_a_file_that_breaks(chosen: Chosen) -> None:
    """A reload tells what is wrong and keeps the last good secret; a start with it serves everybody else, and mends by a reload."""
    world = chosen.world
    async with world.tab() as tab:
        chosen.put(chosen.file, secrets.token_urlsafe(32))
        chosen.file.chmod(0o644)
        done = await trio.to_thread.run_sync(chosen.run, "reload", "--wait")
        assert done.returncode == 1
        assert f"clients.flow-chosen.secret_file: found {chosen.file} with mode 0644; allowed: 0600 or 0400" in done.stderr
        done = await trio.to_thread.run_sync(chosen.run, "apply")
        assert done.returncode == 1
        assert f"{chosen.file} with mode 0644" in done.stderr
        assert await chosen.accepted(tab, CHOSEN)
        await world.restart(world.instance)
        for secret in (CHOSEN, chosen.kanidms, chosen.file.read_text().strip()):
            assert not await chosen.accepted(tab, secret)
        assert await tab.tokens(world.asked(), ALICE)
        chosen.put(chosen.file, CHOSEN)
        chosen.ok("reload", "--wait")
        assert await chosen.accepted(tab, CHOSEN)
    assert "a chosen client secret cannot be used" in chosen.log()


async def test_a_hash_alone(chosen: Chosen) -> None:
    """The file may hold the hash: then not even who reads it knows the secret."""
    secret = secrets.token_urlsafe(32)
    chosen.world.note(secret)
    chosen.put(chosen.file, "sha256:" + hashlib.sha256(secret.encode()).hexdigest())
    chosen.ok("reload", "--wait")
    async with chosen.world.tab() as tab:
        assert await chosen.accepted(tab, secret)
        assert not await chosen.accepted(tab, CHOSEN)
        assert not await chosen.accepted(tab, chosen.file.read_text().strip())


async def test_restarts_between_the_steps(chosen: Chosen) -> None:
    """Code, token, refresh, introspection: Kiwi ID and kanidmd are started anew before each."""
    world = chosen.world
    async with world.tab() as tab:
        asked = world.asked(chosen.client)
        came = await tab.log_in(asked, ALICE)
        await world.restart(world.instance)
        answer = await tab.redeem(asked, came)
        assert answer.status_code == 200, answer.text
        await world.restart(world.instance)
        answer = await tab.refresh(chosen.client, answer.json()["refresh_token"])
        assert answer.status_code == 200, answer.text
        await world.restart(world.instance)
        await tab.assert_alive(chosen.client, answer.json())


async def test_a_reset_in_kanidm(chosen: Chosen) -> None:
    """Kanidm's secret is reset behind our back, again and again: no login notices, and the running sessions go on."""
    world = chosen.world
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(chosen.client), ALICE)
        for path in ("/oauth2/introspect", "/oauth2/token", "/oauth2/revoke"):
            async with world.rest_as_admin() as rest:
                await everyday.new_client_secret(rest, "flow-chosen")
                another = await rest.client_secret("flow-chosen")
            world.note(another)
            assert another != chosen.kanidms
            chosen.kanidms = another
            if path == "/oauth2/token":
                answer = await tab.refresh(chosen.client, tokens["refresh_token"])
                tokens = answer.json()
            else:
                answer = await tab.post(path, {"token": tokens["access_token"]}, chosen.client)
            assert answer.status_code == 200, answer.text
            assert not await chosen.accepted(tab, another)
        assert (await tab.userinfo(tokens["access_token"])).status_code == 401


async def test_many_at_once_while_kanidmd_is_gone(chosen: Chosen) -> None:
    """The first logins come together, with nothing known of Kanidm's secret yet, and wait for a kanidmd that crashed: all work."""
    world = chosen.world
    await world.restart(world.instance)
    kanidmd = world.instance.kanidmd_pid()
    os.kill(kanidmd, signal.SIGKILL)
    eventually(lambda: not alive(kanidmd), "the end of kanidmd")
    async with world.tab() as tab:
        done: list[bool] = []

        async def ask() -> None:
            done.append(await chosen.accepted(tab, CHOSEN))

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(ask)
        assert done == [True] * 12


async def test_without_the_account(chosen: Chosen) -> None:
    """Without Kiwi ID's account in Kanidm the right secret gets a 502 and the log says what to do; a wrong one stays a 401."""
    world = chosen.world
    token = config.load(world.places.config).kanidm_token
    away = token.with_name("away")
    token.rename(away)
    try:
        await world.restart(world.instance)
        async with world.tab() as tab:
            answer = await tab.post("/oauth2/token", {"grant_type": "client_credentials"}, headers=encoded(CHOSEN))
            assert answer.status_code == 502
            assert not await chosen.accepted(tab, "wrong")
            assert "Kanidm's own secret of a client with a chosen one cannot be had" in chosen.log()
            assert "Make it: kiwi-id bootstrap" in chosen.log()
            away.rename(token)
            assert await chosen.accepted(tab, CHOSEN)
    finally:
        if away.exists():
            away.rename(token)
