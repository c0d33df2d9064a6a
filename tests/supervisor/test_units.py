"""The units in systemd/: that systemd takes them, that their times fit the defaults, and that their sandboxes are no obstacle."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from kiwi_id import inherited
from kiwi_id.cli import build_parser
from kiwi_id.config import KEYS
from kiwi_id.errors import Exit
from kiwi_id.instance import layout
from tests.supervisor import sandbox
from tests.supervisor.kiwi import Kiwi
from tests.supervisor.separation import account, opened, separate, status

DIRECTORY = sandbox.UNIT.parent
NOBODY = 65534


@pytest.fixture
def systemd() -> int:
    """The version of systemd's tools."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze")
    return int(subprocess.run([analyze, "--version"], capture_output=True, text=True, check=True).stdout.split()[1])


def test_systemd_takes_the_units(systemd: int, tmp_path: Path) -> None:
    """'systemd-analyze verify' has nothing to say; before 253 with the drop-in, and but for the type that it does not know."""
    units = ["kiwi-id.service", "kiwi-id.socket", "kiwi-id-backup.service", "kiwi-id-backup.timer"]
    files = [*units, "kiwi-id.service.d/upstream-user.conf", "kiwi-id.service.d/before-253.conf"]
    for file in files[: None if systemd < 253 else -1]:
        target = tmp_path / file
        target.parent.mkdir(exist_ok=True)
        # Verify also looks whether the program exists, which is not installed here.
        target.write_text((DIRECTORY / file).read_text().replace("/opt/kiwi/bin/kiwi-id", "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit) for unit in units)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if str(tmp_path) in line or "kiwi-id" in line]
    if systemd < 253:
        complaints = [line for line in complaints if not line.endswith("Failed to parse service type, ignoring: notify-reload")]
    assert complaints == []
    assert done.returncode == 0


def test_the_socket_unit_fits_the_program() -> None:
    """It listens where listen_addr is by default, and gives the socket a name that Kiwi ID takes."""
    unit = dict(line.split("=", 1) for line in (DIRECTORY / "kiwi-id.socket").read_text().splitlines() if line[:1].isupper())
    assert unit["ListenStream"] == KEYS["listen_addr"].default
    assert unit["FileDescriptorName"] in inherited.NAMES


def test_the_times_and_codes_fit_the_program() -> None:
    """systemd waits longer than Kiwi ID itself does, restarts what can get better, and hears the main process only."""
    unit = {name: values[0] for name, values in sandbox.settings().items()}
    assert int(unit["TimeoutStopSec"]) > KEYS["shutdown_timeout"].parse(KEYS["shutdown_timeout"].default)
    assert int(unit["TimeoutStartSec"]) > KEYS["health_check_timeout"].parse(KEYS["health_check_timeout"].default)
    assert unit["RestartPreventExitStatus"] == f"{Exit.USAGE} {Exit.NOINPUT} {Exit.CONFIG}"
    assert (unit["Type"], unit["NotifyAccess"], unit["Restart"]) == ("notify-reload", "main", "on-failure")
    assert int(unit["WatchdogSec"]) > 0


def test_the_backup_units_fit_the_program() -> None:
    """The timer starts the service; what that runs is a command line of ours, and where it writes it may write."""
    timer, service = (sandbox.settings(unit=DIRECTORY / f"kiwi-id-backup.{kind}") for kind in ("timer", "service"))
    assert "OnCalendar" in timer  # and without Unit=, a timer starts the service of its name
    assert "Unit" not in timer
    program, *words = shlex.split(service["ExecStart"][0])
    parser, _ = build_parser([words[0]])
    args = parser.parse_args(words)
    assert (program, args.command, args.keep) == ("/opt/kiwi/bin/kiwi-id", "backup", 14)
    writable = {Path(word.removeprefix("-")) for word in service["ReadWritePaths"][0].split()}
    assert args.target.parent in writable
    assert layout.Places.under(Path("/")).database.parent in writable  # SQLite's files, and the note of the latest backup
    every = KEYS["backup_interval"].parse(KEYS["backup_interval"].default)
    assert (timer["OnCalendar"], every) == (["*-*-* 02:30:00"], 86400)


@pytest.mark.parametrize(("unit", "drop_in"), [("kiwi-id", ""), ("kiwi-id", "upstream-user"), ("kiwi-id-backup", "")])
def test_systemd_finds_little_exposed(systemd: int, tmp_path: Path, unit: str, drop_in: str) -> None:
    """'systemd-analyze security' gives 2.0 at most, of 10, to each service, and with the drop-in for a second user."""
    if systemd < 250:
        pytest.skip("systemd-analyze cannot judge a file yet")
    file = tmp_path / f"{unit}.service"
    file.write_text(sandbox.text(drop_in, DIRECTORY / file.name))
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "Overall exposure level" in done.stdout, done.stderr
    assert done.returncode == 0, done.stdout[-200:]


def _sandbox(kiwi: Kiwi, drop_in: str) -> list[str]:
    """Return the command before Python that makes the rest of the unit's sandbox; skips where that is not possible."""
    if os.getuid() != 0 or not shutil.which("setpriv") or not shutil.which("unshare"):
        pytest.skip("needs root, unshare and setpriv to build the sandbox")
    unit = sandbox.settings(drop_in)
    kiwi.set(log_file=str(kiwi.places.log_file))
    writable = [kiwi.places.database.parent, kiwi.places.runtime_dir, kiwi.places.log_file.parent]
    writable += [kiwi.places.upstream_config.parent, kiwi.config.parent]
    mounts = [f"mount --bind {shlex.quote(str(path))} {shlex.quote(str(path))}" for path in writable]
    mounts += [f"mount -t proc -o subset={unit['ProcSubset'][0]} proc /proc", "mount -o remount,bind,ro /"]
    names = ",".join(f"+{name[4:].lower()}" for name in unit["CapabilityBoundingSet"][0].split())
    before = ["unshare", "--mount", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]
    before += ["setpriv", f"--bounding-set=-all,{names}", f"--inh-caps=-all{f',{names}' if drop_in else ''}"]
    if drop_in:
        separate(kiwi)
        for path in [kiwi.directory, *kiwi.directory.rglob("*")]:
            if path.stat().st_uid == 0:
                os.chown(path, NOBODY, -1)
        before += [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", f"--ambient-caps=-all,{names}"]
        before = [*opened(kiwi, Path(sys.executable), kiwi.binary), *before]
    # Python must not start Kiwi ID when the sandbox cannot be built here (an old kernel, no libseccomp).
    probe = [*before, sys.executable, str(Path(sandbox.__file__)), "--version"]
    environ = os.environ | {sandbox.VARIABLE: drop_in}
    done = subprocess.run(probe, capture_output=True, text=True, cwd=DIRECTORY.parent, env=environ, check=False)
    if done.returncode:
        pytest.skip(f"the sandbox cannot be built here: {done.stderr.strip().splitlines()[-1]}")
    return before


@pytest.mark.parametrize("drop_in", ["", "upstream-user"])
def test_the_sandbox_is_no_obstacle(systemd: int, make: Callable[..., Kiwi], binary: Path, drop_in: str) -> None:
    """With the unit's capabilities, on a read-only file system but for its directories, with its system calls only: all works.

    That is the start, a reload, a restart after a kill, a restart in order, and an orderly stop.
    """
    kiwi = make(binary)
    before = _sandbox(kiwi, drop_in)
    environ = {sandbox.VARIABLE: drop_in}
    kiwi.start(before=before, program=(str(Path(sandbox.__file__)),), cwd=DIRECTORY.parent, environ=environ)
    kiwi.wait_log("ready", component="supervisor")
    own, child = status(kiwi.ask()["pid"]), status(kiwi.child_pid())
    for process in (own, child):
        assert (process["NoNewPrivs"], process["Seccomp"]) == ("1", "2")
    mine = 1 << 5 | 1 << 6 | 1 << 7 if drop_in else 1 << 10  # CAP_KILL, CAP_SETGID, CAP_SETUID; CAP_NET_BIND_SERVICE
    assert int(own["CapEff"], 16) == mine
    assert int(child["CapEff"], 16) == (0 if drop_in else mine)
    assert (own["Uid"].split()[0] != child["Uid"].split()[0]) is bool(drop_in)
    assert kiwi.get("/status") == (200, "true")
    assert kiwi.ask("reload")["ok"] is True
    os.kill(kiwi.child_pid(), signal.SIGKILL)
    kiwi.wait_log("child ready", 2)
    assert kiwi.ask("restart_upstream")["ok"] is True
    assert kiwi.get("/status") == (200, "true")
    assert kiwi.places.log_file.read_text()
    assert kiwi.stop() == 0
    ours = [record for record in kiwi.logs(level="error") if record["component"] != "kanidmd"]
    assert ours == []  # kanidmd calls an empty database at its first start an error
    assert not [record for record in kiwi.logs() if "not permitted" in str(record) or "read-only" in str(record).lower()]


@pytest.mark.parametrize("two_users", [False, True])
def test_the_backup_units_sandbox_is_no_obstacle(systemd: int, make: Callable[..., Kiwi], two_users: bool) -> None:
    """Root with three capabilities backs a stopped instance up, on a read-only file system but for where the unit may write.

    Also when the database is another user's and closed to root without CAP_DAC_OVERRIDE; the status then knows of the backup.
    """
    if os.getuid() != 0 or not shutil.which("setpriv") or not shutil.which("unshare"):
        pytest.skip("needs root, unshare and setpriv to build the sandbox")
    kiwi = make()
    with closing(sqlite3.connect(kiwi.places.database, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE items (value TEXT)")
    if two_users:
        separate(kiwi)
        os.chown(kiwi.places.database, account().uid, account().gid)
        kiwi.places.database.chmod(0o600)
    unit = sandbox.settings(unit=sandbox.BACKUP)
    backups = kiwi.directory / "backups"
    backups.mkdir()
    mounts = [f"mount --bind {shlex.quote(str(path))} {shlex.quote(str(path))}" for path in (kiwi.places.database.parent, backups)]
    mounts += ["mount -o remount,bind,ro /"]
    names = ",".join(f"+{name[4:].lower()}" for name in unit["CapabilityBoundingSet"][0].split())
    command = ["unshare", "--mount", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]
    command += ["setpriv", f"--bounding-set=-all,{names}", "--inh-caps=-all"]
    command += [sys.executable, str(Path(sandbox.__file__)), "backup", str(backups), "--keep", "14", "--config", str(kiwi.config)]
    environ = os.environ | {sandbox.UNIT_VARIABLE: str(sandbox.BACKUP)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=DIRECTORY.parent, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = backups.iterdir()
    last = json.loads(kiwi.cli("status", "--json").stdout)["backup"]["last"]
    assert (last["path"], last["size"]) == (str(made), made.stat().st_size)
    owner = kiwi.places.database.with_name("kanidm.db.kiwi-backup").stat().st_uid
    assert owner == (account().uid if two_users else 0)
