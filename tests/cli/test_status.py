"""``kiwi-id status``: how a running instance is, for a person and for a program, and what its files tell when it does not run."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kiwi_id.errors import Exit
from tests.supervisor import conftest
from tests.supervisor.kiwi import PATIENCE, Kiwi, eventually
from tests.supervisor.separation import opened

kiwi, make, binary = conftest.kiwi, conftest.make, conftest.binary  # the fixtures
ROOT = Path(__file__).parent.parent.parent
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def document(kiwi: Kiwi) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    found: dict[str, Any] = json.loads(kiwi.cli("status", "--json").stdout)
    return found


def codes(kiwi: Kiwi, member: str = "warnings") -> set[str]:
    """Return what there is to be done, by its codes, but for what is so of any Kanidm that is some months old."""
    return {notice["code"] for notice in document(kiwi)[member]} - {"kanidm_unsupported", "kanidm_advisories"}


def test_one_screen_for_a_person(kiwi: Kiwi) -> None:
    """A crash, a planned restart and a refused reload: told first with what to do, then everything else; 80 columns, no colour."""
    kiwi.start_ready()
    os.kill(kiwi.child_pid(), signal.SIGKILL)
    kiwi.wait_log("child ready", 2)
    assert kiwi.cli("restart-upstream").returncode == 0
    kiwi.set(log_level="loud")
    kiwi.cli("reload", "--wait")
    kiwi.set(log_level="debug")
    with kiwi.connection() as connection:
        connection.request("GET", "/x")
        connection.getresponse().read()
        done = kiwi.cli("status")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"Kiwi ID \d+\.\d+\.\d+\S* for localhost: serving, 4 warnings", lines[0])
    assert lines[1] == " ! kanidmd ended once within an hour, last: signal SIGKILL, not by us"
    assert lines[2].startswith("   → See kanidmd's last lines")
    now = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    patterns = [
        r" ! the last reload was refused, .*",
        r" ! Kanidm 1\.5\.0 is not supported .*",
        rf"kanidmd       1\.5\.0, process {kiwi.child_pid()}, up \d.*, ready",
        r"restarts      1 unplanned, 1 planned of the last 2",
        rf" {{14}}{now}  planned: asked to",
        rf" {{14}}{now}  signal SIGKILL, not by us",
        rf"Kiwi ID       process {kiwi.process.pid} as \S+, up \d.*",
        rf"listening     127\.0\.0\.1:{kiwi.port} \(plain HTTP\)",
        r"clients       1 connected, 0 waiting for kanidmd",
        r"refused       nothing",
        r"failures      0 wrong logins, 0 refused token requests",
        rf"last reload   {now}, failed: see the log",
        r"keys          current \S{12}…  EdDSA, 0 days, no rotation set",
        r"certificates  kanidmd until \d{4}-\d\d-\d\d, 7\d\d days, renewed by Kiwi ID",
        r"account       none; to make it: kiwi-id bootstrap",
        r"state file    none .*",
        r"backup        none",
        r"disk          \S+ \w+ of \S+ \w+ free, database .*",
        r"Kanidm        1\.5\.0, unsupported since 2025-06-09",
        r"config        .*",
        r"When there is time:",
    ]
    at = -1
    for pattern in patterns:
        at = next((number for number in range(at + 1, len(lines)) if re.fullmatch(pattern, lines[number])), -1)
        assert at >= 0, (pattern, done.stdout)
    assert not COLOUR.search(done.stdout)
    assert all(len(line) <= 80 or "/" in line for line in lines)


def on_terminal(kiwi: Kiwi, **environ: str) -> str:
    """Return what ``kiwi-id status`` shows on a terminal."""
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    argv = [sys.executable, "-m", "kiwi_id", "status", "--config", str(kiwi.config)]
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        subprocess.run(argv, stdout=theirs, stderr=theirs, env=clean | environ, timeout=PATIENCE, check=False)
        os.close(theirs)
        return terminal.read(1 << 16).decode()


def test_colour_on_a_terminal_only(kiwi: Kiwi) -> None:
    """A terminal gets colour and a pipe none (the test before); nor does a terminal when NO_COLOR is set to anything."""
    assert COLOUR.search(on_terminal(kiwi))
    assert COLOUR.search(on_terminal(kiwi, NO_COLOR=""))
    assert not COLOUR.search(on_terminal(kiwi, NO_COLOR="1"))


def test_a_document_for_a_program(make: Callable[..., Kiwi], binary: Path) -> None:
    """--json has what docs/status.md says, over the stand-in and the real kanidmd, with the account and state file applied."""
    kiwi = make(binary, bootstrap="=true", apply_on_start="=true")
    kiwi.config.with_name("identities.toml").write_text("[persons.alice]\n")
    kiwi.start_ready()
    kiwi.wait_log("the state file is in force")
    assert kiwi.cli("backup", str(kiwi.directory / "backup.tar.gz")).returncode == 0
    eventually(lambda: not kiwi.ask()["provisioning"]["busy"], "the end of the apply")
    found = document(kiwi)
    assert (found["format"], found["running"], found["serving"]) == (1, True, True)
    assert (found["pid"], found["uid"], found["config"]) == (kiwi.process.pid, os.getuid(), str(kiwi.config))
    assert (found["upstream"]["state"], found["upstream"]["pid"]) == ("ready", kiwi.child_pid())
    assert found["provisioning"]["account"] == {"state": "made", "error": "", "missing_groups": []}
    assert (found["provisioning"]["applied"]["ok"], found["provisioning"]["applied"]["steps"]) == (True, 1)
    (key,) = found["keys"]["set"]
    assert (key["state"], key["algorithm"], len(key["kid"])) == ("current", "EdDSA", 43)
    assert found["certificates"]["listener"] is None
    assert found["certificates"]["kanidmd"]["renewed_by_kiwi_id"] is True
    last = found["backup"]["last"]
    assert last["path"] == str(kiwi.directory / "backup.tar.gz")
    assert last["size"] == (kiwi.directory / "backup.tar.gz").stat().st_size
    assert (last["verified"], last["encrypted"], last["there"], found["backup"]["late"]) == (True, False, True, False)
    assert found["disk"]["database"] > 0
    assert found["account"]["token"] is True
    applied = found["identities"].pop("applied")
    assert applied == found["provisioning"]["applied"] | {"by_hand": False}
    assert found["identities"] == {
        "file": str(kiwi.config.with_name("identities.toml")),
        "exists": True,
        "apply_on_start": True,
        "mistakes": [],
    }
    assert found["kanidm"]["version"] == found["upstream"]["version"]
    assert codes(kiwi) == set()  # nothing but the age of that Kanidm
    assert kiwi.config.with_name("kanidm-token").read_text().strip() not in json.dumps(found)


def test_exit_codes(kiwi: Kiwi) -> None:
    """0 when it serves, 1 while it does not, 69 without a Kiwi ID; 2 only with --check, for what there is to be done."""
    kiwi.behave({"never_ready": True}, {})
    kiwi.start()
    kiwi.wait_log("listening")
    starting = kiwi.wait_event("start")
    done = kiwi.cli("status", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["serving"]) == (1, False, False)
    assert (found["upstream"]["state"], found["upstream"]["pid"]) == ("starting", starting["pid"])
    assert "not_serving" in {notice["code"] for notice in found["warnings"]}
    assert "NOT SERVING" in kiwi.cli("status").stdout
    os.kill(starting["pid"], signal.SIGKILL)
    kiwi.wait_log("ready", component="supervisor")
    assert kiwi.cli("status").returncode == 0
    assert kiwi.cli("status", "--check").returncode == 2
    assert kiwi.stop() == 0
    assert kiwi.cli("status", "--check").returncode == 69


def test_without_a_running_kiwi_id(kiwi: Kiwi) -> None:
    """Never started, stopped, and killed: 69, words on standard error, and on the screen what the files tell."""
    for why in ("never started", "stopped", "killed"):
        if why == "stopped":
            kiwi.start_ready()
            assert kiwi.stop() == 0
        elif why == "killed":
            kiwi.start()
            kiwi.wait_log("ready", 2, component="supervisor")
            kiwi.signal(signal.SIGKILL)
            kiwi.wait()
        done = kiwi.cli("status")
        assert done.returncode == 69
        assert "no running Kiwi ID answers on" in done.stderr
        lines = done.stdout.splitlines()
        assert re.match("Kiwi ID for localhost: not running, ", lines[0])
        assert lines[1] == " ! no Kiwi ID runs here: nobody can log in"
        assert any(re.match("keys +current", line) for line in lines)
        assert any(line.startswith("Kanidm        1.5.0, ") for line in lines)
        assert not any(line.startswith("kanidmd ") for line in lines)
    assert "Connection refused" in done.stderr


def test_one_that_does_not_answer_is_not_said_to_be_gone(kiwi: Kiwi) -> None:
    """Without its control socket it is known by the lock on the database; another user is told who may ask."""
    kiwi.start_ready()
    socket = kiwi.places.runtime_dir / "control.sock"
    aside = socket.rename(socket.with_name("aside"))
    done = kiwi.cli("status")
    assert done.returncode == 69
    assert f"(process {kiwi.process.pid} has the database)" in re.sub(r"\s+", " ", done.stdout)
    assert ": no answer, " in done.stdout.splitlines()[0]
    aside.rename(socket)
    if os.getuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("the rest needs root and setpriv: another user who asks")
    kiwi.directory.chmod(0o755)
    for directory in (kiwi.places.runtime_dir, kiwi.config.parent):
        directory.chmod(0o755)
    command = [*opened(kiwi, Path(sys.executable), ROOT), "setpriv", "--reuid=daemon", "--clear-groups", sys.executable]
    argv = [*command, "-m", "kiwi_id", "status", "--config", str(kiwi.config)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE, check=False)
    assert done.returncode == 69, done.stderr
    assert " ! this user may not ask Kiwi ID how it is" in done.stdout.splitlines()
    for false in ("is refused", "Restore it", "owner or mode", "in use"):
        assert false not in done.stdout
    argv[argv.index("status")] = "check"
    done = subprocess.run([*argv, "--json"], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE, check=False)
    assert done.returncode == Exit.CONFIG, done.stderr
    (wrong,) = [finding for finding in json.loads(done.stdout)["findings"] if finding["status"] != "ok"]
    assert wrong["area"] == "rights"
    assert "cannot be looked at as this user (daemon): run this as root, or as the user that Kiwi ID runs as" in wrong["message"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE, check=False)
    assert done.stdout.endswith("\nNothing can be said of a start.\n")
    kiwi.config.parent.chmod(0o700)
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE, check=False)
    assert f"{kiwi.config} cannot be looked at as this user (daemon)" in re.sub(r"\s+", " ", done.stdout)


def test_a_broken_config_leaves_what_runs_to_be_told(kiwi: Kiwi) -> None:
    """What is in force is told, and what is wrong with the file that the next start would read."""
    kiwi.start_ready()
    kiwi.set(log_level="loud")
    found = document(kiwi)
    assert (found["serving"], found["upstream"]["state"], found.get("keys")) == (True, "ready", None)
    (wrong,) = [notice for notice in found["warnings"] if notice["code"] == "check_config"]
    assert "log_level" in wrong["text"]
    assert "the next start or reload is refused" in wrong["text"]
    assert kiwi.cli("status").returncode == 0


def test_mistakes_in_the_state_file_are_told(kiwi: Kiwi) -> None:
    """Running or not, each with its place."""
    kiwi.set(apply_on_start="=true")
    kiwi.config.with_name("identities.toml").write_text("[persons.Alice]\n[groups.B]\n")
    kiwi.start_ready()
    kiwi.wait_log("the state file was not applied")
    for running in (True, False):
        found = document(kiwi)
        assert found["running"] is running
        assert [mistake["key"] for mistake in found["identities"]["mistakes"]] == ["persons.Alice", "groups.B"]
        told = [notice["text"] for notice in found["warnings"] if notice["code"] == "check_state_file"]
        assert len(told) == 2
        assert "state file    2 mistakes: not applied" in kiwi.cli("status").stdout
        if running:
            assert kiwi.stop() == 0


def test_chosen_secrets_that_are_not_in_force(kiwi: Kiwi) -> None:
    """A secret file that is missing is told as such, whether the state file is applied by itself or not."""
    client = f'landing = "https://mail.example.com/"\nsecret_file = "{kiwi.directory}/none"\n'
    kiwi.config.with_name("identities.toml").write_text(f"[clients.mail]\n{client}")
    kiwi.start_ready()
    told = eventually(lambda: [one for one in document(kiwi)["warnings"] if one["code"] == "client_secret"], "the secret is told")
    assert f"{kiwi.directory}/none" in told[0]["text"]


def test_why_a_hung_kanidmd_was_restarted(kiwi: Kiwi) -> None:
    """The reason is why we ended it, not how it then ended."""
    kiwi.set(health_check_timeout="1s")
    kiwi.start_ready()
    os.kill(kiwi.child_pid(), signal.SIGSTOP)
    kiwi.wait_log("child ready", 2)
    (ended,) = kiwi.ask()["upstream"]["history"]
    assert re.fullmatch(r"no successful probe for \d+ s", ended["reason"])
    assert ended["planned"] is False


NOTE = {"made": "2026-01-01T00:00:00Z", "path": "/gone.tar.gz", "size": 5, "encrypted": True}


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"[" * 100_000,
        b"[]",
        json.dumps(NOTE | {"made": "rubbish"}).encode(),
        json.dumps(NOTE | {"made": "2026-01-01"}).encode(),
        json.dumps(NOTE | {"size": "big"}).encode(),
        json.dumps(NOTE | {"path": 7}).encode(),
        json.dumps(NOTE | {"made": "2999-01-01T00:00:00Z"}).encode(),
    ],
    ids=lambda note: note[:40].decode(),
)
def test_a_note_of_a_backup_that_nobody_can_believe(kiwi: Kiwi, note: bytes) -> None:
    """It may be anything, or of a clock that was wrong: that is a warning, and the rest of the screen stands."""
    kiwi.places.database.touch()
    kiwi.places.database.with_name("kanidm.db.kiwi-backup").write_bytes(note)
    assert "backup_unknown" in codes(kiwi)
    assert not {"backup_late", "backup_none"} & set(codes(kiwi))
    done = kiwi.cli("status")
    assert done.returncode == Exit.UNAVAILABLE
    screen = " ".join(done.stdout.split())
    assert ("in the future" if b"2999" in note else "is not what 'kiwi-id backup' notes") in screen
    assert " free, database " in screen


@pytest.mark.parametrize("age_days", [1, 30])
def test_backups_that_are_missed(kiwi: Kiwi, age_days: int) -> None:
    """None yet is a hint on a young instance and a warning on an older one; so is one that is too old; "" expects none."""
    then = datetime.now(UTC).timestamp() - age_days * 86400
    for file in kiwi.config.parent.iterdir():
        os.utime(file, (then, then))
    late = age_days > 2
    assert ("backup_none" in codes(kiwi)) is late
    assert ("backup_none" in codes(kiwi, "hints")) is not late
    kiwi.places.database.touch()
    record = {
        "made": f"{datetime.fromtimestamp(then, UTC):%Y-%m-%dT%H:%M:%SZ}",
        "path": "/gone.tar.gz",
        "size": 5,
        "encrypted": True,
    }
    kiwi.places.database.with_name("kanidm.db.kiwi-backup").write_text(json.dumps(record))
    assert ("backup_late" in codes(kiwi)) is late
    assert "read back, encrypted" in kiwi.cli("status").stdout
    assert "/gone.tar.gz (not there any more)" in kiwi.cli("status").stdout
    kiwi.set(backup_interval="")
    assert "backup_late" not in codes(kiwi)
