"""``kiwi-id admin recover``: a new password, for the eyes of who stands at the terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

from kiwi_id.errors import Exit
from tests.bootstrap import conftest
from tests.bootstrap.world import ROOT, SECONDS, World

command, world = conftest.command, conftest.world  # the fixtures


def test_not_into_a_file(world: World) -> None:
    """Where standard output is no terminal nothing is reset, and the words name the option for those who mean it."""
    password = world.recover()
    done = world.run("admin", "recover", "idm_admin")
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert "say --stdout" in done.stderr
    assert world.accepts("idm_admin", password)


def test_on_a_terminal(world: World) -> None:
    """The password stands on the terminal, and is the account's from then on."""
    ours, theirs = pty.openpty()
    arguments = [sys.executable, "-m", "kiwi_id", "admin", "recover", "idm_admin", "--config", str(world.config_file)]
    try:
        done = subprocess.run(arguments, cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=SECONDS, check=True)
        shown = os.read(ours, 4096).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    found = re.fullmatch(r"(\w{30,})\r\n", shown)
    assert found
    assert "It is not kept anywhere" in done.stderr
    assert found[1] not in done.stderr
    assert world.accepts("idm_admin", found[1])


def test_for_a_script(world: World) -> None:
    """--stdout gives the password alone, with --json in an object; each ends the one before."""
    first = world.ok("admin", "recover", "admin", "--stdout").strip()
    second = json.loads(world.ok("admin", "recover", "admin", "--stdout", "--json"))
    assert second["name"] == "admin"
    assert world.accepts("admin", second["password"])
    assert not world.accepts("admin", first)


def test_what_cannot_be(world: World) -> None:
    """An account that is not there: 1; no kanidmd: 69; no name: 64. Each in words, and without a password."""
    done = world.run("admin", "recover", "nobody-here", "--stdout")
    assert (done.returncode, done.stdout) == (Exit.FAILURE, "")
    assert "nobody-here" in done.stderr
    done = world.run("admin", "recover", "no/name", "--stdout")
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    world.kanidmd.process.kill()
    world.kanidmd.process.wait()
    done = world.run("admin", "recover", "admin", "--stdout")
    assert (done.returncode, done.stdout) == (Exit.UNAVAILABLE, "")
