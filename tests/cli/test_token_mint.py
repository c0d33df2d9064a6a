"""``kiwi-id token mint --dev``: tokens from a running ``kiwi-id dev``, and from nowhere else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from kiwi_id.errors import Exit
from kiwi_id.instance import layout
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.admin import recover_account
from kiwi_id.kanidm.rest import Kanidm
from tests.test_dev import dev

ROOT = Path(__file__).parent.parent.parent
SECONDS = 90


def run(*arguments: str, temporary: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KIWI_", "KANIDM_"))}
    environment["TMPDIR"] = str(temporary)
    command = [sys.executable, "-m", "kiwi_id", "token", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, input=given, capture_output=True, text=True, timeout=SECONDS, check=False
    )


@pytest.fixture
def temporary() -> Iterator[Path]:
    """An empty directory with a short path, for the sockets in it."""
    directory = Path(f"/tmp/km{os.getpid()}")
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize("upstream", ["stand-in", pytest.param("kanidmd", marks=pytest.mark.kanidm)])
def test_a_token_as_a_login_gives_it(upstream: str, temporary: Path, request: pytest.FixtureRequest) -> None:
    """Of either user, with the scopes asked for, again and again; the command checks it, userinfo knows it, and no log has it."""
    options = ["--stand-in"] if upstream == "stand-in" else ["--upstream-bin", str(request.getfixturevalue("kanidmd"))]
    with dev(*options, temporary=temporary) as (process, facts):
        chosen = ["--config", f"{facts['directory']}/etc/kiwi/config.toml", "--audience", "kiwi-demo-public", "--json"]
        tokens = []
        for _ in range(2):  # the second time Kanidm knows of the consent
            done = run("mint", "--dev", temporary=temporary)
            assert (done.returncode, done.stderr) == (Exit.OK, "")
            tokens.append(done.stdout.strip())
        assert tokens[0] != tokens[1]
        claims = json.loads(run("verify", *chosen, temporary=temporary, given=tokens[1]).stdout)["claims"]
        assert claims["name"] == "Alice Demo"
        assert {"kiwi_users", "mail_users"} <= set(claims["groups"])
        assert userinfo(facts, tokens[1])["sub"] == claims["sub"]

        options = ["--user", "bob", "--scope", "openid groups", "--json", "--dir", facts["directory"]]
        made = json.loads(run("mint", "--dev", *options, temporary=temporary).stdout)
        assert (made["user"], made["scope"], made["issuer"]) == ("bob", "groups openid", facts["origin"])
        assert Path(made["public_key"]).exists()
        claims = json.loads(run("verify", *chosen, temporary=temporary, given=made["access_token"]).stdout)["claims"]
        assert "mail_users" not in claims["groups"]
        assert "email" not in claims

        done = run("mint", "--dev", "--scope", "openid mail", temporary=temporary)
        assert (done.returncode, done.stdout) == (Exit.FAILURE, "")
        assert "may not have all of these scopes" in done.stderr
        done = run("mint", "--dev", "--scope", "mail.read", temporary=temporary)  # Kanidm's scopes have no dots
        assert done.returncode == Exit.FAILURE
        assert "this is no list of scopes: mail.read" in done.stderr
        trio.run(change_password, facts)
        done = run("mint", "--dev", temporary=temporary)
        assert (done.returncode, done.stdout) == (Exit.FAILURE, "")
        assert "the password of 'alice' was changed" in done.stderr
        log = Path(facts["log"]).read_text()
        assert "/oauth2/token" in log
        assert not [part for token in tokens for part in token.split(".") if part in log]
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0
    done = run("mint", "--dev", temporary=temporary)
    assert (done.returncode, done.stdout) == (Exit.UNAVAILABLE, "")
    assert "no 'kiwi-id dev' of yours runs" in done.stderr


def userinfo(facts: dict[str, Any], token: str) -> dict[str, Any]:
    """Ask the instance about the user of a token."""
    context = ssl.create_default_context(cafile=facts["certificate"])
    answer = httpx.get(
        f"{facts['origin']}/oauth2/userinfo", headers={"authorization": f"Bearer {token}"}, verify=context, trust_env=False
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def change_password(facts: dict[str, Any]) -> None:
    """Give alice another password, as a person may in a kept instance."""
    server = server_toml.load(layout.Places.under(Path(facts["directory"])).upstream_config)
    password = await recover_account(server.admin_socket, "idm_admin")
    async with Kanidm(facts["origin"], ssl.create_default_context(cafile=facts["certificate"])) as kanidm:
        await kanidm.login("idm_admin", password)
        await kanidm.set_password("alice", "harbour-cinnamon-glacier-41")


def test_several_that_run(temporary: Path) -> None:
    """Which one is meant must be said; a directory left behind by one that was killed does not count."""
    with dev("--stand-in", temporary=temporary) as (killed, _):
        killed.kill()
        killed.wait(SECONDS)
    with dev("--stand-in", temporary=temporary) as (_, first):
        assert run("mint", "--dev", temporary=temporary).returncode == Exit.OK
        with dev("--stand-in", temporary=temporary) as (_, second):
            done = run("mint", "--dev", temporary=temporary)
            assert done.returncode == Exit.CONFIG
            assert first["directory"] in done.stderr
            assert second["directory"] in done.stderr
            chosen = json.loads(run("mint", "--dev", "--json", "--dir", second["directory"], temporary=temporary).stdout)
            assert chosen["issuer"] == second["origin"]


@pytest.mark.parametrize(
    ("domain", "listen", "words"),
    [
        ("id.example.com", "127.0.0.1:8443", "domain: found id.example.com; allowed: localhost"),
        ("localhost", "0.0.0.0:8443", "0.0.0.0:8443, which others can reach; allowed: a loopback address"),
    ],
)
def test_other_instances_are_refused(tmp_path: Path, domain: str, listen: str, words: str) -> None:
    """A real domain, or an address that others can reach: 78, in words, before anything is sent anywhere."""
    layout.create(tmp_path / "i", layout.Options(domain=domain, key_type="eddsa"))
    file = layout.Places.under(tmp_path / "i").config
    file.write_text(file.read_text().replace('"127.0.0.1:8443"', f'"{listen}"'))
    done = run("mint", "--dev", "--dir", str(tmp_path / "i"), temporary=tmp_path)
    assert (done.returncode, done.stdout) == (Exit.CONFIG, "")
    assert words in done.stderr
    assert "This is not an instance of 'kiwi-id dev'." in done.stderr


def test_usage(tmp_path: Path) -> None:
    """--dev must be said; others than the demo's users have no tokens to give; a directory must be an instance, and run."""
    done = run("mint", temporary=tmp_path)
    assert done.returncode == Exit.USAGE
    assert "say --dev" in done.stderr
    done = run("mint", "--dev", "--user", "carol", temporary=tmp_path)
    assert done.returncode == Exit.CONFIG
    assert "--user: found carol; allowed: alice, bob" in done.stderr
    assert run("mint", "--dev", "--dir", str(tmp_path), temporary=tmp_path).returncode == Exit.NOINPUT
    layout.create(tmp_path / "i", layout.Options(key_type="eddsa"))
    assert run("mint", "--dev", "--dir", str(tmp_path / "i"), temporary=tmp_path).returncode == Exit.UNAVAILABLE
