"""upstream_user: kanidmd runs as another user, who cannot read what is ours, and nothing else works worse for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from kiwi_id.instance import access
from kiwi_id.kanidm.admin import recover_account
from kiwi_id.privileges import Account, acting_as, find_account
from tests.supervisor.kiwi import Kiwi, alive, eventually
from tests.supervisor.separation import CAPABILITIES, USER, account, opened, separate, status

Make = Callable[..., Kiwi]
PYTHON = Path(sys.executable)


def _assert_unprivileged(pid: int) -> None:
    """It is that user, with its one group, no capability, and no way to one."""
    user, found = account(), status(pid)
    assert found["Uid"].split() == [str(user.uid)] * 4
    assert found["Gid"].split() == [str(user.gid)] * 4
    assert found["Groups"] == ""
    assert found["NoNewPrivs"] == "1"
    assert [int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0] * 4


def test_kanidmd_runs_as_another_user(make: Make, binary: Path) -> None:
    """It serves, is restarted after a kill, reloaded, restarted in order and stopped; root reaches its admin socket.

    What it makes is its own, lock file and database, and Kiwi ID's own process has given up what it can.
    """
    kiwi = separate(make(binary, health_check_timeout="20s", shutdown_timeout="25s"))
    kiwi.start_ready(before=opened(kiwi, PYTHON, binary))
    assert status(kiwi.ask()["pid"])["NoNewPrivs"] == "1"
    first = kiwi.child_pid()
    _assert_unprivileged(first)
    assert kiwi.get("/status") == (200, "true")
    os.kill(first, signal.SIGKILL)
    kiwi.wait_log("child ready", 2)
    assert kiwi.ask("restart_upstream")["ok"] is True
    _assert_unprivileged(kiwi.child_pid())
    assert kiwi.ask("reload")["child_reloaded"] is True
    socket = kiwi.places.runtime_dir / "upstream" / "kanidmd.sock"
    assert trio.run(recover_account, socket, "idm_admin")
    owners = {file.stat().st_uid for file in kiwi.places.database.parent.iterdir()}
    assert owners == {account().uid}
    last = kiwi.child_pid()
    assert kiwi.stop() == 0
    assert not alive(last)
    assert not kiwi.logs(msg="killing the child: it did not end in time")


def test_what_it_begins_with(kiwi: Kiwi) -> None:
    """The environment names its own user, and what it makes is for nobody else."""
    separate(kiwi).start_ready(before=opened(kiwi, PYTHON))
    [start] = kiwi.events("start")
    assert (start["env"]["USER"], start["env"]["LOGNAME"], start["env"]["HOME"]) == (USER, USER, account().home)
    assert status(start["pid"])["Umask"] == "0077"


def test_without_another_user_it_gets_less_as_well(kiwi: Kiwi) -> None:
    """As our own user, too, kanidmd can gain nothing new, and what it makes is for nobody else."""
    kiwi.start_ready()
    found = status(kiwi.child_pid())
    assert (found["NoNewPrivs"], found["Umask"]) == ("1", "0077")
    assert found["Uid"].split()[0] == str(os.getuid())


@pytest.mark.parametrize("ambient", [False, True], ids=["root", "unprivileged"])
def test_it_takes_three_capabilities_and_no_more(kiwi: Kiwi, ambient: bool) -> None:
    """Root without all others, and a user who is not root with these, both start, restart and end kanidmd.

    The database is closed to both: neither has the right to pass over modes. kanidmd gets none of the three. When Kiwi ID is
    killed, the kernel ends kanidmd, whose death signal is set after the change of user.
    """
    separate(kiwi)
    setpriv = ["setpriv", f"--bounding-set=-all,{CAPABILITIES}", f"--inh-caps=-all,{CAPABILITIES}"]
    if ambient:
        for path in [*kiwi.directory.rglob("*"), kiwi.directory]:
            if path.stat().st_uid == 0:
                os.chown(path, 65534, -1)
        setpriv += ["--reuid=65534", "--regid=65534", "--clear-groups", f"--ambient-caps=-all,{CAPABILITIES}"]
    kiwi.start_ready(before=[*opened(kiwi, PYTHON), *setpriv])
    own = status(kiwi.process.pid)
    assert int(own["CapEff"], 16) == 0b11100000
    look = ["setpriv", "--reuid=65534", "ls"] if ambient else ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "ls"]
    done = subprocess.run([*look, str(kiwi.places.database.parent)], capture_output=True, text=True, check=False)
    assert "Permission denied" in done.stderr
    _assert_unprivileged(kiwi.child_pid())
    os.kill(kiwi.child_pid(), signal.SIGKILL)
    kiwi.wait_log("child ready", 2)
    child = kiwi.child_pid()
    kiwi.signal(signal.SIGKILL)
    assert kiwi.wait() == -signal.SIGKILL
    eventually(lambda: not alive(child), "the end of an orphaned kanidmd")


def _unknown_user(kiwi: Kiwi) -> str:
    kiwi.set(upstream_user="no-such-user")
    return "useradd --system"


def _root(kiwi: Kiwi) -> str:
    kiwi.set(upstream_user="root")
    return '"root", which is root'


def _unknown_group(kiwi: Kiwi) -> str:
    kiwi.set(upstream_group="no-such-group")
    return "upstream_group"


def _readable_key(kiwi: Kiwi) -> str:
    kiwi.places.jwt_private_key.chmod(0o644)
    return f"a secret that upstream_user {USER} can read (user root, group root, everybody)"


def _closed_database(kiwi: Kiwi) -> str:
    os.chown(kiwi.places.database.parent, 0, 0)
    return f"chown -R {USER}:"


def _root_owned_database(kiwi: Kiwi) -> str:
    kiwi.places.database.touch()
    kiwi.places.database.chmod(0o600)
    return "a file of the database that cannot be used"


def _closed_tls_key(kiwi: Kiwi) -> str:
    kiwi.places.key.chmod(0o600)
    return f"chgrp {USER} "


def _socket_beside_ours(kiwi: Kiwi) -> str:
    server = kiwi.places.upstream_config
    server.write_text(server.read_text().replace("/upstream/kanidmd.sock", "/kanidmd.sock"))
    return 'run/kiwi/upstream/kanidmd.sock" in server.toml'


@pytest.mark.parametrize(
    "spoil",
    [
        *(_unknown_user, _root, _unknown_group, _readable_key, _closed_database, _root_owned_database, _closed_tls_key),
        _socket_beside_ours,
    ],
)
def test_what_would_not_work_or_not_separate_is_refused(kiwi: Kiwi, spoil: Callable[[Kiwi], str]) -> None:
    """Each mistake ends the start with 78 and what to do, before kanidmd is started; 'kiwi-id check' says the same."""
    separate(kiwi)
    said = spoil(kiwi)
    before = opened(kiwi, PYTHON)
    kiwi.start(before=before)
    assert kiwi.wait() == 78
    assert said in kiwi.text().replace('\\"', '"')
    assert not kiwi.events("start")
    command = [*before, sys.executable, "-m", "kiwi_id", "check", "--config", str(kiwi.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "10000"})
    assert done.returncode == 78
    assert said in done.stdout


def test_a_restart_with_a_program_that_its_user_cannot_run_changes_nothing(kiwi: Kiwi) -> None:
    """An upgrade that lost a mode bit is found out before the running kanidmd is stopped, not after."""
    separate(kiwi).start_ready(before=opened(kiwi, PYTHON))
    child = kiwi.child_pid()
    kiwi.places.upstream_bin.chmod(0o700)
    done = kiwi.cli("restart-upstream")
    assert done.returncode == 78
    assert f"a program that cannot be run by upstream_user {USER}" in done.stderr
    assert kiwi.child_pid() == child
    assert kiwi.get() == (200, "life 0")


def test_without_the_right_to_change_users_it_is_refused(kiwi: Kiwi) -> None:
    """78, and which capabilities are missing."""
    separate(kiwi).start(before=["setpriv", "--bounding-set=-setuid,-kill", "--inh-caps=-setuid,-kill"])
    assert kiwi.wait() == 78
    assert "this process lacks CAP_KILL, CAP_SETUID" in kiwi.text()


def test_check_tells_who_can_read_what(kiwi: Kiwi) -> None:
    """In words, for each secret: the signing key, kanidmd's TLS key, the database."""
    separate(kiwi)
    command = [*opened(kiwi, PYTHON), sys.executable, "-m", "kiwi_id", "check", "--config", str(kiwi.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "10000"})
    assert done.returncode == 0, done.stdout
    assert f"kanidmd runs as {USER}, apart from Kiwi ID" in done.stdout
    for told in (
        f"{kiwi.places.jwt_private_key} by user root;",
        f"{kiwi.places.key} by user root, group {USER};",
        f"{kiwi.places.database.parent} by user {USER}",
    ):
        assert told in done.stdout


