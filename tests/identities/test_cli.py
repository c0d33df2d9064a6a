"""``kiwi-id plan``, ``apply`` and ``export`` as they are typed, with Kiwi ID's own account and its least rights."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from kiwi_id.errors import Exit
from kiwi_id.identities.model import MARK_GROUP
from kiwi_id.identities.service import apply_configured
from tests.bootstrap import conftest
from tests.bootstrap.world import ROOT, SECONDS, World, made

from .world import EVERYTHING

command, world, ready = conftest.command, conftest.world, conftest.ready  # the fixtures


def write(world: World, text: str) -> Path:
    """Write the state file where it is looked for."""
    file = world.directory / "identities.toml"
    file.write_text(text)
    return file


def test_plan_apply_plan(ready: World) -> None:
    """A plan tells by its exit code whether there is something to do, and does nothing; after an apply there is nothing."""
    write(ready, EVERYTHING)
    plan = ready.run("plan")
    assert plan.returncode == 2
    assert '+ person alice\n    display_name: "Alice Example"\n' in plan.stdout
    assert "~ group idm_all_persons\n" in plan.stdout
    assert plan.stdout.endswith("\n7 to create, 1 to change.\n")
    assert ready.run("plan").stdout == plan.stdout
    done = ready.ok("apply")
    assert done.endswith("8 of 8 steps done.\n")
    assert "+ client wiki\n" in done
    assert ready.ok("plan") == "Kanidm is as the state file says.\n"
    assert ready.ok("apply") == "0 of 0 steps done.\n"
    write(ready, EVERYTHING.replace("Alice Example", "Alice Other").replace('"bob", "inner"', '"inner"'))
    assert '~ person alice\n    display_name: "Alice Example" → "Alice Other"\n' in ready.run("plan").stdout
    assert "    members: -bob\n" in ready.run("plan").stdout


def test_json(ready: World) -> None:
    """Plan and apply answer programs with every step and value."""
    write(ready, "[persons.alice]\n")
    plan = ready.run("plan", "--json")
    assert plan.returncode == 2
    change = {"field": "display_name", "before": "", "after": "alice"}
    step = {"action": "create", "kind": "person", "name": "alice", "changes": [change]}
    assert json.loads(plan.stdout) == {"changes": True, "steps": [step], "not_ours": [], "held_back": [], "left_the_file": []}
    assert ready.json("apply") == {"ok": True, "done": 1, "refused": [], "secrets": [], **json.loads(plan.stdout)}
    assert ready.json("plan") == {"changes": False, "steps": [], "not_ours": [], "held_back": [], "left_the_file": []}


def test_what_is_not_ours(ready: World) -> None:
    """What Kiwi ID's other commands or a hand made is left alone, exit code 1, until --adopt; then it is kept."""
    ready.ok("group", "add", "readers")
    write(ready, '[groups.readers]\ndescription = "All"\n')
    plan = ready.run("plan")
    assert plan.returncode == Exit.FAILURE
    assert plan.stdout.startswith(
        "! readers  left alone: Kanidm has it, and Kiwi ID did not make it. To take it over: --adopt readers"
    )
    assert "as the state file says" not in plan.stdout
    assert ready.run("apply").returncode == Exit.FAILURE
    typo = ready.run("apply", "--adopt", "reader")
    assert (typo.returncode, "Did you mean 'readers'?" in typo.stderr) == (Exit.CONFIG, True)
    assert ready.ok("apply", "--adopt", "readers").splitlines()[0].startswith("= group readers")
    assert ready.ok("plan") == "Kanidm is as the state file says.\n"
    write(ready, "")
    assert "readers  left the file and stays" in ready.ok("plan")
    assert ready.run("plan", "--prune").returncode == 2
    assert ready.ok("apply", "--prune").startswith("- group readers")
    assert [group["name"] for group in ready.json("group", "list")] == [MARK_GROUP]


def test_accounts_of_kanidms_own(ready: World) -> None:
    """Of a name that only Kanidm's own account may have, nobody is told to take it over."""
    write(ready, "[persons.admin]\n[persons.anonymous]\n[service_accounts.idm_admin]\n")
    plan = ready.run("plan")
    assert plan.returncode == Exit.FAILURE
    assert plan.stdout.count("an account of its own of that name. Choose another name") == 3
    assert "adopt" not in plan.stdout


