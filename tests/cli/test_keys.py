"""``kiwi-id keys`` as a process: by itself, and beside a running Kiwi ID whose tokens must outlive every change."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kiwi_id import control, devserver
from kiwi_id.errors import Exit
from kiwi_id.instance import keys as pairs
from kiwi_id.instance import layout
from kiwi_id.issuer.keys import JWKS_MAX_AGE, PUBLISH_AHEAD, RETIRED_LIFETIME
from tests.issuer.flows.tab import arrived
from tests.issuer.flows.world import ALICE, World

ROOT = Path(__file__).parent.parent.parent


def run(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    action, *rest = arguments
    command = [sys.executable, "-m", "kiwi_id", "keys", action, "--config", str(config), *rest]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def good(config: Path, *arguments: str) -> dict[str, Any]:
    """Run the command with --json; return its answer."""
    done = run(config, arguments[0], "--json", *arguments[1:])
    assert done.returncode == Exit.OK, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["ok"] is True
    return answer


def by_state(answer: dict[str, Any], state: str) -> list[str]:
    """Return the kids of an answer's keys in one state."""
    return [key["kid"] for key in answer["keys"] if key["state"] == state]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config.toml with an Ed25519 pair, and nothing running."""
    pairs.generate_pair(tmp_path / "private.pem", tmp_path / "public.pem", kind="eddsa")
    file = tmp_path / "config.toml"
    lines = {"jwt_private_key": tmp_path / "private.pem", "jwt_public_key": tmp_path / "public.pem", "runtime_dir": tmp_path}
    file.write_text("".join(f'{name} = "{value}"\n' for name, value in lines.items()))
    return file


def age(config: Path, days: float) -> None:
    """Make the files in the key directory older, by their names, which is where their age is written."""
    for path in config.with_name("jwt-keys").iterdir():
        stamp, rest = path.name.split("-", 1)
        then = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) - timedelta(days=days)
        path.rename(path.with_name(f"{then:%Y%m%dT%H%M%SZ}-{rest}"))


def test_a_person_is_led_from_generate_to_retire(config: Path) -> None:
    """Each step tells the next one; the table shows state, kid, algorithm and until when; too early is 1, in words."""
    done = run(config, "list")
    assert done.returncode == Exit.OK
    head, line = done.stdout.splitlines()
    assert head.split() == ["STATE", "KID", "ALG", "SINCE"]
    state, first, alg, *_, note = line.split()
    assert (state, alg, note) == ("current", "EdDSA", "signs")

    done = run(config, "rotate")
    assert (done.returncode, done.stdout) == (Exit.FAILURE, "")
    assert "kiwi-id keys: there is no next key: run 'kiwi-id keys generate'" in done.stderr

    done = run(config, "generate")
    assert done.returncode == Exit.OK
    assert "kiwi-id keys rotate" in done.stdout
    assert "Not reloaded: no running Kiwi ID answers" in done.stdout
    assert "can sign from" in done.stdout
    assert "There is a next key already" in run(config, "generate", "--no-reload").stdout

    done = run(config, "rotate")
    assert done.returncode == Exit.FAILURE
    assert "--force" in done.stderr
    age(config, 1)
    done = run(config, "rotate", "--no-reload")
    assert done.returncode == Exit.OK
    assert f"{first} stays published until" in done.stdout
    assert "kiwi-id reload --wait" in done.stdout
    assert str(config.with_name("public.pem")) in done.stdout

    done = run(config, "retire", "--", first)
    assert done.returncode == Exit.FAILURE
    assert "it goes by itself then" in done.stderr
    assert run(config, "retire", "--force", "--", first).returncode == Exit.OK
    assert len(good(config, "list")["keys"]) == 1


def test_json_has_all_and_nothing_else_is_on_stdout(config: Path) -> None:
    """Times in RFC 3339 with the zone, the file of each key, and what came of the reload."""
    answer = good(config, "generate", "--kind", "es256")
    assert answer["reload"] is None
    following = next(key for key in answer["keys"] if key["state"] == "next")
    assert following["alg"] == "ES256"
    since, ready = (datetime.fromisoformat(following[name]) for name in ("since", "ready"))
    assert ready - since == PUBLISH_AHEAD
    assert Path(following["file"]).stat().st_mode & 0o777 == 0o600
    answer = good(config, "rotate", "--force")
    retired = next(key for key in answer["keys"] if key["state"] == "retired")
    since, until = (datetime.fromisoformat(retired[name]) for name in ("since", "until"))
    assert until - since == RETIRED_LIFETIME
    assert by_state(answer, "current") == [following["kid"]]


@pytest.mark.parametrize("kind", pairs.KINDS)
def test_rotating_into_each_kind(config: Path, kind: str) -> None:
    """By force at once, the pair matching afterwards; without it only into a next key of that kind."""
    done = run(config, "rotate", "--kind", kind)
    assert done.returncode == Exit.FAILURE
    answer = good(config, "rotate", "--kind", kind, "--force")
    assert next(key["alg"] for key in answer["keys"] if key["state"] == "current").lower() == kind
    assert pairs.check_pair(config.with_name("private.pem"), config.with_name("public.pem")) == []


@pytest.mark.parametrize("arguments", [["list", "--kind", "es256"], ["generate", "--kind", "hs256"], ["retire"], ["forget"]])
def test_usage_errors(config: Path, arguments: list[str]) -> None:
    """64, with the usage."""
    done = run(config, *arguments)
    assert done.returncode == Exit.USAGE
    assert "usage:" in done.stderr


def broken_loose(private: Path, public: Path) -> str:
    """A private key that the group can read."""
    private.chmod(0o640)
    return "mode 0640"


def broken_kind(private: Path, public: Path) -> str:
    """A curve that no supported algorithm uses."""
    private.write_bytes(pairs.private_pem(ec.generate_private_key(ec.SECP384R1())))
    return "an EC key on secp384r1"


def broken_half(private: Path, public: Path) -> str:
    """Another key's public half."""
    public.write_bytes(pairs.public_pem(ec.generate_private_key(ec.SECP256R1())))
    return "not the public half"


