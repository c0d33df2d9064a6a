"""``kiwi-id bootstrap``: our account is made once, an instance set up by hand is adopted, and nobody is reset unasked."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
import trio

from kiwi_id.errors import Exit
from tests.bootstrap.world import World


def test_an_empty_instance(world: World) -> None:
    """The account is made without a question; its token is for the owner only, is never printed, and everything works with it."""
    assert world.run("user", "list").returncode == Exit.CONFIG
    done = world.run("bootstrap")
    assert (done.returncode, done.stderr) == (Exit.OK, "")
    assert "Made Kiwi ID's account in this Kanidm (kiwi_id)." in done.stdout
    assert "idm_admin has a password now that nobody knows." in done.stdout
    assert stat.S_IMODE(world.token.stat().st_mode) == 0o600
    assert world.token.read_text().strip() not in done.stdout
    assert sorted(path.name for path in world.directory.glob("*token*")) == ["kanidm-token"]
    assert world.json("user", "list") == []


def test_once_only(ready: World) -> None:
    """A second time the account is found, the token stays, and the password that an administrator has set since stays, too."""
    token, password = ready.token.read_text(), ready.recover()
    assert "already" in ready.ok("bootstrap")
    outcome = ready.json("bootstrap")
    assert (outcome["action"], outcome["recovered"], outcome["missing"]) == ("kept", False, [])
    assert ready.token.read_text() == token
    assert ready.accepts("idm_admin", password)


def test_several_at_once(world: World) -> None:
    """The one that Kiwi ID does at its first start, and one by hand: one makes the account, and the others wait and find it."""
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(lambda _: world.json("bootstrap"), range(3)))
    assert sorted(outcome["action"] for outcome in outcomes) == ["kept", "kept", "made"]
    assert world.json("user", "list") == []


def test_an_instance_that_was_set_up_by_hand(world: World) -> None:
    """idm_admin is in use: nothing is made or reset without a word; with its password the account is made, and nothing is reset."""
    password = world.recover()
    done = world.run("bootstrap")
    assert (done.returncode, done.stdout) == (Exit.CONFIG, "")
    for way in ("--ask-password", "--recover"):
        assert way in done.stderr
    assert not list(world.directory.glob("*token*"))
    assert world.accepts("idm_admin", password)
    wrong = world.run("bootstrap", "--ask-password", given="wrong\n")
    assert wrong.returncode == Exit.FAILURE
    assert "did not accept the password of 'idm_admin'" in wrong.stderr
    assert not world.token.exists()
    outcome = json.loads(_patiently(world, password))
    assert outcome["recovered"] is False
    assert world.accepts("idm_admin", password)
    assert world.json("group", "list") == []


def _patiently(world: World, password: str) -> str:
    # After a wrong password Kanidm refuses right ones as well for a moment (server/lib/src/credential/softlock.rs).
    while (done := world.run("bootstrap", "--ask-password", "--json", given=f"{password}\n")).returncode == Exit.FAILURE:
        assert "did not accept" in done.stderr
    assert (done.returncode, done.stderr) == (Exit.OK, "")
    return done.stdout


def test_reset_with_consent(world: World) -> None:
    """--recover resets idm_admin, and says so; the password of before has ended."""
    password = world.recover()
    assert "idm_admin has a password now that nobody knows." in world.ok("bootstrap", "--recover")
    assert not world.accepts("idm_admin", password)
    assert world.json("user", "list") == []


def test_a_lost_token(ready: World) -> None:
    """Without its token the account is not made anew in silence; with consent it gets one more, and the old can be revoked."""
    ready.token.unlink()
    assert ready.run("bootstrap").returncode == Exit.CONFIG
    assert "Older tokens of it still work: 1." in ready.ok("bootstrap", "--recover")
    assert ready.json("bootstrap", "--recover", "--revoke-others")["others"] == 0
    assert ready.json("bootstrap", "--recover")["others"] == 1


@pytest.mark.parametrize("text", ["", "not a token\n", "eyJhbGciOiJFUzI1NiJ9.eyJhIjoxfQ.AAAA\n"])
def test_a_token_that_is_not_accepted(ready: World, text: str) -> None:
    """Commands end with words that lead to bootstrap, which asks for consent, as idm_admin may be in use by now."""
    ready.token.write_text(text)
    done = ready.run("user", "list")
    assert done.returncode == Exit.CONFIG
    assert "kiwi-id bootstrap" in done.stderr
    assert text.strip() in ("", "not a token") or text.strip() not in done.stderr
    assert ready.run("bootstrap").returncode == Exit.CONFIG


def test_the_signing_key_is_rotated(ready: World) -> None:
    """The token does not depend on the signing key: a rotation leaves it as it was, and usable."""
    token = ready.token.read_text()
    ready.ok("keys", "rotate", "--force", "--no-reload")
    assert ready.token.read_text() == token
    assert ready.json("user", "list") == []


def test_no_kanidm(ready: World) -> None:
    """Without kanidmd: 69, and words; the token stays."""
    ready.kanidmd.process.kill()
    ready.kanidmd.process.wait()
    for command in (["bootstrap"], ["bootstrap", "--recover"], ["user", "list"]):
        done = ready.run(*command)
        assert (done.returncode, done.stdout) == (Exit.UNAVAILABLE, "")
        assert "Is Kiwi ID running? See: kiwi-id status" in done.stderr
    assert ready.token.exists()


def test_a_token_that_others_can_read(ready: World) -> None:
    """A mode that lets others read it is refused, with both ways to mend it."""
    ready.token.chmod(0o640)
    done = ready.run("user", "list")
    assert done.returncode == Exit.CONFIG
    assert "mode 0640" in done.stderr
    assert "--revoke-others" in done.stderr
    assert ready.run("bootstrap", "--recover").returncode == Exit.OK
    assert stat.S_IMODE(ready.token.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_makes_it_for_kiwi_id(world: World) -> None:
    """Made by root, the token belongs to whom the signing key belongs to: the user that Kiwi ID runs as."""
    os.chown(world.directory / "jwt-private.pem", 65534, 65534)
    world.ok("bootstrap")
    assert (world.token.stat().st_uid, stat.S_IMODE(world.token.stat().st_mode)) == (65534, 0o600)


def test_nothing_is_reset_when_the_token_could_not_be_kept(world: World) -> None:
    """A directory that cannot be written to is noticed before the reset, not after it."""
    config = world.config_file.read_text().replace(str(world.directory / "jwt-private.pem"), "/proc/jwt-private.pem")
    world.config_file.write_text(config)
    password = world.recover()
    done = world.run("bootstrap", "--recover")
    assert done.returncode == Exit.CONFIG
    assert "/proc" in done.stderr
    assert world.accepts("idm_admin", password)


def test_revoking_needs_an_administrator(ready: World) -> None:
    """--revoke-others alone would do nothing, and says so."""
    done = ready.run("bootstrap", "--revoke-others")
    assert done.returncode == Exit.USAGE
    assert "--ask-password or --recover" in done.stderr


def test_somebody_else_has_the_name(world: World) -> None:
    """A person of our account's name is not touched; the words say what is in the way."""
    password = world.recover()

    async def make_person() -> None:
        async with world.client() as kanidm:
            await kanidm.login("idm_admin", password)
            await kanidm.create_person("kiwi_id", "Somebody")

    trio.run(make_person)
    done = world.run("bootstrap", "--recover")
    assert done.returncode == Exit.FAILURE
    assert "an entry 'kiwi_id' already" in done.stderr
