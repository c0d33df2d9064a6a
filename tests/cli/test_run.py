"""``kiwi-id run``: its options. What it does is tested in tests/supervisor."""

from __future__ import annotations

import os
import subprocess
import sys

from kiwi_id.cli import COMMANDS
from tests.supervisor import conftest
from tests.supervisor.kiwi import PATIENCE, Kiwi

kiwi, make = conftest.kiwi, conftest.make  # the fixtures


def _run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kiwi_id", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=os.environ | environ)


def test_an_untested_version_needs_permission(kiwi: Kiwi) -> None:
    """Refused with 78 and the tested versions; with --allow-untested it starts, and says so in log and status."""
    binary = kiwi.places.upstream_bin
    binary.write_text(binary.read_text().replace("kanidmd 1.5.0 xyz", "kanidmd 1.99.0 xyz"))
    assert kiwi.cli("pin").returncode in (0, 78)
    kiwi.start()
    assert kiwi.wait() == 78
    assert "kanidmd 1.99.0, an untested version; allowed: 1.5.0, 1.10.5" in kiwi.text()
    kiwi.start(program=("-c", "import sys; from kiwi_id.cli import main; sys.exit(main([*sys.argv[1:], '--allow-untested']))"))
    kiwi.wait_log("this kanidmd was not tested with this Kiwi ID", level="warn")
    assert "1.99.0, not tested with this Kiwi ID" in kiwi.cli("status").stdout


def test_the_config_is_found_by_its_variable(kiwi: Kiwi) -> None:
    """KIWI_CONFIG names the file when --config does not."""
    kiwi.config.write_text("nonsense")
    done = _run("run", KIWI_CONFIG=str(kiwi.config))
    assert done.returncode == 78
    assert done.stderr.startswith(f"kiwi-id run: {kiwi.config}: found a TOML syntax error")


def test_usage_errors_end_with_64() -> None:
    """No command, an unknown one, a wrong option: 64 and a usage line, never a traceback."""
    for arguments in ((), ("fly",), ("run", "--fast"), ("run", "extra")):
        done = _run(*arguments)
        assert done.returncode == 64, arguments
        assert done.stderr.startswith("usage: kiwi-id")
        assert "Traceback" not in done.stderr


def test_every_command_has_help() -> None:
    """--help of the whole and of each command ends with 0, and the whole names each."""
    done = _run("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert name in done.stdout
    for name in ("run", "reload", "status", "health"):
        done = _run(name, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert "--config FILE" in done.stdout
