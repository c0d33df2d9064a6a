"""``bootstrap``, ``identities`` and ``apply_on_start``: an instance that makes itself so, and nobody waits for it."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from kiwi_id import config, logs
from kiwi_id.apart import apart
from kiwi_id.errors import KiwiError
from kiwi_id.instance import layout
from kiwi_id.instance.ports import free_port
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.admin import recover_account
from kiwi_id.kanidm.pin import client_context
from kiwi_id.kanidm.rest import Kanidm
from kiwi_id.provisioner import TRIES, Provisioner
from kiwi_id.state import ChildState, ChildStatus
from kiwi_id.values import Address
from tests.backup.running import kiwi_id
from tests.supervisor.kiwi import Kiwi, eventually

ON = {"bootstrap": "=true", "apply_on_start": "=true"}


def people(count: int) -> str:
    """Return a state file of so many persons."""
    return "".join(f"[persons.person{number}]\n" for number in range(count))


def named(kiwi: Kiwi) -> set[str]:
    """Return the names of the persons that Kanidm has."""
    done = kiwi.cli("user", "list")
    assert done.returncode == 0, done.stderr
    return {line.split()[0] for line in done.stdout.splitlines()[1:]}


def errors(kiwi: Kiwi) -> list[dict[str, Any]]:
    """Return the errors that were logged, but Kanidm's own: it has one at each first start."""
    return [line for line in kiwi.logs(level="error") if line["component"] != "kanidmd"]


def provisioned(kiwi: Kiwi) -> dict[str, Any]:
    """Return what the status tells of it when it is done."""

    def look() -> dict[str, Any] | None:
        told: dict[str, Any] = kiwi.ask()["provisioning"]
        return None if told["busy"] else told

    return eventually(look, "the end of the provisioning")


def signs_in(kiwi: Kiwi, password: str) -> bool:
    """Tell whether idm_admin has this password."""

    async def look() -> bool:
        chain = server_toml.load(kiwi.places.upstream_config).tls_chain
        async with Kanidm(f"https://127.0.0.1:{kiwi.upstream_port}", client_context(chain)) as kanidm:
            try:
                await kanidm.login("idm_admin", password)
            except KiwiError:
                return False
            return True

    return trio.run(look)


def test_from_nothing(make: Callable[..., Kiwi], binary: Path) -> None:
    """A first start makes the account and what the file says, a second one finds both; each step is logged once, no secret ever."""
    kiwi = make(binary, **ON)
    kiwi.config.with_name("identities.toml").write_text('[persons.alice]\ngroups = ["staff"]\n[groups.staff]\n')
    kiwi.start_ready()
    kiwi.wait_log("the state file is in force", steps=2, refused=0)
    assert named(kiwi) == {"alice"}
    token = kiwi.config.with_name("kanidm-token")
    assert token.stat().st_mode & 0o777 == 0o600
    steps = [line["step"] for line in kiwi.logs(msg="applied a step of the state file")]
    assert sorted(steps) == ["create group staff", "create person alice"]
    assert kiwi.stop() == 0
    before = token.read_text()
    kiwi.start()
    kiwi.wait_log("the state file is in force", steps=0)
    assert token.read_text() == before
    assert len(kiwi.logs(msg="made Kiwi ID's account in Kanidm")) == 1
    told = provisioned(kiwi)
    assert (told["account"]["state"], told["applied"]["ok"], told["mistakes"]) == ("kept", True, [])
    assert before.strip() not in kiwi.text()
    assert not errors(kiwi)


def test_what_was_set_up_by_hand_is_not_disturbed(make: Callable[..., Kiwi], binary: Path) -> None:
    """Where somebody has recovered idm_admin, no password is reset: a warning says what to do, and people log in."""
    kiwi = make(binary)
    kiwi.start_ready()
    password = trio.run(recover_account, server_toml.load(kiwi.places.upstream_config).admin_socket, "idm_admin")
    kiwi.set(**ON)
    kiwi.config.with_name("identities.toml").write_text(people(1))
    assert kiwi.cli("reload", "--wait").returncode == 0
    warning = kiwi.wait_log("Kiwi ID has no account in Kanidm", level="warn")
    assert "kiwi-id bootstrap --ask-password" in warning["error"]
    assert "kiwi-id bootstrap" in kiwi.wait_log("the state file was not applied")["error"]
    assert provisioned(kiwi)["account"]["state"] == "consent needed"
    assert signs_in(kiwi, password)
    assert not kiwi.config.with_name("kanidm-token").exists()
    assert kiwi.get("/readyz")[0] == 200


