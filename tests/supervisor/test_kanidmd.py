"""The main paths end to end over servers that are not scripted: the stand-in, and the real kanidmd where there is one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from kiwi_id.instance import certs
from tests.supervisor.kiwi import Kiwi, alive

Make = Callable[..., Kiwi]


# What the scripted kanidmd has shown already, and takes long: over the real one only.
REAL = pytest.mark.parametrize("binary", [pytest.param("real", marks=pytest.mark.kanidm)], indirect=True)


@pytest.fixture
def over(make: Make, binary: Path) -> Kiwi:
    """A Kiwi ID over such a server; not started."""
    return make(binary, log_level="info", shutdown_timeout="25s", health_check_timeout="20s")


def test_crash_and_stop(over: Kiwi) -> None:
    """It serves, its output is relogged, a kill -9 is followed by a restart that serves again, and TERM ends all with 0."""
    over.start_ready()
    assert over.get("/status") == (200, "true")
    first = over.child_pid()
    os.kill(first, signal.SIGKILL)
    over.wait_log("child ready", 2)
    assert over.get("/status") == (200, "true")
    second = over.child_pid()
    assert over.logs(component="kanidmd")
    assert over.stop() == 0
    assert not alive(first)
    assert not alive(second)
    assert not over.logs(msg="killing the child: it did not end in time")
    assert not over.logs(msg="ended orphans")


@REAL
def test_a_hang_is_noticed(over: Kiwi) -> None:
    """Under SIGSTOP it is found silent after health_check_timeout, ended, and restarted; requests wait meanwhile."""
    over.start_ready()
    hung = over.child_pid()
    over.set(health_check_timeout="1s")
    over.ask("reload")
    over.set(health_check_timeout="20s")
    os.kill(hung, signal.SIGSTOP)
    over.wait_log("ending the child to restart it")
    over.ask("reload")  # the boot of the next life may take longer than a second on a busy machine
    over.wait_log("child ready", 2)
    assert not alive(hung)
    assert over.get("/status") == (200, "true")


@REAL
def test_hup_renews_the_certificate_and_a_lost_term_is_repeated(over: Kiwi) -> None:
    """After a HUP kanidmd presents the new certificate in the same process; a TERM in the five seconds after it still ends it.

    Kanidm 1.5.0 loses that TERM: the second one is what ends it, not a KILL.
    """
    over.start_ready()
    child = over.child_pid()
    certs.make_loopback(over.places.chain, over.places.key)
    over.signal(signal.SIGHUP)
    assert over.wait_log("reloaded")["child_reloaded"] is True
    assert over.get("/status") == (200, "true")
    assert over.child_pid() == child
    assert over.stop() == 0
    assert not over.logs(msg="killing the child: it did not end in time")
    assert not over.logs(msg="child unhealthy")
    assert not alive(child)


def test_an_early_hup_does_not_kill_it(over: Kiwi) -> None:
    """A HUP while it boots would kill it: it is kept back, and the first life becomes the one that serves."""
    over.start()
    over.wait_log("listening")
    for _ in range(5):
        over.signal(signal.SIGHUP)
        over.ask()
    over.wait_log("ready", component="supervisor")
    over.wait_log("reloaded")
    assert over.ask()["upstream"]["restarts"] == 0
    assert over.stop() == 0
