"""``kiwi-id restore``: what it refuses, what it keeps, and that neither an archive nor a mistake can do harm."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, cast

import pytest
import trio

from kiwi_id import config, lock
from kiwi_id.backup.scratch import RESTORE, scratch, sweep
from kiwi_id.errors import Exit
from kiwi_id.instance import keys
from tests.backup.conftest import Kept
from tests.backup.running import kiwi_id
from tests.kanidm.instance import ROOT


def everything(directory: Path) -> dict[str, bytes]:
    """Return all files below a directory, but for the lock."""
    found = {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.endswith(".kiwi-lock")}


def test_what_is_replaced_is_kept_beside(kept: Kept) -> None:
    """Database, settings and keys are those of the backup again; those from before the restore lie beside them, whole."""
    kept.change()
    text = kept.places.config.read_text()
    kept.places.config.write_text(text + "# edited\n")
    kept.places.config.chmod(0o640)
    later = kept.places.config.parent / "jwt-keys"
    later.mkdir(mode=0o700)
    (later / "stray.pem").write_text("a key that the backup does not know")
    private = kept.places.jwt_private_key.read_bytes()
    keys.generate_pair(kept.places.jwt_private_key, kept.places.jwt_public_key, kind="eddsa")
    done = kiwi_id("restore", kept.backup, "--json")
    assert done.returncode == Exit.OK, done.stderr
    assert kept.content() == "before"
    assert kept.places.config.read_text() == text
    assert kept.places.jwt_private_key.read_bytes() == private
    assert kept.places.jwt_private_key.stat().st_mode & 0o777 == 0o600
    assert not later.exists()
    aside = {Path(name).name.partition(".before-restore-")[0]: Path(name) for name in json.loads(done.stdout)["aside"]}
    assert kept.content(aside["kanidm.db"]) == "after"
    assert aside["config.toml"].read_text() == text + "# edited\n"
    assert (aside["jwt-keys"] / "stray.pem").exists()
    assert aside["jwt-private.pem"].stat().st_mode & 0o777 == 0o600


def test_a_second_restore_keeps_what_the_first_kept(kept: Kept) -> None:
    """Two restores in one second lose nothing: the database from before the first is there, and in no later backup."""
    kept.change()
    for _ in range(2):
        assert kiwi_id("restore", kept.backup).returncode == Exit.OK
    contents = [kept.content(file) for file in kept.places.database.parent.glob("kanidm.db.before-restore-*Z*")]
    assert sorted(contents) == ["after", "before"]
    done = kiwi_id("backup", kept.places.root / "new.tar.gz", "--config", kept.places.config, "--json")
    assert not [name for name in json.loads(done.stdout)["files"] if "before-restore" in name]


def test_a_running_instance_is_left_alone(kept: Kept) -> None:
    """While a Kiwi ID holds the database's lock, a restore says so, exits 78 and changes nothing."""

    async def refused() -> subprocess.CompletedProcess[str]:
        descriptor = await lock.acquire(kept.places.database)
        try:
            return await trio.to_thread.run_sync(lambda: kiwi_id("restore", kept.backup))
        finally:
            os.close(descriptor)

    kept.change()
    before = everything(kept.places.root)
    done = trio.run(refused)
    assert done.returncode == Exit.CONFIG
    assert "in use by another Kiwi ID" in done.stderr
    assert everything(kept.places.root) == before


