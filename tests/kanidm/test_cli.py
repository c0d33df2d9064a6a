"""Kanidm's own command line client works through the front, unchanged."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.kanidm.instance import Instance

Run = Callable[..., str]


@pytest.fixture
def kanidm(kiwi: Instance, cli: Path, tmp_path: Path) -> Run:
    """Return a function that runs one ``kanidm`` command as idm_admin, checks that it succeeds, and returns its output."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "KANIDM_URL": kiwi.origin,
        "KANIDM_CA_PATH": str(kiwi.ca),
        "KANIDM_NAME": "idm_admin",
        "KANIDM_PASSWORD": trio.run(kiwi.administrator),
    }

    def run(*arguments: str) -> str:
        done = subprocess.run([cli, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "Login Success" in run("login")
    return run


def test_people_and_groups(kanidm: Run, kiwi: Instance) -> None:
    """A person and a group are made, joined, parted (DELETE with a JSON body) and deleted by the command line client."""
    kanidm("person", "create", "carol", "Carol Cli")
    kanidm("group", "create", "cli_users")
    kanidm("group", "add-members", "cli_users", "carol")
    assert "cli_users@localhost" in kanidm("person", "get", "carol")
    kanidm("group", "remove-members", "cli_users", "carol")
    assert "cli_users@localhost" not in kanidm("person", "get", "carol")
    kanidm("person", "delete", "carol")
    kanidm("group", "delete", "cli_users")

    async def left() -> list[object]:
        async with kiwi.rest() as rest:
            await rest.login("idm_admin", await kiwi.administrator())
            return [await rest.get("person", "carol"), await rest.get("group", "cli_users")]

    assert trio.run(left) == [None, None]


def test_oauth2_client(kanidm: Run) -> None:
    """An OAuth2 client is made, given scopes and a redirect URI, asked for its secret, and deleted."""
    oauth2 = ("system", "oauth2")
    kanidm(*oauth2, "create", "cli-app", "CLI App", "https://cli.localhost/")
    kanidm(*oauth2, "update-scope-map", "cli-app", "kiwi_users", "openid", "email")
    kanidm(*oauth2, "add-redirect-url", "cli-app", "https://cli.localhost/callback")
    shown = kanidm(*oauth2, "get", "cli-app")
    assert "https://cli.localhost/callback" in shown
    assert "kiwi_users@localhost" in shown
    assert re.search(r"\b\w{40,}\b", kanidm(*oauth2, "show-basic-secret", "cli-app"))
    kanidm(*oauth2, "delete-scope-map", "cli-app", "kiwi_users")
    kanidm(*oauth2, "delete", "cli-app")
    assert "cli-app" not in kanidm(*oauth2, "list")


def test_session_is_seen(kanidm: Run, tmp_path: Path) -> None:
    """The client's session is one that the server knows (whoami), and ends with its logout."""
    assert "idm_admin@localhost" in kanidm("self", "whoami")
    kanidm("logout")
    instances = json.loads((tmp_path / ".cache/kanidm_tokens").read_text())["instances"]
    assert not any(instance["tokens"] for instance in instances.values())