def test_a_restored_instance_finds_its_account(make: Callable[..., Kiwi], binary: Path) -> None:
    """Database and token of one backup fit: a start after a restore makes nothing, resets nobody, and applies what is new."""
    kiwi = make(binary, **ON)
    state, token = kiwi.config.with_name("identities.toml"), kiwi.config.with_name("kanidm-token")
    state.write_text(people(1))
    kiwi.start_ready()
    kiwi.wait_log("the state file is in force")
    before, backup = token.read_text(), kiwi.directory / "backup.tar.gz"
    assert kiwi.cli("backup", str(backup)).returncode == 0
    state.write_text(people(2))
    assert kiwi.cli("reload", "--wait").returncode == 0
    kiwi.wait_log("the state file is in force", 2)
    assert kiwi.stop() == 0
    shutil.rmtree(kiwi.places.database.parent)
    token.unlink()
    done = kiwi_id("restore", backup)
    assert done.returncode == 0, done.stderr
    state.write_text(people(3))
    kiwi.start()
    kiwi.wait_log("the state file is in force", steps=2)
    assert provisioned(kiwi)["account"]["state"] == "kept"
    assert token.read_text() == before
    assert named(kiwi) == {"person0", "person1", "person2"}


def test_mistakes_end_nothing(make: Callable[..., Kiwi], binary: Path) -> None:
    """A broken file neither ends Kiwi ID nor refuses a reload, which tells of it; a HUP after it is mended applies it."""
    kiwi = make(binary, **ON)
    state = kiwi.config.with_name("identities.toml")
    state.write_text("[persons.Alice]\n")
    kiwi.start_ready()
    kiwi.wait_log("the state file was not applied", level="error")
    kiwi.set(health_check_interval="300ms")
    done = kiwi.cli("reload", "--wait")
    assert done.returncode == 1
    assert "Changed: health_check_interval." in done.stdout
    assert f"{state}:1: persons.Alice: found" in done.stderr
    assert provisioned(kiwi)["mistakes"][0]["key"] == "persons.Alice"
    assert kiwi.get("/readyz")[0] == 200
    assert "persons.Alice" in kiwi.cli("check").stdout
    state.write_text("[persons.alice]\n")
    kiwi.signal(signal.SIGHUP)
    kiwi.wait_log("the state file is in force", steps=1)
    assert named(kiwi) == {"alice"}
    assert provisioned(kiwi)["mistakes"] == []


def test_what_only_kanidm_shows_is_told(make: Callable[..., Kiwi], binary: Path) -> None:
    """A name that nobody has is told by the log, by ``status`` and by ``reload --wait``, which exits with 1; mended, by none."""
    kiwi = make(binary, **ON)
    state = kiwi.config.with_name("identities.toml")
    state.write_text("[persons.alice]\n")
    kiwi.start_ready()
    kiwi.wait_log("the state file is in force")
    state.write_text("[persons.alice]\n[groups.staff]\nmembers = ['alice', 'nosuch']\n")
    done = kiwi.cli("reload", "--wait")
    kiwi.wait_log("the state file was not applied", level="error")
    # On a busy machine an apply may not end while somebody waits; then the words are that it goes on.
    assert (done.returncode == 1 and "'nosuch'" in done.stderr) or "is being applied" in done.stdout
    status = kiwi.cli("status").stdout
    assert "the state file was not applied" in status
    assert "'nosuch'" in status
    state.write_text("[persons.alice]\n[groups.staff]\nmembers = ['alice']\n")
    kiwi.cli("reload", "--wait")
    kiwi.wait_log("the state file is in force", steps=1)
    assert "the state file was not applied" not in kiwi.cli("status").stdout