def test_a_kanidmd_by_itself_is_noticed(kept: Kept) -> None:
    """A process that merely has the database open, idle and without our lock, is noticed as well."""
    program = (
        "import sqlite3, sys; database = sqlite3.connect(sys.argv[1]); "
        "database.execute('SELECT * FROM items').fetchone(); print('open', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(kept.places.database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        done = kiwi_id("restore", kept.backup)
        process.communicate("\n")
    assert done.returncode == Exit.FAILURE
    assert "in use: stop the kanidmd" in done.stderr


@pytest.mark.parametrize("version", ["1.4.9", "1.6.0", "2.5.0"])
def test_another_kanidm_is_refused(kept: Kept, version: str) -> None:
    """A kanidmd of another minor version is named with the one that is needed, and nothing is changed."""
    other = kept.places.root.parent / "other"
    other.write_text(f"#!/bin/sh\necho kanidmd {version}\n")
    other.chmod(0o755)
    kept.change()
    before = everything(kept.places.root)
    done = kiwi_id("restore", kept.backup, "--upstream-bin", other)
    assert done.returncode == Exit.CONFIG
    assert f"found Kanidm {version}; allowed: Kanidm 1.5.0" in done.stderr
    assert everything(kept.places.root) == before


def test_a_machine_without_kanidm_is_told_which(kept: Kept) -> None:
    """Where there is no kanidmd, the version to install is named."""
    kept.kanidmd.unlink()
    done = kiwi_id("restore", kept.backup, "--upstream-bin", kept.kanidmd)
    assert done.returncode == Exit.CONFIG
    assert "Install kanidmd 1.5.0" in done.stderr


def test_another_build_of_kanidmd_is_not_taken_silently(kept: Kept) -> None:
    """The pin comes back with the rest: another program of the same version is told about, and refused by the start."""
    kept.kanidmd.write_text(kept.kanidmd.read_text() + "# another\n")
    done = kiwi_id("restore", kept.backup)
    assert done.returncode == Exit.OK, done.stderr
    assert "kiwi-id pin" in done.stdout
    assert kiwi_id("check", "--config", kept.places.config).returncode == Exit.CONFIG


def test_a_damaged_database_can_be_replaced(kept: Kept) -> None:
    """The very reason for a restore, a database that SQLite cannot read, does not stop it, and is kept."""
    kept.places.database.write_bytes(b"not a database at all" * 100)
    done = kiwi_id("restore", kept.backup)
    assert done.returncode == Exit.OK, done.stderr
    assert kept.content() == "before"
    with pytest.raises(sqlite3.DatabaseError):
        kept.content(next(kept.places.database.parent.glob("kanidm.db.before-restore-*")))
    done = kiwi_id("backup", kept.places.root / "good.tar.gz", "--config", kept.places.config)
    assert done.returncode == Exit.OK, done.stderr


@pytest.mark.parametrize(("at", "wrong"), [(-4096 * 3, bytes(4096)), (4096 * 3 + 5, b"\0\1")])
def test_a_damaged_database_makes_no_backup(kept: Kept, at: int, wrong: bytes) -> None:
    """A database with a page that SQLite cannot read, or one that only its check finds, is no backup: the command fails."""
    with closing(sqlite3.connect(kept.places.database, isolation_level=None)) as database:
        database.execute("CREATE INDEX of_items ON items (value)")
        database.executemany("INSERT INTO items VALUES (?)", [(f"value {number}",) for number in range(2000)])
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(kept.places.database.read_bytes())
    data[at : at + len(wrong)] = wrong
    kept.places.database.write_bytes(data)
    directory = kept.places.root / "backups"
    directory.mkdir()
    done = kiwi_id("backup", directory, "--keep", "1", "--config", kept.places.config)
    assert done.returncode == Exit.FAILURE
    assert f"the database {kept.places.database}" in done.stderr
    assert list(directory.iterdir()) == []


def test_moving_sets_every_path(kept: Kept, tmp_path: Path) -> None:
    """In another tree no setting points into the old one, be it in the file, only a default before, or outside of the tree."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s3cret")
    (outside / "secret").chmod(0o600)
    text = kept.places.config.read_text().replace('# jwt_keys_dir = ""', f'jwt_keys_dir = "{outside}/keys"')
    kept.places.config.write_text(f'forward_auth_secret_file = "{outside}/secret"\n{text}\n[limits]\nmax_connections = 77\n')
    file = tmp_path / "moved.tar.gz"
    assert kiwi_id("backup", file, "--config", kept.places.config).returncode == Exit.OK
    target = tmp_path / "elsewhere"
    done = kiwi_id("restore", file, "--root", target)
    assert done.returncode == Exit.OK, done.stderr
    moved = config.load(target / "etc/kiwi/config.toml")
    assert moved.forward_auth_secret_file is not None
    assert moved.forward_auth_secret_file.is_relative_to(target)
    assert moved.forward_auth_secret_file.read_text() == "s3cret"
    assert moved.limits.max_connections == 77
    text = moved.path.read_text() + moved.upstream_config.read_text()
    assert f"{kept.places.root}/" not in text
    assert everything(outside).keys() == {f"{outside}/secret"}


def leave(directory: Path) -> Path:
    """Leave in ``directory`` what a killed restore leaves; return where."""
    left = directory / ".kiwi-restore-abc12"
    left.mkdir(mode=0o700)
    (left / "0").write_text("a key")
    return left


def test_what_a_killed_restore_left_is_cleared(kept: Kept, tmp_path: Path) -> None:
    """The next restore to the same place, or backup from there, removes it; what only has such a name stays."""
    root = tmp_path / "drill"
    root.mkdir()
    left = [leave(root), leave(tmp_path)]
    somebodys = tmp_path / ".kiwi-restore-notes"
    somebodys.mkdir(mode=0o700)
    (somebodys / "notes.txt").touch()
    assert kiwi_id("restore", kept.backup, "--root", root).returncode == Exit.OK
    assert not any(one.exists() for one in left)
    left = [leave(kept.places.database.parent), leave(tmp_path)]
    assert kiwi_id("backup", tmp_path / "another.tar.gz", "--config", kept.places.config).returncode == Exit.OK
    assert not any(one.exists() for one in left)
    assert (somebodys / "notes.txt").exists()


def test_a_restore_at_work_is_not_disturbed(tmp_path: Path) -> None:
    """Its directory is locked for as long as it is used, and gone afterwards."""
    with scratch(tmp_path, RESTORE) as work:
        sweep([tmp_path])  # while it is empty, as it is for a moment before its lock is taken
        (work / "0").write_text("a key")
        sweep([tmp_path])
        assert (work / "0").read_text() == "a key"
    assert list(tmp_path.iterdir()) == []


def mode(path: Path) -> int:
    """Return the permissions of ``path``."""
    return path.stat().st_mode & 0o777


def test_directories_are_as_closed_as_they_were(kept: Kept, tmp_path: Path) -> None:
    """A directory that a restore makes has the mode that it had; one that is there keeps its own."""
    secrets = kept.places.config.parent / "secrets"
    (secrets / "deep").mkdir(parents=True)
    for file, private in ((secrets / "a", 0o644), (secrets / "deep/b", 0o600)):
        file.write_text("s3cret")
        file.chmod(private)
    secrets.chmod(0o710)
    (secrets / "deep").chmod(0o700)
    kept.places.config.parent.chmod(0o750)
    file = tmp_path / "closed.tar.gz"
    assert kiwi_id("backup", file, "--config", kept.places.config).returncode == Exit.OK
    root = tmp_path / "new"
    (root / "etc").mkdir(parents=True)
    (root / "etc").chmod(0o711)
    done = kiwi_id("restore", file, "--root", root)
    assert done.returncode == Exit.OK, done.stderr
    new = root / "etc/kiwi"
    assert [mode(path) for path in (root / "etc", new, new / "secrets", new / "secrets/deep")] == [0o711, 0o750, 0o710, 0o700]
    assert mode(root / "var/lib/upstream") == mode(kept.places.database.parent)


def test_directories_of_an_older_backup(kept: Kept, tmp_path: Path) -> None:
    """It says nothing of directories: where only private files lay, nobody else comes in."""
    secrets = kept.places.config.parent / "secrets"
    secrets.mkdir()
    (secrets / "a").write_text("s3cret")
    (secrets / "a").chmod(0o600)
    file = tmp_path / "old.tar.gz"
    assert kiwi_id("backup", file, "--config", kept.places.config).returncode == Exit.OK
    target = io.BytesIO()
    with tarfile.open(file) as source, tarfile.open(fileobj=target, mode="w") as tar:
        for entry in source:
            data = cast("BinaryIO", source.extractfile(entry)).read()
            if entry.name == "manifest.json":
                table = json.loads(data)
                del table["directories"]
                data = json.dumps(table).encode()
                entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    file.write_bytes(gzip.compress(target.getvalue()))
    done = kiwi_id("restore", file, "--root", tmp_path / "new")
    assert done.returncode == Exit.OK, done.stderr
    assert mode(tmp_path / "new/etc/kiwi/secrets") == 0o700
    assert mode(tmp_path / "new/etc/kiwi") == 0o755


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare to mount a small disk")
@pytest.mark.parametrize("command", ["restore", "backup"])
def test_a_full_disk_is_named(kept: Kept, tmp_path: Path, command: str) -> None:
    """Without room for it nothing is written, and where the room is missing is said, with how much."""
    small = tmp_path / "small"
    small.mkdir()
    arguments = {
        "restore": ["restore", str(kept.backup), "--root", str(small / "new")],
        "backup": ["backup", str(small / "new.tar.gz"), "--config", str(kept.places.config)],
    }[command]
    mount = f'mount -t tmpfs -o size=4k none {small} && "$@"; code=$?; ls -A {small}; exit $code'
    run = ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-m", "kiwi_id", *arguments]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    if "permission denied" in done.stderr:
        pytest.skip("this container may not mount")
    assert done.returncode == Exit.FAILURE
    assert done.stdout == ""
    assert f"kiwi-id {command}: {small}: no space left: " in done.stderr
