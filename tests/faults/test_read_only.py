"""Places that are read-only or full when Kiwi ID starts: what can be done without them goes on, and the log says what cannot."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.supervisor.conftest import make  # noqa: F401 - a fixture
from tests.supervisor.kiwi import Kiwi

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
