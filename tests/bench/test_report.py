"""The report of the fast path: runs with counts that measure nothing, to see that it measures everything and leaves nothing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.processes import raise_descriptors
from bench.report_contenders import Room, missing
from bench.report_measures import saturate

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = [
    "Wanted and found",
    "A proxied GET of 1.1 KB",
    "Bodies of 1 MiB",
    "Memory and idle connections",
    "TLS handshakes",
    "What Kiwi ID answers itself",
    "Imports of `kiwi-id run`",
    "By number of connections",
]


def start(directory: Path, *options: str) -> subprocess.Popen[str]:
    """Start the program; all it makes lies below ``directory``, and so every process it starts names that."""
    command = [sys.executable, "-m", "bench.report", "--tiny", *options]
    env = {**os.environ, "TMPDIR": str(directory)}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def left_behind(directory: Path) -> list[str]:
    """Return the command lines of processes that name ``directory``."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in line:
            found.append(line)
    return found


def row(report: str, section: str, name: str) -> list[str]:
    """Return the cells of the first row called ``name`` in a section."""
    part = report.partition(f"## {section}")[2].partition("\n## ")[0]
    for line in part.splitlines():
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if cells[0] == name:
            return cells
    raise AssertionError(f"no row {name!r} in {section!r}:\n{part}")


@pytest.fixture
def room() -> Iterator[Path]:
    """A directory with a short name: the paths of sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="kb-") as name:
        yield Path(name)


def test_report(room: Path, tmp_path: Path) -> None:
    """Every part is measured for every contender that can run here, the others are named, and no process and no file is left."""
    process = start(room, "--out", str(tmp_path))
    try:
        said, log = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, log
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert [line[3:] for line in report.splitlines() if line.startswith("## ")] == SECTIONS
    assert "CPU per proxied GET, Kiwi ID / plain stack" in said

    everyone = {
        "Kiwi ID",
        "Kiwi ID, plain HTTP",
        "plain stack",
        "aiohttp",
        "nginx",
        "h11 on Trio",
        "Hypercorn, a constant",
        "direct",
    }
    for name in everyone - missing().keys():
        rate = row(report, "A proxied GET of 1.1 KB", name)[1]
        assert int(rate.replace(",", "")) > 0, name
    for name in missing():
        assert f"Not measured: **{name}**, because" in report
    for name in ("Kiwi ID", "direct"):
        assert int(row(report, "Bodies of 1 MiB", name)[1].replace(",", "")) > 0
    ready, loaded = (float(row(report, "Memory and idle connections", "Kiwi ID")[cell]) for cell in (1, 2))
    assert 20 < ready < loaded
    assert row(report, "TLS handshakes", "Kiwi ID")[2] == "TLSv1.3"
    assert row(report, "What Kiwi ID answers itself", "/oauth2/keys")
    assert row(report, "Imports of `kiwi-id run`", "`trio`")
    assert len(row(report, "By number of connections", "Kiwi ID")) == 3

    if importlib.util.find_spec("matplotlib") is None:
        assert "No plot: matplotlib is not installed" in report
    else:
        assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert left_behind(room) == []
    assert list(room.iterdir()) == []


def test_interrupted(room: Path) -> None:
    """A TERM while a contender is loaded ends everything that was started."""
    process = start(room, "--only", "speed")
    try:
        assert process.stderr is not None
        said: list[str] = []
        while not said or "requests per second" not in said[-1]:
            said.append(process.stderr.readline())
            assert said[-1], said
        assert len(left_behind(room)) >= 4  # two supervisors, their upstreams, peers
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.communicate()
    assert left_behind(room) == []
    assert list(room.iterdir()) == []


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (apt-get install wrk)")
def test_wrk(room: Path) -> None:
    """Where wrk is installed, its figures are understood, and answers that are no success are an error unless they were wanted."""
    raise_descriptors()
    with Room(room).kiwi() as kiwi:
        found = saturate(kiwi, 2, 1)
        assert found["rps"] > 0
        assert found["cpu_us"] > 0
        assert 0 < found["p50_us"] <= found["p99_us"]
        with pytest.raises(SystemExit, match="/oauth2/userinfo: "):
            saturate(kiwi, 2, 1, "/oauth2/userinfo")
        assert saturate(kiwi, 2, 1, "/oauth2/userinfo", refused=True)["rps"] > 0
    assert left_behind(room) == []