def test_export_to_another_instance(ready: World, command: tuple[str, ...]) -> None:
    """A file exported from one instance makes another that exports the same file."""
    write(ready, EVERYTHING)
    ready.ok("apply")
    ready.ok("user", "add", "dora", "--mail", "dora@example.com")
    file = ready.directory / "moved.toml"
    assert ready.ok("export", "--output", str(file)) == ""
    again = ready.run("export", "--output", str(file))
    assert (again.returncode, "File exists" in again.stderr) == (Exit.CONFIG, True)
    with made(command) as other:
        other.ok("bootstrap")
        other.ok("apply", "--file", str(file))
        assert other.ok("export") == file.read_text()
        assert other.ok("plan", "--file", str(file)) == "Kanidm is as the state file says.\n"
    # And the first is kept by it when that is asked for; what was exported is what is there, so adopting changes nothing else.
    adopted = ready.json("apply", "--file", str(file), "--adopt-all")
    assert [(step["action"], step["name"]) for step in adopted["steps"]] == [("adopt", "dora")]


def test_export_of_what_no_state_file_may_have(ready: World) -> None:
    """It is told, with exit code 1, and the file is good all the same."""

    async def by_hand() -> None:
        async with ready.client() as kanidm:
            kanidm.use_token(ready.token.read_text().strip())
            await kanidm.create_client("app", "App", "https://app.example.com/")
            await kanidm.add_redirect_uris("app", "https://app.example.com/cb#x")

    trio.run(by_hand)
    exported = ready.run("export")
    assert exported.returncode == Exit.FAILURE
    assert exported.stderr.startswith("Only as a comment: clients.app.redirect_uris: found a URI that cannot be used")
    file = write(ready, exported.stdout)
    assert ready.run("plan", "--file", str(file)).stdout.startswith("! app  left alone")


def test_without_an_account_of_ours(world: World) -> None:
    """Before a bootstrap the words say what to do; --recover is a way, and says what it has done."""
    write(world, "[persons.alice]\n")
    plan = world.run("plan")
    assert (plan.returncode, "kiwi-id bootstrap" in plan.stderr) == (Exit.CONFIG, True)
    password = world.recover()
    applied = world.run("apply", "--recover")
    assert (applied.returncode, applied.stdout) == (0, "+ person alice\n1 of 1 steps done.\n")
    assert "The password of 'idm_admin' was reset" in applied.stderr
    assert not world.accepts("idm_admin", password)


def test_mistakes_are_told_all_at_once(ready: World) -> None:
    """A file with mistakes does nothing, and each is told with its line and what to do: exit code 78."""
    write(ready, '[persons.alice]\nmail = "a@example.com"\ngroup = ["x"]\n[clients.c]\npost_logout_redirect_uris = []\n')
    failed = ready.run("apply")
    assert failed.returncode == Exit.CONFIG
    lines = failed.stderr.splitlines()
    assert len(lines) == 4
    assert 'identities.toml:2: persons.alice.mail: found "a@example.com" (string); allowed: an array' in failed.stderr
    assert "identities.toml:3: persons.alice.group: found an unknown key. Did you mean 'groups'?" in failed.stderr
    assert "write it in config.toml, in [clients.NAME]" in failed.stderr
    missing = ready.run("plan", "--file", "/nowhere.toml")
    assert (missing.returncode, "no state file" in missing.stderr) == (Exit.NOINPUT, True)


def test_progress(ready: World) -> None:
    """Long work shows a bar when standard error is a terminal, and takes it away; a pipe sees none (all other tests here)."""
    write(ready, "\n".join(f"[persons.p{number}]" for number in range(60)))
    ours, theirs = pty.openpty()
    environment = {**os.environ, "KIWI_CONFIG": str(ready.config_file)}
    argv = [sys.executable, "-m", "kiwi_id", "apply"]
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        done = subprocess.run(argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=theirs, timeout=SECONDS, check=False)
        os.close(theirs)
        shown = terminal.read(1 << 16).decode()
    assert done.returncode == 0
    assert "] 30/60" in shown
    assert shown.endswith("\r\x1b[K")


def test_at_a_start_or_reload(ready: World, capsys: pytest.CaptureFixture[str]) -> None:
    """What a start or HUP does with a configured file: the same, logged; a mistake in the file is logged and ends nothing."""
    write(ready, "[persons.alice]\n")
    config, server = ready.config, ready.server
    assert trio.run(apply_configured, config, server).ok
    assert [user["name"] for user in ready.json("user", "list")] == ["alice"]
    write(ready, "[persons.Alice]\n")
    (mistake,) = trio.run(apply_configured, config, server).mistakes
    assert mistake.key == "persons.Alice"
    ready.ok("group", "add", "readers")
    write(ready, "[persons.alice]\n[groups.readers]\n")
    assert trio.run(apply_configured, config, server).left_alone == ("readers",)
