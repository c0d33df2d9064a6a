"""``kiwi-id backup``: where it writes, what it keeps, and that a failure leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kiwi_id.errors import Exit
from kiwi_id.instance.layout import Places
from tests.backup.conftest import Kept
from tests.backup.running import kiwi_id
from tests.kanidm.instance import ROOT


def test_everything_that_cannot_be_made_again_is_in_it(kept: Kept) -> None:
    """Database, both settings files, pin, keys of every state, certificates, our token and state files; no log, no .bak."""
    etc = kept.places.config.parent
    (etc / "jwt-keys").mkdir(mode=0o700)
    for name in ("jwt-keys/next.pem", "kanidm-token", "identities.toml", "config.toml.bak"):
        (etc / name).write_text("x")
    done = kiwi_id("backup", kept.places.root / "all.tar.gz", "--config", kept.places.config, "--json")
    assert done.returncode == Exit.OK, done.stderr
    places = Places.under(kept.places.root)
    wanted = {places.database, places.upstream_config, places.config, places.jwt_private_key, places.jwt_public_key}
    wanted |= {places.chain, places.key, etc / "compatibility.toml"}
    wanted |= {etc / name for name in ("jwt-keys/next.pem", "kanidm-token", "identities.toml")}
    assert set(json.loads(done.stdout)["files"]) == {str(path) for path in wanted}


def test_state_files_elsewhere(kept: Kept) -> None:
    """What 'identities' names is in it as well, wherever it lies."""
    state = kept.places.root / "state"
    state.mkdir()
    for name in ("mail.toml", "notes.txt"):
        (state / name).write_text("")
    text = kept.places.config.read_text()
    kept.places.config.write_text(text.replace('# identities = ""', f'identities = "{state}"'))
    done = kiwi_id("backup", kept.places.root / "all.tar.gz", "--config", kept.places.config, "--json")
    assert done.returncode == Exit.OK, done.stderr
    assert [name for name in json.loads(done.stdout)["files"] if name.startswith(str(state))] == [str(state / "mail.toml")]


def test_only_the_newest_are_kept(kept: Kept, tmp_path: Path) -> None:
    """--keep removes the oldest by the time in the name, encrypted or not, and nothing that is another's or not ours."""
    directory = tmp_path / "backups"
    directory.mkdir()
    old = ["20200101T000000Z.tar.gz", "20210101T000000Z.tar.gz.enc", "20220101T000000Z.tar.gz"]
    for name in (*(f"kiwi-id-localhost-{end}" for end in old), "kiwi-id-other.example-20190101T000000Z.tar.gz", "notes.txt"):
        (directory / name).touch()
    done = kiwi_id("backup", directory, "--keep", "2", "--config", kept.places.config, "--json")
    assert done.returncode == Exit.OK, done.stderr
    new = Path(json.loads(done.stdout)["path"]).name
    left = {path.name for path in directory.iterdir()}
    assert left == {new, "kiwi-id-localhost-20220101T000000Z.tar.gz", "kiwi-id-other.example-20190101T000000Z.tar.gz", "notes.txt"}


def test_an_older_backup_is_never_written_over(kept: Kept) -> None:
    """A file that exists stays as it is, and the command says what to do."""
    before = kept.backup.read_bytes()
    done = kiwi_id("backup", kept.backup, "--config", kept.places.config)
    assert done.returncode == Exit.FAILURE
    assert "exists already" in done.stderr
    assert kept.backup.read_bytes() == before


@pytest.mark.parametrize("loss", ["database", "jwt_private_key", "chain"])
def test_a_failure_leaves_nothing(kept: Kept, tmp_path: Path, loss: str) -> None:
    """A file that is missing is named; there is no half a backup, and older ones stay although --keep was given."""
    directory = tmp_path / "backups"
    directory.mkdir()
    old = directory / "kiwi-id-localhost-20200101T000000Z.tar.gz"
    old.touch()
    lost: Path = getattr(kept.places, loss)
    lost.unlink()
    done = kiwi_id("backup", directory, "--keep", "1", "--config", kept.places.config)
    assert done.returncode == Exit.FAILURE
    assert str(lost) in done.stderr
    assert list(directory.iterdir()) == [old]


