"""Places that are read-only or full when Kiwi ID starts: what can be done without them goes on, and the log says what cannot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.supervisor.conftest import make  # noqa: F401 - a fixture
from tests.supervisor.kiwi import Kiwi, eventually

Make = Callable[..., Kiwi]
# A mount namespace of its own, so that no other process sees it; -r for those who are not root.
SPACE = ["unshare", "-r", "-m", "sh", "-c"]


def within(mounts: str) -> list[str]:
    """Return the command that runs another after these shell commands; skips where that is not allowed."""
    tried = subprocess.run([*SPACE, "mount -t tmpfs none /mnt"], check=False, capture_output=True)
    if tried.returncode != 0:
        pytest.skip("no mounts are allowed here, not even in a namespace of one's own")
    return [*SPACE, f'{mounts} && exec "$0" "$@"']


def read_only(directory: Path) -> str:
    """Return the shell commands that make a directory read-only."""
    return f"mount --bind {directory} {directory} && mount -o remount,ro,bind {directory}"


@pytest.mark.parametrize("kind", ["read-only", "full"])
def test_logs_and_control_socket_have_no_place(make: Make, kind: str) -> None:  # noqa: F811
    """Without a writable runtime_dir and log directory it serves, takes a HUP, and says clearly what is missing."""
    kiwi = make()
    runtime, logs = kiwi.places.runtime_dir, kiwi.places.log_file.parent
    kiwi.set(log_file=str(kiwi.places.log_file))
    if kind == "read-only":
        mounts, reason = f"{read_only(runtime)} && {read_only(logs)}", "Read-only file system"
    else:
        full = "mount -t tmpfs -o nr_inodes=1 none"
        mounts, reason = f"{full} {runtime} && {full} {logs}", "No space left on device"
    kiwi.start_ready(before=within(mounts))
    assert kiwi.get()[0] == 200
    (told,) = kiwi.logs(msg="no control socket: 'kiwi-id status' and the like will not work, SIGHUP does")
    assert f"{runtime}/control.sock" in told["error"]
    assert reason in told["error"]
    (told,) = kiwi.logs(msg="log lines cannot be written")
    assert (told["to"], told["reason"]) == (str(kiwi.places.log_file), reason)
    kiwi.signal(1)
    kiwi.wait_log("reloaded")
    assert kiwi.get()[0] == 200
    assert kiwi.stop() == 0
    assert not [record for record in kiwi.logs() if "traceback" in record]


def test_the_database_is_read_only(make: Make) -> None:  # noqa: F811
    """Without a writable place for the database it does not start, and says which file cannot be made and why."""
    kiwi = make()
    database = kiwi.places.database
    kiwi.start(before=within(read_only(database.parent)))
    assert kiwi.wait() in (69, 75, 78)
    assert f"{database}.kiwi-lock: found Read-only file system" in kiwi.text()
    assert "Traceback" not in kiwi.text()
    assert not kiwi.events("start")


def test_the_lock_is_held_on_a_full_disk(make: Make) -> None:  # noqa: F811
    """A lock file that has no room for our process id is locked all the same."""
    kiwi = make()
    directory = kiwi.places.database.parent
    # All room is used up once the lock file is there; the scripted kanidmd keeps its notes elsewhere.
    fill = f"mount -t tmpfs -o size=4096,nr_inodes=10 none {directory} && (cat /dev/zero > {directory}/filler 2>/dev/null || true)"
    kiwi.start_ready(before=within(fill))
    assert kiwi.get()[0] == 200
    assert kiwi.stop() == 0
    assert not [record for record in kiwi.logs() if "traceback" in record]


def inside(kiwi: Kiwi, path: Path) -> Path:
    """Return a path as a running Kiwi ID sees it, whose mounts are its own."""
    return Path(f"/proc/{kiwi.process.pid}/root{path}")


def fill(file: Path) -> None:
    """Use up the whole file system."""
    with suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def impatient(kiwi: Kiwi) -> Kiwi:
    """Let nobody wait at the gate for long."""
    kiwi.config.write_text(kiwi.config.read_text() + '\n[limits]\ngate_timeout = "1s"\n')
    return kiwi


TELLS = "kanidmd cannot run; serving what needs none, and trying again"


@pytest.fixture(params=["scripted", pytest.param("real", marks=pytest.mark.kanidm)])
def over(request: pytest.FixtureRequest, make: Make) -> Kiwi:  # noqa: F811
    """An instance over the scripted kanidmd, which needs room at its start, and in a second run over the real one."""
    if request.param == "real":
        return impatient(make(request.getfixturevalue("kanidmd")))
    kiwi = impatient(make())
    kiwi.behave({"room": 1 << 20})
    return kiwi


def check_best_service(kiwi: Kiwi) -> None:
    """Check what goes on without kanidmd: discovery, key set, probes, and 503 for the rest."""
    assert kiwi.get("/livez")[0] == 200
    assert kiwi.get("/readyz")[0] == 503
    assert kiwi.get("/status")[0] == 503
    assert "issuer" in json.loads(kiwi.get("/.well-known/openid-configuration")[1])
    assert json.loads(kiwi.get("/oauth2/keys")[1])["keys"]


def test_the_database_is_on_a_full_disk_when_kanidmd_restarts(over: Kiwi) -> None:
    """Kiwi ID serves on what needs no kanidmd, says once why, and kanidmd runs again when there is room."""
    directory = over.places.database.parent
    over.start_ready(before=within(f"mount -t tmpfs -o size=24m,mode=700 none {directory}"))
    filler = inside(over, directory / "filler")
    fill(filler)
    os.kill(over.child_pid(), signal.SIGKILL)
    told = over.wait_log(TELLS)
    assert told["why"] == f"the file system of {directory} is full"
    check_best_service(over)
    assert over.ask()["upstream"]["state"] == "backoff"
    filler.unlink()
    over.wait_log("there is room again; starting kanidmd")
    eventually(lambda: over.get("/readyz")[0] == 200, "kanidmd serves again")
    assert over.get("/status")[0] == 200
    assert len(over.logs(msg=TELLS)) == 1
    assert over.stop() == 0


@pytest.mark.kanidm
def test_the_place_of_kanidmds_socket_is_read_only(make: Make, kanidmd: Path) -> None:  # noqa: F811
    """As kiwi-id init lays an instance out, kanidmd's socket is in runtime_dir, and it does not start without."""
    kiwi = impatient(make(kanidmd))
    runtime = kiwi.places.runtime_dir
    kiwi.start(before=within(read_only(runtime)))
    assert kiwi.wait_log(TELLS)["why"] == f"the file system of {runtime} is read-only"
    check_best_service(kiwi)
    assert kiwi.stop() == 0
