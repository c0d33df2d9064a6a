"""``kiwi-id pin`` as a process."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kiwi_id.errors import Exit

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A config.toml that names a kanidmd, which a test writes with :func:`say`."""
    (tmp_path / "config.toml").write_text(f'upstream_bin = "{tmp_path}/kanidmd"\n')
    return tmp_path / "config.toml"


def say(file: Path, version: str) -> None:
    """Write a kanidmd that tells ``version``."""
    binary = file.with_name("kanidmd")
    binary.write_text(f"#!/bin/sh\necho 'kanidmd {version}'\n")
    binary.chmod(0o755)


def pin(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    command = [sys.executable, "-m", "kiwi_id", "pin", "--config", str(file), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_pins_what_is_there_and_again_after_an_upgrade(file: Path) -> None:
    """The file holds version and checksum of the binary, the old ones replaced; both are printed."""
    for version in ("1.5.0", "1.10.5"):
        say(file, version)
        done = pin(file)
        digest = hashlib.sha256(file.with_name("kanidmd").read_bytes()).hexdigest()
        assert done.returncode == Exit.OK
        assert f"pinned kanidmd {version}" in done.stdout
        assert digest in done.stdout
        upstream = tomllib.loads(file.with_name("compatibility.toml").read_text())["upstream"]
        assert upstream == {"name": "kanidm", "version": version, "checksum": f"sha256:{digest}"}


def test_untested_version_is_pinned_with_a_warning(file: Path) -> None:
    """Recording is not permitting: it says what a start will need. JSON stays alone on stdout."""
    say(file, "1.9.9")
    done = pin(file, "--json")
    assert done.returncode == Exit.OK
    answer = json.loads(done.stdout)
    assert (answer["version"], answer["tested"]) == ("1.9.9", False)
    assert "untested version (tested: 1.5.0, 1.10.5)" in done.stderr
    assert "--allow-untested" in done.stderr


def test_without_a_binary_nothing_is_written(file: Path) -> None:
    """Exit code 78, in words; an earlier pin stays."""
    done = pin(file)
    assert done.returncode == Exit.CONFIG
    assert "no such file" in done.stderr
    assert not file.with_name("compatibility.toml").exists()
