"""Kiwi ID as the init of a PID namespace, as in a container: orphans, signals and exit codes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.supervisor.kiwi import Kiwi, catches, eventually

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.fixture(autouse=True, scope="module")
def _permitted() -> None:
    if not shutil.which("unshare"):
        pytest.skip("no unshare (util-linux) to make a PID namespace with")
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a PID namespace is not permitted here: {done.stderr.strip()}")


class Container:
    """A Kiwi ID that is process 1 of its namespace."""

    def __init__(self, kiwi: Kiwi) -> None:
        self.kiwi = kiwi

    def start(self) -> Container:
        """Start it and wait until Python has replaced unshare in the namespace's first process."""
        self.kiwi.start(before=UNSHARE)
        file = Path(f"/proc/{self.kiwi.process.pid}/task/{self.kiwi.process.pid}/children")
        self.pid = int(eventually(lambda: file.read_text().split(), "the first process of the namespace")[0])
        eventually(lambda: b"kiwi_id" in Path(f"/proc/{self.pid}/cmdline").read_bytes(), "Kiwi ID")
        return self

    def start_ready(self) -> Container:
        """Start it and wait until it is ready."""
        self.start()
        self.kiwi.wait_log("ready", component="supervisor")
        assert self.kiwi.ask()["pid"] == 1
        return self

    def signal(self, number: int) -> None:
        """Send it a signal from outside, as a container engine does."""
        os.kill(self.pid, number)


@pytest.fixture
def container(kiwi: Kiwi) -> Container:
    """A Kiwi ID that will be process 1."""
    return Container(kiwi)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGPWR, signal.SIGRTMIN + 3])
def test_stop_signals_end_the_container_with_0(container: Container, number: int) -> None:
    """The kernel discards what an init has no handler for: each of the four has one, stops the child and exits with 0."""
    container.start_ready().signal(number)
    assert container.kiwi.wait() == 0
    assert container.kiwi.child_signals() == ["SIGTERM"]


def test_other_exit_codes_pass_through(container: Container) -> None:
    """69 when kanidmd never answers, 78 for a bad setting, as everywhere."""
    container.kiwi.set(health_check_timeout="300ms")
    container.kiwi.behave({"never_ready": True})
    assert container.start().kiwi.wait() == 69
    container.kiwi.set(log_level="loud")
    container.kiwi.start(before=UNSHARE)
    assert container.kiwi.wait() == 78


def test_only_hup_reaches_the_child_and_only_by_a_reload(container: Container) -> None:
    """Signals that mean nothing to us are not handed on: the child sees the HUP of a reload, and the TERM of the stop."""
    kiwi = container.start_ready().kiwi
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGWINCH, signal.SIGQUIT, signal.SIGCONT):
        container.signal(number)
    container.signal(signal.SIGHUP)
    kiwi.wait_event("signal", name="SIGHUP")
    container.signal(signal.SIGTERM)
    assert kiwi.wait() == 0
    assert kiwi.child_signals() == ["SIGHUP", "SIGTERM"]


def test_a_stop_during_the_very_early_start_is_not_lost(container: Container) -> None:
    """From the moment of the first handlers on, before the heavy imports, a TERM to process 1 ends it with 0."""
    for pause in (0, 0.05, 0.15):
        container.start()
        eventually(lambda: catches(container.pid, signal.SIGTERM), "a handler for TERM")
        time.sleep(pause)
        container.signal(signal.SIGTERM)
        assert container.kiwi.wait() == 0


def _storm(kiwi: Kiwi, count: int) -> None:
    """Wait until ``count`` orphans have been reaped, no more, no less, while requests are served."""
    made = kiwi.wait_event("ready")["at"]
    while not kiwi.events("orphans"):
        assert kiwi.get()[0] == 200
    took = kiwi.events("orphans")[0]["at"] - made
    eventually(lambda: kiwi.ask()["orphans_reaped"] >= count, "the last orphan")
    assert kiwi.ask()["orphans_reaped"] == count
    print(f"{count} orphans in {took:.2f} s")


@pytest.mark.parametrize("init", [True, False], ids=["init", "subreaper"])
def test_a_storm_of_orphans_is_reaped_to_the_last(kiwi: Kiwi, init: bool) -> None:
    """Orphans as fast as they can be made, about a thousand a second, are each waited for: no zombie stays, none is missed.

    Meanwhile clients are answered, and the child's own end is still told from theirs.
    """
    kiwi.behave({"orphans": 3000}, {})
    pid = Container(kiwi).start_ready().pid if init else kiwi.start_ready().process.pid
    _storm(kiwi, 3000)
    assert not _zombies(pid)
    os.kill(_children(pid)[0], signal.SIGKILL)
    assert kiwi.wait_log("child backoff")["reason"] == "signal SIGKILL"
    kiwi.wait_log("child ready", 2)
    os.kill(pid, signal.SIGTERM)
    assert kiwi.wait() == 0


def _children(pid: int) -> list[int]:
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


def _zombies(pid: int) -> list[int]:
    return [child for child in _children(pid) if ") Z " in Path(f"/proc/{child}/stat").read_text()]


def test_nothing_is_left_of_a_container(container: Container) -> None:
    """A grandchild in its own session is ended by the stop itself, within shutdown_timeout, and is not left to the kernel."""
    container.kiwi.behave({"grandchild": "session"})
    container.start_ready()
    grandchild = eventually(lambda: _children(_children(container.pid)[0]), "the grandchild")[0]
    container.signal(signal.SIGTERM)
    assert container.kiwi.wait() == 0
    assert not Path(f"/proc/{grandchild}").exists()
    assert container.kiwi.logs(msg="ended orphans", processes=1)
