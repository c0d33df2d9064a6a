"""``kiwi-id token verify`` and ``inspect`` as processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from kiwi_id import config
from kiwi_id.errors import Exit
from kiwi_id.instance import layout
from kiwi_id.issuer import keys
from kiwi_id.issuer.keys import Key, KeyState, make_key

ROOT = Path(__file__).parent.parent.parent
ISSUER = "https://id.example.com"


def run(*arguments: str, given: str | bytes = "") -> subprocess.CompletedProcess[str]:
    """Run the real command with something on standard input."""
    command = [sys.executable, "-m", "kiwi_id", "token", *arguments]
    data = given.encode() if isinstance(given, str) else given
    done = subprocess.run(command, cwd=ROOT, input=data, capture_output=True, timeout=60, check=False)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def sign(key: Key, typ: str = "at+jwt", **changes: Any) -> str:
    """Return a token as the issuer makes it; ``changes`` replace claims."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": "7a3f6c0e-5a3c-4f43-9d3b-0f0b8a3a3c11",
        "aud": "mail",
        "iat": now,
        "exp": now + 900,
        "jti": "one",
        "client_id": "mail",
        "scope": "openid mail_read",
        "name": "Zoë Demo",
        "groups": ["mail_users"],
    }
    return key.sign({**claims, **changes}, typ)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an instance as ``kiwi-id init`` writes it; nothing runs."""
    root = tmp_path_factory.mktemp("instance")
    layout.create(root, layout.Options(domain="id.example.com", key_type="eddsa"))
    return root


@pytest.fixture
def settings(instance: Path) -> config.Config:
    """Its config."""
    return config.load(layout.Places.under(instance).config)


@pytest.fixture
def key(settings: config.Config) -> Key:
    """Its signing key."""
    return keys.load(settings.jwt_private_key, settings.jwt_public_key, settings.keys_dir).current


@pytest.fixture
def by_key(settings: config.Config) -> list[str]:
    """The options that stand for a config."""
    return ["--key", str(settings.jwt_public_key), "--issuer", ISSUER, "--audience", "mail"]


def test_a_valid_token_for_a_person(key: Key, by_key: list[str], tmp_path: Path) -> None:
    """0, and a table of what it says; the same from standard input, '-' and a file, with white space around it."""
    token = sign(key)
    file = tmp_path / "token"
    file.write_text(f"\n {token}\r\n")
    for done in (
        run("verify", *by_key, given=token + "\n"),
        run("verify", "-", *by_key, given=token),
        run("verify", str(file), *by_key),
    ):
        assert (done.returncode, done.stderr) == (Exit.OK, "")
        rows = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
        assert rows[0] == ["valid"]
        assert ["name", "Zoë Demo"] in rows
        assert ["scopes", "mail_read openid"] in rows
        assert ["audience", "mail"] in rows
        (expires,) = [row[1] for row in rows if row[0] == "expires"]
        assert expires.endswith(" UTC (in 14 min)") or expires.endswith(" UTC (in 15 min)")


def test_a_valid_token_for_a_program(key: Key, by_key: list[str]) -> None:
    """--json holds all claims, and whether it was checked for whom the token is."""
    done = run("verify", "--json", *by_key, given=sign(key, tenant={"id": [1, 2]}))
    answer = json.loads(done.stdout)
    assert done.returncode == Exit.OK
    assert (answer["valid"], answer["audience_checked"]) == (True, True)
    assert answer["claims"]["groups"] == ["mail_users"]
    assert answer["claims"]["tenant"] == {"id": [1, 2]}


def test_an_audience_that_is_not_checked_is_told(key: Key, by_key: list[str]) -> None:
    """Without --audience the token of any service is valid here, and the command says that this does not suffice."""
    done = run("verify", *by_key[:-2], given=sign(key, aud="calendar"))
    assert done.returncode == Exit.OK
    assert "For whom it is was not checked" in done.stdout
    assert run("verify", *by_key, "--audience", "calendar", given=sign(key, aud="calendar")).returncode == Exit.OK


_NOW = int(time.time())
_STRANGER = make_key(ed25519.Ed25519PrivateKey.generate(), KeyState.CURRENT, datetime.now(UTC), Path("stranger.pem"))
_INVALID: dict[str, dict[str, Any]] = {
    "expired_token": {"exp": _NOW - 3600, "iat": _NOW - 7200},
    "not_yet_valid": {"iat": _NOW + 3600, "exp": _NOW + 7200},
    "wrong_issuer": {"iss": "https://id.example.org"},
    "wrong_audience": {"aud": "calendar"},
    "wrong_type": {"typ": "JWT"},
    "malformed_token": {"groups": "mail_users"},
}


@pytest.mark.parametrize("why", [*_INVALID, "unknown_key", "bad_signature"])
def test_an_invalid_token(key: Key, by_key: list[str], why: str) -> None:
    """1, a code for programs and words for people, and nowhere the token."""
    token = sign(key, **_INVALID.get(why, {}))
    if why == "unknown_key":
        token = sign(_STRANGER)
    elif why == "bad_signature":
        token = token.rpartition(".")[0] + "." + sign(key, jti="two").rpartition(".")[2]
    done = run("verify", *by_key, "--json", given=token)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["valid"], answer["error"]) == (Exit.FAILURE, False, why)
    if why == "expired_token":
        assert answer["by_seconds"] >= 3600
    words = run("verify", *by_key, given=token)
    assert (words.returncode, words.stderr) == (Exit.FAILURE, "")
    assert words.stdout.startswith("invalid: ")
    assert not [part for part in token.split(".") if part in words.stdout + done.stdout]


@pytest.mark.parametrize(
    "junk", [b"nonsense", b"a.b.c", b"\xff\xfe.\x00", b"a b", b"x" * 2_000_000], ids=["word", "parts", "bytes", "words", "long"]
)
def test_what_is_no_token(by_key: list[str], junk: bytes) -> None:
    """Anything on standard input is answered in words, and 1."""
    for action in (["verify", *by_key], ["inspect"]):
        done = run(*action, given=junk)
        assert done.returncode == Exit.FAILURE
        assert "token" in done.stdout
        assert "Traceback" not in done.stderr


def test_by_config(settings: config.Config, key: Key) -> None:
    """Key and issuer come from the config: the origin of server.toml, unless 'issuer' says otherwise."""
    chosen = ["--config", str(settings.path), "--audience", "mail"]
    assert run("verify", *chosen, given=sign(key)).returncode == Exit.OK
    assert run("verify", *chosen, given=sign(_STRANGER)).returncode == Exit.FAILURE
    other = settings.path.with_name("other.toml")
    other.write_text(f'issuer = "https://login.example.com"\n{settings.path.read_text()}')
    assert run("verify", "--config", str(other), given=sign(key, iss="https://login.example.com")).returncode == Exit.OK
    assert run("verify", "--config", str(other), given=sign(key)).returncode == Exit.FAILURE


def test_a_retired_key_still_counts(tmp_path: Path) -> None:
    """After a rotation, tokens of the key before are valid until it is retired for good; who cannot look at it is told so."""
    layout.create(tmp_path, layout.Options(domain="id.example.com", key_type="eddsa"))
    instance = config.load(layout.Places.under(tmp_path).config)
    old = keys.load(instance.jwt_private_key, instance.jwt_public_key, instance.keys_dir).current
    token, chosen = sign(old), ["--config", str(instance.path)]
    rotate = [sys.executable, "-m", "kiwi_id", "keys", "rotate", "--force", *chosen]
    subprocess.run(rotate, cwd=ROOT, check=True, capture_output=True, timeout=60)
    assert run("verify", *chosen, given=token).returncode == Exit.OK
    instance.jwt_private_key.chmod(0o644)  # which Kiwi ID refuses to use; the tests may run as root, who can read everything
    done = run("verify", *chosen, given=token)
    assert done.returncode == Exit.FAILURE
    assert "retired keys could not be looked at" in done.stdout


def test_configuration_that_cannot_be_used(settings: config.Config, key: Key, tmp_path: Path) -> None:
    """78 for a key file without a key, a missing one, and a private key; 66 without a config file; no word on the token."""
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    for file in (empty, tmp_path / "missing.pem", settings.jwt_private_key):
        done = run("verify", "--key", str(file), "--issuer", ISSUER, given=sign(key))
        assert (done.returncode, done.stdout) == (Exit.CONFIG, "")
        assert f"{file}: found" in done.stderr
    broken = tmp_path / "config.toml"
    broken.write_text("listen_adr = 1\n")
    assert run("verify", "--config", str(broken), given=sign(key)).returncode == Exit.CONFIG
    assert run("verify", "--config", str(tmp_path / "none.toml"), given=sign(key)).returncode == Exit.NOINPUT


def test_usage(by_key: list[str], settings: config.Config, tmp_path: Path) -> None:
    """64 for options that do not fit together, for no token, and for a file that cannot be read."""
    wrong = {
        "belong together": by_key[:2],
        "--key and --issuer": by_key[2:],
        "give one of the two": [*by_key, "--config", str(settings.path)],
        "no token in it": by_key,
        "No such file": [str(tmp_path / "none"), *by_key],
        "Is a directory": [str(tmp_path), *by_key],
        "audience": [*by_key[:-1], ""],
        "required: ACTION": [],
    }
    for words, options in wrong.items():
        done = run(*(["verify", *options] if options else []), given="x" if words == "audience" else " \n")
        assert (done.returncode, done.stdout) == (Exit.USAGE, ""), words
        assert words in done.stderr


def test_a_token_as_an_argument_is_refused_and_not_repeated(key: Key, by_key: list[str]) -> None:
    """Whoever gives it so is told who can read it now; a refresh token is known, too. It comes before every other mistake."""
    token = sign(key)
    for action in (["verify", *by_key], ["verify"], ["inspect"]):
        for secret in (token, f"kiwi-{token.replace('.', '')[:80]}"):
            done = run(*action, secret, given=token)
            assert done.returncode == Exit.USAGE
            assert "that is a token" in done.stderr
            assert secret not in done.stdout + done.stderr


def test_inspect(key: Key) -> None:
    """Header and claims of any token, also of one that nobody would accept, under a clear word; times are readable."""
    token = sign(_STRANGER, exp=_NOW - 90000, kiwi="x" * 500)
    done = run("inspect", given=token)
    assert done.returncode == Exit.OK
    assert done.stdout.startswith("NOT VERIFIED: anybody can write this.")
    assert "UTC (1 d ago)" in done.stdout
    assert f"{'x' * 60}… (500 characters)" in done.stdout
    answer = json.loads(run("inspect", "--json", given=token).stdout)
    assert answer["verified"] is False
    assert answer["header"] == {"alg": "EdDSA", "kid": _STRANGER.kid, "typ": "at+jwt"}
    assert answer["claims"]["kiwi"] == "x" * 500


def test_nothing_that_a_terminal_obeys(key: Key, by_key: list[str]) -> None:
    """A token may hold escape sequences, and whoever looks at one wants to look only."""
    token = sign(key, name="\x1b[2Jcl\near", tenant="\x1b]0;x\x07")
    for done in (run("inspect", given=token), run("verify", *by_key, given=token)):
        assert done.returncode == Exit.OK
        assert "\x1b" not in done.stdout
        assert "\\x1b[2Jcl\\near" in done.stdout


def test_it_starts_without_the_server(key: Key, by_key: list[str]) -> None:
    """verify and inspect load neither Trio nor any part of the server: they are quick, and work where only the core is."""
    for arguments in (["verify", *by_key], ["inspect"]):
        command = [sys.executable, "-X", "importtime", "-m", "kiwi_id", "token", *arguments]
        done = subprocess.run(command, cwd=ROOT, input=sign(key), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == Exit.OK
        loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
        assert "kiwi_id" in loaded
        assert not loaded & {"trio", "httpx", "quart", "hypercorn", "h11", "jwt"}