def broken_lock(private: Path, public: Path) -> str:
    """An encrypted private key."""
    key: Any = serialization.load_pem_private_key(private.read_bytes(), None)
    how = serialization.BestAvailableEncryption(b"pass")
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
    return "an encrypted private key"


BROKEN = [broken_loose, broken_kind, broken_half, broken_lock]


@pytest.mark.parametrize("breakage", BROKEN)
def test_unusable_files_are_refused_and_not_touched(config: Path, breakage: Any) -> None:
    """78, with the file and what is wrong; no action changes anything."""
    private, public = config.with_name("private.pem"), config.with_name("public.pem")
    words = breakage(private, public)
    before = private.read_bytes(), public.read_bytes()
    for action in (["list"], ["generate"], ["rotate", "--force"], ["retire", "abc"]):
        done = run(config, *action)
        assert done.returncode == Exit.CONFIG
        assert words in done.stderr
        assert str(config.parent) in done.stderr
        assert "Traceback" not in done.stderr
    assert (private.read_bytes(), public.read_bytes()) == before


def test_check_tells_of_a_bad_key_in_the_directory(config: Path) -> None:
    """A file there that would stop a start is found by 'kiwi-id check', too."""
    answer = good(config, "generate")
    Path(next(key["file"] for key in answer["keys"] if key["state"] == "next")).chmod(0o644)
    command = [sys.executable, "-m", "kiwi_id", "check", "--config", str(config), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    (finding,) = [found for found in json.loads(done.stdout)["findings"] if found["area"] == "signing keys"]
    assert finding["status"] == "wrong"
    assert "mode 0644" in finding["message"]


# -- beside a running Kiwi ID -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A running Kiwi ID over the stand-in, with its clients."""
    directory = Path(tempfile.mkdtemp(prefix="kiwi-keys-"))
    try:
        devserver.install(directory / "kanidmd")
        made = World(directory / "kanidmd", directory)
        try:
            yield made
        finally:
            made.close()
        assert not made.leaks()
        assert "Traceback" not in made.instance.stderr()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def published(world: World) -> httpx.Response:
    """Return the key set that the running Kiwi ID publishes."""
    async with world.tab() as tab:
        answer = await tab.http.get("/oauth2/keys")
        assert answer.headers["cache-control"] == f"public, max-age={JWKS_MAX_AGE}"
        return answer


def kids(answer: httpx.Response) -> set[str]:
    """Return the kids of a key set."""
    return {key["kid"] for key in answer.json()["keys"]}


def kid(token: str) -> str:
    """Return the kid of a token."""
    return str(jwt.get_unverified_header(token)["kid"])


def verify(answer: httpx.Response, token: str) -> dict[str, Any]:
    """Check a token with the published key set, as a service does."""
    key = next(key for key in answer.json()["keys"] if key["kid"] == kid(token))
    claims: dict[str, Any] = jwt.decode(token, jwt.PyJWK.from_dict(key), algorithms=[key["alg"]], audience="kiwi-demo")
    return claims


async def test_a_rotation_beside_a_running_kiwi_id(world: World) -> None:
    """Old tokens verify and work, new ones carry the new kid, a login in progress ends well, ETag and key set change."""
    config = world.instance.config
    assert timedelta(seconds=JWKS_MAX_AGE) * 10 < PUBLISH_AHEAD
    before = await published(world)
    async with world.tab() as tab:
        asked = world.asked()
        old = await tab.tokens(asked, ALICE)
        generated = good(config, "generate", "--kind", "es256")
        assert generated["reload"]["ok"] is True
        (following,) = by_state(generated, "next")
        ahead = await published(world)
        assert kids(ahead) == kids(before) | {following}
        assert ahead.headers["etag"] != before.headers["etag"]
        assert kid((await tab.more_tokens(world.asked()))["access_token"]) == kid(old["access_token"])

        second = world.tab()
        async with second:
            login = world.asked()
            page = await second.authorize(login)  # the login page is open while the key changes
            rotated = good(config, "rotate", "--force")
            assert rotated["reload"]["ok"] is True
            assert by_state(rotated, "current") == [following]
            answer = await second.redeem(login, arrived(await second.agree(await second.sign_in_as(ALICE, page))))
            assert answer.status_code == 200, answer.text
            assert kid(answer.json()["access_token"]) == following
        after = await published(world)
        assert kids(after) == kids(ahead)
        assert after.headers["etag"] != before.headers["etag"]
        for token in (old["access_token"], old["id_token"]):
            assert verify(after, token)["iss"] == world.issuer
        await tab.assert_alive(world.demo, old)
        refreshed = await tab.refresh(world.demo, old["refresh_token"])
        assert refreshed.status_code == 200
        assert kid(refreshed.json()["access_token"]) == following
        assert verify(after, refreshed.json()["id_token"])["sub"]
        assert (await tab.http.get("/.well-known/openid-configuration")).json()["id_token_signing_alg_values_supported"][
            0
        ] == "ES256"

        # A retired key that is taken away at once takes its tokens with it.
        (retired,) = by_state(rotated, "retired")
        assert run(config, "retire", "--force", "--", retired).returncode == Exit.OK
        assert kids(await published(world)) == {following}
        assert (await tab.userinfo(old["access_token"])).status_code == 401
        await tab.assert_alive(world.demo, refreshed.json())


@pytest.mark.parametrize("breakage", BROKEN)
async def test_a_reload_with_unusable_keys_keeps_the_last_good_set(world: World, breakage: Any) -> None:
    """The reload is refused with the file and what is wrong; the key set published and the tokens signed are as before."""
    private, public = world.places.jwt_private_key, world.places.jwt_public_key
    kept = private.read_bytes(), public.read_bytes()
    before = await published(world)
    try:
        words = breakage(private, public)
        outcome = control.call(world.places.runtime_dir / "control.sock", "reload", timeout=60)
        assert not outcome["ok"]
        assert any(words in problem["found"] for problem in outcome["problems"])
        after = await published(world)
        assert (after.content, after.headers["etag"]) == (before.content, before.headers["etag"])
        async with world.tab() as tab:
            assert verify(before, (await tab.tokens(world.asked(), ALICE))["access_token"])
    finally:
        private.write_bytes(kept[0])
        private.chmod(0o600)
        public.write_bytes(kept[1])


async def test_a_running_kiwi_id_that_refuses_is_told_with_78(world: World) -> None:
    """The change is made, the reload is refused for another reason: exit code 78, the reason, and the old keys stay in force."""
    config = world.instance.config
    text = config.read_text()
    before = await published(world)
    # Keys change only if config.toml can be read, so what is broken is a file that it names and 'keys' does not read.
    server = world.places.upstream_config
    kept = server.read_text()
    try:
        server.write_text("broken")
        done = run(config, "generate")
        assert done.returncode == Exit.CONFIG
        assert "refused to reload" in done.stderr
        assert (await published(world)).content == before.content
    finally:
        server.write_text(kept)
        config.write_text(text)
    assert good(config, "list")["keys"]


async def test_a_retired_key_of_age_is_gone_after_the_next_start(world: World) -> None:
    """What is a week old is removed by the running Kiwi ID itself when it looks at its keys."""
    config = world.instance.config
    answer = good(config, "rotate", "--force")
    (retired,) = by_state(answer, "retired")
    assert retired in kids(await published(world))
    age(config, 8)
    await world.restart(world.instance)
    directory = layout.Places.under(world.instance.directory).jwt_private_key.parent / "jwt-keys"
    ends = time.monotonic() + 30
    while any(retired in path.name for path in directory.iterdir()) or retired in kids(await published(world)):
        assert time.monotonic() < ends, "the retired key is still there"
        time.sleep(0.1)  # noqa: ASYNC251 - the other process works meanwhile