# -- the parts -----------------------------------------------------------------------------------------------------------------


def test_acting_as_another_concerns_one_thread() -> None:
    """What a thread makes meanwhile is the other user's; another thread, and the same one afterwards, make their own."""
    if os.getuid() != 0:
        pytest.skip("needs root to act as another user")
    user = account()
    turn, done = threading.Event(), threading.Event()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o777)

        def make(name: str) -> tuple[int, int]:
            os.close(os.open(directory / name, os.O_CREAT | os.O_WRONLY))
            found = (directory / name).stat()
            return found.st_uid, found.st_gid

        made: list[tuple[int, int]] = []

        def beside() -> None:
            turn.wait()
            made.append(make("beside"))
            done.set()

        # Begun before: a thread takes over what the one that starts it may do then.
        thread = threading.Thread(target=beside)
        thread.start()
        with acting_as(user):
            turn.set()
            done.wait()
            assert make("as-user") == (user.uid, user.gid)
        thread.join()
        assert made == [(0, 0)]
        with acting_as(user, group_only=True):
            assert make("as-group") == (0, user.gid)
        assert make("after") == (0, 0)


@pytest.mark.parametrize(
    ("owner", "group", "mode", "wanted", "allowed"),
    [
        (1, 0, 0o400, access.READ, True),
        (1, 1, 0o044, access.READ, False),  # the owner's bits decide for the owner
        (0, 1, 0o640, access.READ, True),
        (0, 1, 0o640, access.WRITE, False),
        (0, 0, 0o640, access.READ, False),
        (0, 0, 0o644, access.READ, True),
    ],
)
def test_who_may_do_what_by_mode(owner: int, group: int, mode: int, wanted: int, allowed: bool) -> None:
    """The class of the user decides, owner before group before others, as path_resolution(7) has it."""
    if os.getuid() != 0:
        pytest.skip("needs root to give files away")
    user = Account("somebody", 1, 1, "/")
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "file"
        file.touch()
        os.chown(file, owner, group)
        file.chmod(mode)
        assert access.may(user, file, wanted) is False  # it cannot even be reached
        file.parent.chmod(0o711)
        assert access.may(user, file, wanted) is allowed


def test_no_name_means_no_other_user() -> None:
    """The default, for which nothing has to be there."""
    assert find_account("", "", Path("x")) is None