def test_no_file_is_nothing_to_do(make: Callable[..., Kiwi], binary: Path) -> None:
    """The default path need not exist; ``identities`` names another place, which a reload finds."""
    kiwi = make(binary, **ON)
    kiwi.start_ready()
    kiwi.wait_log("there is no state file")
    assert provisioned(kiwi)["applied"]["absent"] is True
    elsewhere = kiwi.directory / "state.d"
    elsewhere.mkdir()
    (elsewhere / "mail.toml").write_text("[persons.alice]\n")
    kiwi.set(identities=str(elsewhere))
    assert re.search("is being applied|is applied: 1 steps done", kiwi.cli("reload", "--wait").stdout)
    kiwi.wait_log("the state file is in force", steps=1)
    assert kiwi.cli("plan").returncode == 0
    assert not errors(kiwi)


def test_kanidmd_dies_in_the_middle(make: Callable[..., Kiwi], binary: Path) -> None:
    """Killed while persons are made, it is restarted and the rest is done; no step is told twice, nobody is left out."""
    kiwi = make(binary, **ON)
    kiwi.config.with_name("identities.toml").write_text(people(400))
    kiwi.start_ready()
    kanidmd = kiwi.child_pid()
    kiwi.wait_log("applied a step of the state file")
    os.kill(kanidmd, signal.SIGKILL)
    kiwi.wait_log("child ready", 2)
    kiwi.wait_log("the state file is in force", refused=0)
    assert named(kiwi) == {f"person{number}" for number in range(400)}
    steps = [line["step"] for line in kiwi.logs(msg="applied a step of the state file")]
    assert len(steps) == len(set(steps))


def test_a_stop_in_the_middle(make: Callable[..., Kiwi], binary: Path) -> None:
    """TERM ends the apply where it is, in order and with exit code 0; the next start goes on from there."""
    kiwi = make(binary, **ON)
    kiwi.config.with_name("identities.toml").write_text(people(400))
    kiwi.start_ready()
    kiwi.wait_log("applied a step of the state file")
    assert kiwi.stop() == 0
    assert not errors(kiwi)
    kiwi.start()
    eventually(lambda: kiwi.logs(msg="the state file is in force"), "the rest is applied")
    assert len(named(kiwi)) == 400


async def test_trying_again_has_an_end(
    autojump_clock: trio.testing.MockClock, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A Kanidm that is ready by its state and not to be reached is asked so many times, and no more until somebody asks anew."""
    logs.configure("info", "console")
    options = layout.Options(
        upstream=Address("127.0.0.1", free_port()), upstream_bin=tmp_path / "none", key_type="eddsa", provision=True
    )
    layout.create(tmp_path, options)
    settings = config.load(layout.Places.under(tmp_path).config)
    status = ChildStatus()
    for state in (ChildState.STARTING, ChildState.READY):
        status.transition(state, "a test")
    server = server_toml.load(settings.upstream_config)
    provisioner = Provisioner(config=lambda: settings, server=lambda: server, status=status)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(provisioner.run)
        while provisioner.applied is None:  # noqa: ASYNC110 - the virtual clock costs no time
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert provisioner.account is not None
    assert provisioner.account.state == "failed"
    assert trio.current_time() - began > 2 ** (TRIES - 2)
    assert capfd.readouterr().err.count("given up") == 1  # the account; without it the state file has nothing to try again


async def test_work_apart_is_cancelled_with_us() -> None:
    """What is cancelled here is cancelled there, and has ended when we go on; results and errors come through."""
    ended: list[str] = []

    async def lasting() -> None:
        try:
            ended.append("begun")
            await trio.sleep_forever()
        finally:
            ended.append("ended")

    async def raising() -> None:
        raise KiwiError("words")

    async def returning() -> int:
        await trio.lowlevel.checkpoint()
        return 42

    async with trio.open_nursery() as nursery:
        nursery.start_soon(apart, lasting)
        while not ended:  # noqa: ASYNC110 - another thread's doing
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert ended == ["begun", "ended"]
    with pytest.raises(KiwiError, match="words"):
        await apart(raising)
    assert await apart(returning) == 42
