"""``kiwi-id reload``: that it reaches the running Kiwi ID, and tells a person whether it worked and why not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.supervisor import conftest
from tests.supervisor.kiwi import PATIENCE, Kiwi

kiwi, make = conftest.kiwi, conftest.make  # the fixtures

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def test_reload_asks_waits_and_explains(kiwi: Kiwi) -> None:
    """Without --wait it asks and returns; with it 0 and what changed, or 78 and each problem; --json has it all."""
    kiwi.start_ready()
    done = kiwi.cli("reload")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    kiwi.wait_log("reloaded")

    done = kiwi.cli("reload", "--wait")
    assert (done.returncode, done.stdout) == (0, "Reloaded. Changed: nothing of config.toml.\n")

    kiwi.set(shutdown_timeout="9s", runtime_dir="/run/elsewhere")
    socket = str(kiwi.places.runtime_dir / "control.sock")
    done = kiwi.cli("reload", "--wait", "--socket", socket)
    assert done.returncode == 0
    assert done.stdout == ("Reloaded. Changed: shutdown_timeout.\nThese need a restart of Kiwi ID to change: runtime_dir.\n")

    kiwi.set(runtime_dir=str(kiwi.places.runtime_dir))
    kiwi.set(log_level="loud")
    done = kiwi.cli("reload", "--wait")
    assert done.returncode == 78
    assert done.stdout == ""
    assert done.stderr.startswith("Not reloaded; the last good configuration is in force. To mend:\n")
    assert f"  {kiwi.config}:" in done.stderr
    assert 'log_level: found "loud" (string); allowed: "error", "warn", "info", "debug", "trace"' in done.stderr

    done = kiwi.cli("reload", "--json")
    assert done.returncode == 78
    outcome = json.loads(done.stdout)
    assert outcome["ok"] is False
    assert outcome["problems"][0]["key"] == "log_level"


def test_reload_without_a_running_kiwi_id(kiwi: Kiwi) -> None:
    """69, the socket's path, and what to look at; with a broken config, too."""
    for _ in range(2):
        done = kiwi.cli("reload", "--wait")
        assert done.returncode == 69
        assert f"no running Kiwi ID answers on {kiwi.places.runtime_dir}/control.sock (No such file or directory)" in done.stderr
        kiwi.config.write_text(kiwi.config.read_text() + "\nbroken")


def test_reload_from_outside_a_container(kiwi: Kiwi) -> None:
    """Asked over a control socket that a container shares, the Kiwi ID in it reloads, and no process 1 outside gets a HUP."""
    if not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a PID namespace is not permitted here")
    kiwi.start_ready(before=UNSHARE)
    assert kiwi.ask()["pid"] == 1
    assert kiwi.cli("reload").returncode == 0
    kiwi.wait_log("reloaded")
    assert not kiwi.logs(msg="signal received")


def test_usage_errors_end_with_64() -> None:
    """A wrong option is a usage error of sysexits."""
    command = [sys.executable, "-m", "kiwi_id", "reload", "--wiat"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 64
    assert "unrecognized arguments: --wiat" in done.stderr


def test_a_restart_of_kanidmd_is_told(kiwi: Kiwi) -> None:
    """With restart_upstream_on_change the word is that kanidmd was restarted; 69 when the next one is not ready in time."""
    kiwi.set(restart_upstream_on_change="=true", health_check_timeout="1s")
    kiwi.behave({}, {}, {"never_ready": True}, {})
    kiwi.start_ready()
    for code, said in ((0, "kanidmd was restarted: process "), (69, "kanidmd was not ready within 1 s")):
        with kiwi.places.upstream_config.open("a") as file:
            file.write("# changed\n")
        done = kiwi.cli("reload", "--wait")
        assert (done.returncode, said in done.stdout) == (code, True), done
