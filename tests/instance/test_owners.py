"""Root in a directory of another user: whatever he puts there between two steps, no file of root's becomes his."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from kiwi_id import bootstrap, lock
from kiwi_id.config import Config
from kiwi_id.instance import files, owners

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
OTHER = 65534


class Machine:
    """A directory of another user's, and a file of root's that he would like to have."""

    def __init__(self, directory: Path) -> None:
        self.theirs = directory / "theirs"
        self.theirs.mkdir()
        os.chown(self.theirs, OTHER, OTHER)
        self.precious = directory / "precious"
        self.precious.write_text("root's")
        self.precious.chmod(0o600)
        self.directory = directory / "roots"
        self.directory.mkdir(0o700)

    def link(self, path: Path, target: Path) -> None:
        """Put a link of theirs at ``path``, whatever is there."""
        if path.is_dir() and not path.is_symlink():
            path.rename(path.with_name(path.name + ".moved"))
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        os.chown(path, OTHER, OTHER, follow_symlinks=False)

    def unharmed(self) -> bool:
        """Whether everything of root's is as it was."""
        looked = [(path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) for path in (self.precious, self.directory)]
        return looked == [(0, 0o600), (0, 0o700)] and self.precious.read_text() == "root's" and not any(self.directory.iterdir())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine of two users."""
    return Machine(tmp_path)


def swapping(monkeypatch: pytest.MonkeyPatch, name: str, swap: Callable[[], None]) -> None:
    """Have the other user act just after this system call."""
    whole = getattr(os, name)

    def call(*arguments: Any, **options: Any) -> Any:
        answer = whole(*arguments, **options)
        swap()
        return answer

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("call", ["rename", "replace", "fsync"])
def test_a_secret_is_given_to_its_owner_by_no_name(machine: Machine, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A link to a file of root's in the place of a note of bootstrap: after the rename, and before it."""
    note = machine.theirs / "kanidm-token.begun"
    key = machine.theirs / "jwt-private.pem"
    key.touch()
    os.chown(key, OTHER, OTHER)
    config = cast("Config", SimpleNamespace(jwt_private_key=key))
    with monkeypatch.context() as patch:
        swapping(patch, call, lambda: machine.link(note, machine.precious))
        bootstrap._write(note, "secret\n", config)
    assert machine.unharmed()
    bootstrap._write(note, "secret\n", config)
    assert (note.lstat().st_uid, stat.S_IMODE(note.lstat().st_mode), note.read_text()) == (OTHER, 0o600, "secret\n")
    assert machine.unharmed()


def test_what_decides_about_the_owner_is_not_asked_through_a_link(machine: Machine) -> None:
    """A link of theirs in the place of the signing key is theirs, whoever owns what it leads to."""
    machine.link(machine.theirs / "key", machine.precious)
    assert owners.of(machine.theirs / "key") == (OTHER, OTHER)


def test_a_file_keeps_its_owner_and_a_new_one_gets_the_directory_s(machine: Machine) -> None:
    """What root's commands write there (a key of a rotation, the pin), the other user can go on to use."""
    files.write_atomic(machine.theirs / "new", b"x", 0o600)
    assert (machine.theirs / "new").stat().st_uid == OTHER
    kept = machine.directory.with_name("kept")
    kept.touch()
    os.chown(kept, 1, 2)
    files.write_atomic(kept, b"x", 0o640)
    assert (kept.stat().st_uid, kept.stat().st_gid, stat.S_IMODE(kept.stat().st_mode)) == (1, 2, 0o640)
    machine.link(machine.theirs / "link", kept)
    files.write_atomic(machine.theirs / "link", b"y", 0o600)
    assert ((machine.theirs / "link").lstat().st_uid, kept.read_bytes()) == (OTHER, b"x")


def test_a_link_of_theirs_leads_to_nothing_of_root_s(machine: Machine) -> None:
    """Their own directories, by links of their own, and everything by links of root's."""
    machine.link(machine.theirs / "keys", machine.directory)
    with pytest.raises(PermissionError, match="link of another user"):
        files.write_atomic(machine.theirs / "keys" / "f", b"x", 0o600)
    assert machine.unharmed()
    (machine.theirs / "inner").mkdir()
    os.chown(machine.theirs / "inner", OTHER, OTHER)
    machine.link(machine.theirs / "keys", Path("inner"))
    files.write_atomic(machine.theirs / "keys" / "f", b"x", 0o600)
    assert (machine.theirs / "inner" / "f").exists()
    (machine.directory / "to").symlink_to(machine.theirs)
    files.write_atomic(machine.directory / "to" / "f", b"x", 0o600)
    assert (machine.theirs / "f").exists()
    machine.link(machine.theirs / "loop", machine.theirs / "loop")
    with pytest.raises(OSError, match="Too many levels"):
        files.write_atomic(machine.theirs / "loop" / "f", b"x", 0o600)


def test_a_new_directory_that_is_exchanged(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its making and its giving away: it is refused, and root's keeps owner and mode."""
    made = machine.theirs / "made"
    with monkeypatch.context() as patch:
        swapping(patch, "mkdir", lambda: machine.link(made, machine.directory))
        with pytest.raises(OSError, match="made"):
            owners.make_directory(made, 0o755, (OTHER, OTHER))
    assert machine.unharmed()
    made.unlink()
    owners.make_directory(made, 0o750, (OTHER, 1))
    assert (made.stat().st_uid, made.stat().st_gid, stat.S_IMODE(made.stat().st_mode)) == (OTHER, 1, 0o750)


def test_a_scratch_directory_that_is_exchanged(machine: Machine) -> None:
    """A restore stages its files beside the database: whoever owns that place can move them away, and put nothing in between."""
    with owners.scratch_directory(machine.theirs, ".kiwi-restore-") as scratch:
        (found,) = machine.theirs.iterdir()
        machine.link(found, machine.directory)
        (scratch / "0").write_text("staged")
        (scratch / "0").replace(machine.theirs / "kanidm.db")
    assert (machine.theirs / "kanidm.db").read_text() == "staged"
    assert machine.unharmed()


@pytest.mark.parametrize("take", ["lock", "open_lock"])
def test_a_lock_that_is_a_link(machine: Machine, take: str) -> None:
    """It is not followed: the lock beside the database would be written to."""
    if take == "lock":
        machine.link(machine.theirs / "kanidm.db.kiwi-lock", machine.precious)
        with pytest.raises(lock.Locked):
            trio.run(lock.acquire, machine.theirs / "kanidm.db")
    else:
        machine.link(machine.theirs / "apply.lock", machine.precious)
        with pytest.raises(OSError, match=r"apply\.lock"):
            owners.open_lock(machine.theirs / "apply.lock")
    assert machine.unharmed()


def test_a_lock_is_its_owner_s_alone(machine: Machine) -> None:
    """Made by root, it can be opened by root and the user of the directory, and by nobody else."""
    for _ in range(2):
        os.close(owners.open_lock(machine.theirs / "apply.lock"))
        status = (machine.theirs / "apply.lock").stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (OTHER, 0o600)
