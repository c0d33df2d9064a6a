"""``kiwi-id status``: what a running Kiwi ID is doing, for a person and for a program."""

from __future__ import annotations

import json
import os
import re
import signal

from tests.supervisor import conftest
from tests.supervisor.kiwi import Kiwi

kiwi, make = conftest.kiwi, conftest.make  # the fixtures


def test_status_tells_a_person(kiwi: Kiwi) -> None:
    """Versions, processes, state, restarts, address, connections, config and the last reload stand in it."""
    kiwi.start_ready()
    os.kill(kiwi.child_pid(), signal.SIGKILL)
    kiwi.wait_log("child ready", 2)
    kiwi.set(log_level="loud")
    kiwi.cli("reload", "--wait")
    kiwi.set(log_level="debug")
    with kiwi.connection() as connection:
        connection.request("GET", "/x")
        connection.getresponse().read()
        done = kiwi.cli("status")
    assert done.returncode == 0
    assert done.stderr == ""
    patterns = [
        rf"Kiwi ID     \d+\.\d+\.\d+\S*, process {kiwi.process.pid}",
        rf"kanidmd     1\.5\.0, process {kiwi.child_pid()}",
        r"            ready since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, restarted 1 times",
        rf"listening   127\.0\.0\.1:{kiwi.port}",
        r"clients     1 connected, 0 waiting for kanidmd",
        rf"config      {re.escape(str(kiwi.config))}",
        r"last reload failed: see the log",
    ]
    lines = done.stdout.splitlines()
    assert len(lines) == len(patterns)
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line


def test_status_tells_a_program(kiwi: Kiwi) -> None:
    """--json is one object with the same facts; while kanidmd boots it says so."""
    kiwi.behave({"never_ready": True})
    kiwi.start()
    kiwi.wait_log("listening")
    kiwi.wait_event("start")
    status = json.loads(kiwi.cli("status", "--json").stdout)
    assert status["pid"] == kiwi.process.pid
    assert status["upstream"]["state"] == "starting"
    assert status["upstream"]["pid"] == kiwi.events("start")[0]["pid"]
    assert status["draining"] is False
    assert status["last_reload"] is None


def test_status_without_a_running_kiwi_id(kiwi: Kiwi) -> None:
    """Never started, stopped, and killed (its socket file is still there): 69 and words each time."""
    done = kiwi.cli("status")
    assert (done.returncode, done.stdout) == (69, "")
    assert "no running Kiwi ID answers on" in done.stderr
    kiwi.start_ready()
    assert kiwi.stop() == 0
    assert kiwi.cli("status").returncode == 69
    kiwi.start()
    kiwi.wait_log("ready", 2, component="supervisor")
    kiwi.signal(signal.SIGKILL)
    kiwi.wait()
    done = kiwi.cli("status")
    assert done.returncode == 69
    assert "Connection refused" in done.stderr