def test_what_a_killed_backup_left_is_cleared(kept: Kept, tmp_path: Path) -> None:
    """The next backup removes a killed one's directory, which held secrets; one that still runs is not disturbed."""
    left = tmp_path / "backups" / ".kiwi-backup-abc"
    left.mkdir(parents=True)
    (left / "database").write_text("half")
    assert kiwi_id("backup", left.parent, "--config", kept.places.config).returncode == Exit.OK
    assert not left.exists()
    program = (
        "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX); "
        "print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(left.parent / ".kiwi-id-backup.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        done = kiwi_id("backup", left.parent, "--config", kept.places.config)
        process.communicate("\n")
    assert done.returncode == Exit.FAILURE
    assert "another backup is being made" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to have files of another user")
def test_the_owner_of_the_database_comes_back(kept: Kept) -> None:
    """Restored by root, the database and its new directory belong to the user that they had: kanidmd may be another."""
    nobody = pwd.getpwnam("nobody")
    os.chown(kept.places.database, nobody.pw_uid, nobody.pw_gid)
    file = kept.places.root.parent / "owned.tar.gz"
    assert kiwi_id("backup", file, "--config", kept.places.config).returncode == Exit.OK
    target = Places.under(kept.places.root.parent / "new")
    assert kiwi_id("restore", file, "--root", target.root).returncode == Exit.OK
    for path in (target.database, target.jwt_private_key):
        owner = path.stat().st_uid
        assert owner == (nobody.pw_uid if path == target.database else 0)


def test_the_units_do_what_the_program_takes(tmp_path: Path) -> None:
    """The shipped service's command is one that the program accepts, and its timer belongs to it."""
    unit = dict(
        line.split("=", 1) for line in (ROOT / "systemd/kiwi-id-backup.service").read_text().splitlines() if line[:1].isupper()
    )
    program, *arguments = unit["ExecStart"].split()
    assert program == "/opt/kiwi/bin/kiwi-id"
    done = kiwi_id(*arguments, "--config", tmp_path / "none.toml")
    assert done.returncode == Exit.NOINPUT, done.stderr
    timer = (ROOT / "systemd/kiwi-id-backup.timer").read_text()
    assert "OnCalendar=" in timer
    assert "WantedBy=timers.target" in timer


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv to be the unit's root")
def test_with_the_rights_of_the_unit_and_a_kanidmd_of_another_user(kept: Kept) -> None:
    """With no more than the unit's capabilities it reads a database that is closed to it, and leaves kanidmd every file usable.

    Once while nobody has the database open, and once beside a process of kanidmd's user, in the middle of a write.
    """
    user = pwd.getpwnam("daemon")
    directory = kept.places.database.parent
    for parent in directory.parents:
        if not parent.stat().st_mode & 0o001:  # pytest's own, which it closes to others
            parent.chmod(0o711)
    for path in (directory, *directory.iterdir()):
        os.chown(path, user.pw_uid, user.pw_gid)
    directory.chmod(0o700)
    kept.places.config.write_text(f'upstream_user = "daemon"\n{kept.places.config.read_text()}')
    unit = dict(
        line.split("=", 1) for line in (ROOT / "systemd/kiwi-id-backup.service").read_text().splitlines() if line[:1].isupper()
    )
    rights = ",".join("+" + name.removeprefix("CAP_").lower() for name in unit["CapabilityBoundingSet"].split())
    limited = ["setpriv", f"--bounding-set=-all,{rights}", "--inh-caps=-all", sys.executable, "-m", "kiwi_id"]
    plain = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *limited[3:]]

    def back_up(name: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        arguments = [*command, "backup", str(kept.places.root / name), "--config", str(kept.places.config)]
        return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert back_up("refused.tar.gz", plain).returncode == Exit.FAILURE
    done = back_up("idle.tar.gz", limited)
    assert done.returncode == Exit.OK, done.stderr
    program = (
        "import os, sqlite3, sys; os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[2])); "
        "database = sqlite3.connect(sys.argv[1], isolation_level=None); database.execute('BEGIN IMMEDIATE'); "
        "database.execute(\"UPDATE items SET value = 'later'\"); print('open', flush=True); input(); "
        "database.execute('COMMIT'); database.close()"
    )
    command = [sys.executable, "-c", program, str(kept.places.database), str(user.pw_uid), str(user.pw_gid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        done = back_up("busy.tar.gz", limited)
        owners = {path.name: path.stat().st_uid for path in directory.iterdir()}
        process.communicate("\n")
    assert done.returncode == Exit.OK, done.stderr
    assert process.returncode == 0
    assert owners.keys() >= {"kanidm.db", "kanidm.db-wal", "kanidm.db-shm"}
    assert set(owners.values()) == {user.pw_uid}
    assert kept.content() == "later"
    for name in ("idle", "busy"):
        target = kept.places.root.parent / name
        assert kiwi_id("restore", kept.places.root / f"{name}.tar.gz", "--root", target).returncode == Exit.OK
        assert kept.content(Places.under(target).database) == "before"
        assert Places.under(target).database.parent.stat().st_uid == user.pw_uid


def on_terminal(*arguments: str | Path, typed: list[str]) -> tuple[int, str]:
    """Run ``kiwi-id`` on a terminal of its own, type a line at each prompt, and return its exit code and what was shown."""
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-m", "kiwi_id", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        shown, lines = b"", list(typed)
        with contextlib.suppress(OSError):  # EIO: the other side has ended
            while data := os.read(terminal, 4096):
                shown += data
                if lines and shown.endswith((b"Passphrase of the backup: ", b"Once more: ")):
                    os.write(terminal, lines.pop(0).encode() + b"\n")
    os.close(terminal)
    return process.returncode, shown.decode()


def test_a_passphrase_typed_on_a_terminal(kept: Kept) -> None:
    """It is asked for twice, never shown, and opens the backup; two that differ make none."""
    file = kept.places.root / "typed.tar.gz.enc"
    backup = ("backup", file, "--encrypt", "--config", kept.places.config)
    code, shown = on_terminal(*backup, typed=["walnut", "hazelnut"])
    assert code == Exit.USAGE
    assert not file.exists()
    code, shown = on_terminal(*backup, typed=["walnut", "walnut"])
    assert code == Exit.OK, shown
    assert "walnut" not in shown
    kept.change()
    code, shown = on_terminal("restore", file, typed=["hazelnut"])
    assert code == Exit.FAILURE
    assert "passphrase is wrong" in shown
    assert kept.content() == "after"
    code, shown = on_terminal("restore", file, typed=["walnut"])
    assert code == Exit.OK, shown
    assert kept.content() == "before"


def test_files_in_no_tree_of_ours_stay_where_they_were(kept: Kept) -> None:
    """An instance whose config.toml lies elsewhere is backed up and restored in place; another root is refused in words."""
    elsewhere = kept.places.root / "config.toml"
    kept.places.config.rename(elsewhere)
    file = kept.places.root / "loose.tar.gz"
    assert kiwi_id("backup", file, "--config", elsewhere).returncode == Exit.OK
    done = kiwi_id("restore", file, "--root", kept.places.root.parent / "other")
    assert done.returncode == Exit.FAILURE
    assert "where they came from only" in done.stderr
    kept.change()
    elsewhere.unlink()
    assert kiwi_id("restore", file).returncode == Exit.OK
    assert kept.content() == "before"
    assert elsewhere.exists()
