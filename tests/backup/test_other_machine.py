"""The purpose of a backup: the instance that a restore makes elsewhere is the same one to its users and their applications."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trio

from kiwi_id import demo
from kiwi_id.errors import Exit
from kiwi_id.instance import layout
from tests.backup.running import kiwi_id, launch
from tests.issuer.rp.instances import SERVERS, server
from tests.kanidm.browser import Browser
from tests.kanidm.instance import Instance, start

ALICE, BOB = demo.USERS


@pytest.fixture(params=SERVERS)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Path, Instance]]:
    """A directory with a running instance in ``first``, to be stopped and destroyed."""
    # Not pytest's tmp_path: a Unix socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="kiwi-backup-") as name:
        directory = Path(name)
        instance = start(server(request, directory), directory / "first")
        try:
            yield directory, instance
        finally:
            if instance.process.poll() is None:
                instance.stop()


async def sign_in(instance: Instance, browser: Browser, user: demo.DemoUser) -> dict[str, str]:
    """Log a user in through the issuer; return the tokens."""
    request = instance.request()
    page = await browser.send("GET", "/oauth2/authorize", params=request.parameters)
    await browser.send("GET", page.headers["location"])
    page = await browser.sign_in(user.name, user.password)
    location = page.headers["location"] if page.status_code == 303 else await browser.consent(page)
    query = parse_qs(urlsplit(location).query)
    form = {
        "grant_type": "authorization_code",
        "code": query["code"][0],
        "redirect_uri": request.redirect_uri,
        "code_verifier": request.verifier,
    }
    answer = await browser.http.post("/oauth2/token", data=form, auth=(request.client_id, instance.secret()))
    assert answer.status_code == 200, answer.text
    tokens: dict[str, str] = answer.json()
    return tokens


async def test_tokens_and_users_outlive_the_machine(place: tuple[Path, Instance]) -> None:
    """Backed up while it runs, destroyed and restored in another directory: tokens, refresh, session, passwords, secret, key.

    What happened after the backup is gone: the person then made cannot be found, as the backup is one moment's.
    """
    directory, first = place
    passphrase = directory / "passphrase"
    passphrase.write_text("a walnut for the winter\n")
    passphrase.chmod(0o600)
    async with first.browser() as browser:
        tokens = await sign_in(first, browser, ALICE)
        cookies = dict(browser.cookies)
        key_set = (await browser.http.get("/oauth2/keys")).json()
    config = first.config
    made = await trio.to_thread.run_sync(
        lambda: kiwi_id(
            "backup", directory / "backups", "--config", config, "--keep", "3", "--passphrase-file", passphrase, "--json"
        )
    )
    assert made.returncode == Exit.OK, made.stderr
    backup = Path(json.loads(made.stdout)["path"])
    async with first.rest() as rest:
        await rest.login("idm_admin", await first.administrator())
        await rest.create_person("latecomer", "Late Comer")
    assert await trio.to_thread.run_sync(first.stop) == 0
    shutil.rmtree(first.directory)

    restored = await trio.to_thread.run_sync(
        lambda: kiwi_id("restore", backup, "--root", directory / "second", "--passphrase-file", passphrase)
    )
    assert restored.returncode == Exit.OK, restored.stderr
    checked = await trio.to_thread.run_sync(lambda: kiwi_id("check", "--config", layout.Places.under(directory / "second").config))
    assert checked.returncode == Exit.OK, checked.stdout
    second = await launch(directory / "second")
    try:
        second.demo = first.demo
        async with second.browser() as browser:
            bearer = {"authorization": f"Bearer {tokens['access_token']}"}
            told = await browser.http.get("/oauth2/userinfo", headers=bearer)
            assert (told.status_code, told.json()["name"]) == (200, ALICE.displayname)
            secret = (second.demo.clients[0].client_id, second.secret())
            form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
            renewed = await browser.http.post("/oauth2/token", data=form, auth=secret)
            assert renewed.status_code == 200, renewed.text
            asked = await browser.http.post("/oauth2/introspect", data={"token": renewed.json()["access_token"]}, auth=secret)
            assert asked.json()["active"] is True
            assert (await browser.http.get("/oauth2/keys")).json() == key_set
            browser.cookies = cookies
            page = await browser.send("GET", "/oauth2/authorize", params={**second.request().parameters, "prompt": "none"})
            assert "code=" in page.headers["location"], page.headers["location"]
        async with second.browser() as browser:
            assert "id_token" in await sign_in(second, browser, BOB)
        async with second.rest() as rest:
            await rest.login("idm_admin", await second.administrator())
            assert await rest.call("GET", "/v1/person/latecomer") is None
            assert await rest.call("GET", f"/v1/person/{ALICE.name}") is not None
    finally:
        assert await trio.to_thread.run_sync(second.stop) == 0


async def test_a_backup_while_it_is_written_to_is_of_one_moment(place: tuple[Path, Instance]) -> None:
    """People are made one after the other while backups run: each backup has the first so many of them, and is a whole database."""
    directory, instance = place
    backups: list[Path] = []
    async with instance.rest() as rest:
        await rest.login("idm_admin", await instance.administrator())
        made = 0

        async def make_people() -> None:
            nonlocal made
            while len(backups) < 4:
                await rest.create_person(f"person{made:04d}", "Somebody")
                made += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_people)
            for number in range(4):
                file = directory / f"{number}.tar.gz"
                done = await trio.to_thread.run_sync(partial(kiwi_id, "backup", file, "--config", instance.config))
                assert done.returncode == Exit.OK, done.stderr
                backups.append(file)
    counts = []
    for number, file in enumerate(backups):
        target = directory / f"r{number}"
        done = await trio.to_thread.run_sync(kiwi_id, "restore", file, "--root", target)
        assert done.returncode == Exit.OK, done.stderr
        with closing(sqlite3.connect(layout.Places.under(target).database)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            table, column = database.execute(
                "SELECT CASE WHEN count(*) THEN 'items' ELSE 'id2entry' END, CASE WHEN count(*) THEN 'value' ELSE 'data' END "
                "FROM sqlite_master WHERE name = 'items'"
            ).fetchone()
            text = "\n".join(str(row[0]) for row in database.execute(f"SELECT CAST({column} AS TEXT) FROM {table}"))  # noqa: S608
        names = [number for number in range(made) if f'"person{number:04d}"' in text]
        assert names == list(range(len(names)))
        counts.append(len(names))
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] <= made
