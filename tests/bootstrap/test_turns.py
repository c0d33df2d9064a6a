"""The locks of bootstrap and apply: files that nobody else can open, the same ones for the running Kiwi ID and by hand."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from kiwi_id.errors import Exit
from kiwi_id.identities import service
from kiwi_id.instance import turns
from tests.bootstrap.world import ROOT, World, made
from tests.devserver.servers import STAND_IN


class _Held:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def close(self) -> None:
        os.close(self._descriptor)


def hold(path: Path) -> closing[_Held]:
    """Do what any user of the machine can do with what everybody may open."""
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return closing(_Held(descriptor))


def test_a_lock_on_what_everybody_can_read_stops_nothing(world: World) -> None:
    """config.toml and its directory are open to every user: whoever holds their locks for ever holds up neither command."""
    world.config_file.with_name("identities.toml").write_text("[persons.alice]\n")
    with hold(world.config_file), hold(world.directory):
        world.ok("bootstrap")
        assert "1 of 1 steps done" in world.ok("apply")
    for name in ("apply.lock", "bootstrap.lock"):
        assert stat.S_IMODE((world.directory / name).stat().st_mode) == 0o600


def test_the_directory_is_made_when_nothing_runs(world: World) -> None:
    """runtime_dir goes with the machine's start: who works by hand makes it, for the user that Kiwi ID runs as."""
    runtime = world.directory / "run" / "kiwi"
    text = world.config_file.read_text().replace(f'runtime_dir = "{world.directory}"', f'runtime_dir = "{runtime}"')
    world.config_file.write_text(text)
    if os.geteuid() == 0:
        os.chown(world.directory / "jwt-private.pem", 65534, 65534)
    world.ok("bootstrap")
    owner = (world.directory / "jwt-private.pem").stat().st_uid
    for path, mode in ((runtime, 0o750), (runtime / "bootstrap.lock", 0o600)):
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (owner, mode)


def test_an_apply_waits_for_another_and_says_so() -> None:
    """A reload begins an apply in the background: one by hand just after it waits for its end, instead of giving up."""
    with made(STAND_IN) as world:
        world.ok("bootstrap")
        world.config_file.with_name("identities.toml").write_text("[persons.alice]\n")
        descriptor = turns.opened(world.config, "apply")
        try:
            assert turns.taken(descriptor)
            environment = os.environ | {"KIWI_CONFIG": str(world.config_file)}
            command = [sys.executable, "-m", "kiwi_id", "apply"]
            with subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as process:
                assert process.stderr is not None
                assert "Another apply is at work" in process.stderr.readline()
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                out, _ = process.communicate(timeout=60)
            assert (process.returncode, "1 of 1 steps done" in out) == (0, True)
        finally:
            os.close(descriptor)


def test_without_patience_it_is_refused() -> None:
    """At a start or reload the provisioner tries again by itself: exit code 69 says that this may help."""
    with made(STAND_IN) as world, service.exclusive(world.config):
        with pytest.raises(service.AnotherApply) as refused, service.exclusive(world.config):
            pass
        assert refused.value.exit_code == Exit.UNAVAILABLE
