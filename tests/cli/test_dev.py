"""The options of ``kiwi-id dev``: what it refuses, in which words, and what it prints for a person."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiwi_id import config
from kiwi_id.errors import Exit
from kiwi_id.instance import layout

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("KIWI_", "KANIDM_"))}


@pytest.fixture
def short() -> Iterator[Path]:
    """An empty directory. Not pytest's tmp_path: a Unix socket's path may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="kiwi-") as name:
        yield Path(name)


def refused(*options: str, code: Exit, **environment: str) -> str:
    """Run the command, check that it ends with ``code`` without printing anything on stdout, and return its words."""
    command = [sys.executable, "-m", "kiwi_id", "dev", *options]
    done = subprocess.run(
        command, cwd=ROOT, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    assert not done.stdout
    return done.stderr


def test_port_out_of_range() -> None:
    """A port that cannot be one is a usage error that tells the range."""
    assert "from 1 to 65535" in refused("--port", "70000", code=Exit.USAGE)


def test_port_in_use(tmp_path: Path) -> None:
    """A port that is taken is named; no directory stays behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = refused("--stand-in", "--port", port, code=Exit.CONFIG, TMPDIR=str(tmp_path))
    assert f"--port: found {port}: Address already in use" in words
    assert not list(tmp_path.iterdir())


def test_kanidmd_that_is_not_there(tmp_path: Path) -> None:
    """A kanidmd that was named must be there, by option or by variable: no silent fall back to the stand-in."""
    missing = str(tmp_path / "kanidmd")
    assert f"--upstream-bin: found {missing}" in refused("--upstream-bin", missing, code=Exit.CONFIG)
    assert f"KIWI_TEST_KANIDMD: found {missing}" in refused(code=Exit.CONFIG, KIWI_TEST_KANIDMD=missing)


def test_options_that_contradict_a_kept_instance(tmp_path: Path) -> None:
    """Port and kanidmd of a kept instance cannot change: Kanidm's origin and database are bound to them. All is told at once."""
    binary = tmp_path / "kanidmd"
    binary.write_text("#!/bin/sh\necho 'kanidmd 1.5.0'\n")
    binary.chmod(0o755)
    layout.create(tmp_path / "kept", layout.Options(upstream_bin=binary))
    kept = config.load(layout.Places.under(tmp_path / "kept").config)
    words = refused("--dir", str(tmp_path / "kept"), "--stand-in", "--port", "4711", code=Exit.CONFIG)
    assert f"--port: found 4711; allowed: {kept.listen_addr.port}" in words
    assert "--stand-in: found" in words
    assert str(binary) in words


def test_supervisor_that_fails(tmp_path: Path, short: Path) -> None:
    """When the supervisor gives up, its last words are shown and the exit code is that of an unavailable child."""
    binary = tmp_path / "kanidmd"
    # 'version' for the pin; as a server it ends at once, in the way kanidmd does with a configuration that it refuses.
    binary.write_text("#!/bin/sh\n[ \"$1\" = version ] && echo 'kanidmd 1.5.0' && exit 0\necho 'it does not like it' >&2\nexit 1\n")
    binary.chmod(0o755)
    words = refused("--upstream-bin", str(binary), code=Exit.UNAVAILABLE, TMPDIR=str(short))
    assert "it does not like it" in words
    assert not list(short.iterdir())


def test_words_for_a_person(short: Path) -> None:
    """Without --json a person reads URL, users with passwords, clients, how to stop, and that this is not Kanidm."""
    command = [sys.executable, "-m", "kiwi_id", "dev", "--stand-in", "--redirect-uri", "https://localhost:9999/back"]
    environment = {**ENVIRONMENT, "TMPDIR": str(short)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            lines = iter(process.stdout.readline, "")
            words = ""
            for line in lines:
                words += line
                if line.startswith("Stop with Ctrl-C"):
                    break
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == Exit.OK
        finally:
            if process.poll() is None:
                process.kill()
    assert words.startswith("Kiwi ID is ready. Open  https://localhost:")
    assert "This is NOT Kanidm" in words
    for part in (
        "alice",
        "orchard-lantern-voyage-73",
        "kiwi-demo-public",
        "https://localhost:9999/back",
        "discovery",
        "is removed then",
    ):
        assert part in words
