"""Logs that cannot be written: a full disk, a forbidden directory, a reader that is stuck. Logins go on, and the loss is told."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kiwi_id.log_sinks import FileSink, StreamSink
from tests.supervisor.conftest import make  # noqa: F401 - a fixture
from tests.supervisor.kiwi import Kiwi, eventually

UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@pytest.fixture
def kiwi(make: Any) -> Kiwi:  # noqa: F811
    """An instance over the scripted kanidmd that logs to a file, too."""
    kiwi: Kiwi = make()
    kiwi.set(log_file=str(kiwi.directory / "kiwi.log"))
    return kiwi


def records(file: Path) -> list[dict[str, Any]]:
    """Return the log's records; each line must be one."""
    text = file.read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("room", [0, 50], ids=["full", "half a line fits"])
def test_a_full_disk_costs_log_lines_and_nothing_else(kiwi: Kiwi, room: int) -> None:
    """While the file cannot grow requests are answered; afterwards its lines are whole and it says how many are missing."""
    file = kiwi.directory / "kiwi.log"
    kiwi.start_ready()
    kiwi.get()
    eventually(lambda: kiwi.logs(msg="request"), "the request's line")
    before = len([record for record in records(file) if record["msg"] == "request"])
    # What a full disk does: a write ends early or fails (here with EFBIG instead of ENOSPC). kanidmd has limits of its own.
    resource.prlimit(kiwi.process.pid, resource.RLIMIT_FSIZE, (file.stat().st_size + room, resource.RLIM_INFINITY))
    # Standard error, a file of the same length, meets the same end.
    for _ in range(20):
        assert kiwi.get()[0] == 200
    resource.prlimit(kiwi.process.pid, resource.RLIMIT_FSIZE, UNLIMITED)
    assert kiwi.get()[0] == 200
    assert kiwi.stop() == 0
    for found in (records(file), kiwi.logs()):
        (told,) = [record for record in found if record["msg"] == "log lines were lost" and record["to"] == str(file)]
        assert (told["reason"], told["level"]) == ("File too large", "warn")
        assert told["lines"] >= 19
    served = [record["request_id"] for record in records(file) if record["msg"] == "request"]
    assert before + 1 <= len(served) <= before + 2  # a request's line is written after its answer: the twentieth's perhaps later


def test_the_device_is_full_from_the_beginning(kiwi: Kiwi) -> None:
    """Logins go on with a log file to which nothing can ever be written, and standard error says so once."""
    kiwi.set(log_file="/dev/full")
    kiwi.start_ready()
    assert [kiwi.get()[0] for _ in range(5)] == [200] * 5
    assert kiwi.stop() == 0
    (told,) = kiwi.logs(msg="log lines cannot be written")
    assert (told["to"], told["reason"], told["level"]) == ("/dev/full", "No space left on device", "error")


def test_a_log_directory_that_may_not_be_written(kiwi: Kiwi) -> None:
    """It starts and serves; a clear line says why there is no log file; a reload is taken and, once mended, opens it."""
    logs = kiwi.directory / "logs"
    logs.mkdir(mode=0o500)
    kiwi.set(log_file=str(logs / "kiwi.log"))
    before: list[str] = []
    if os.getuid() == 0:  # root may write everywhere, unless it gives that right up
        if not shutil.which("setpriv"):
            pytest.skip("running as root, and no setpriv to give up root's right to write everywhere")
        before = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    kiwi.start_ready(before=before)
    (told,) = kiwi.logs(msg="log lines cannot be written")
    assert (told["to"], told["reason"]) == (f"{logs}/kiwi.log", "Permission denied")
    assert kiwi.get()[0] == 200
    kiwi.signal(signal.SIGHUP)
    kiwi.wait_log("reloaded")
    logs.chmod(0o700)
    kiwi.signal(signal.SIGHUP)
    kiwi.wait_log("reloaded", count=2)
    assert kiwi.get()[0] == 200
    assert kiwi.stop() == 0
    assert "stopped" in [record["msg"] for record in records(logs / "kiwi.log")]


def test_a_reload_keeps_the_open_file_when_there_is_no_new_one(kiwi: Kiwi) -> None:
    """When the log's directory has gone away, a HUP is taken all the same, and what is open goes on being written."""
    logs, moved = kiwi.directory / "logs", kiwi.directory / "moved"
    logs.mkdir()
    kiwi.set(log_file=str(logs / "kiwi.log"))
    kiwi.start_ready()
    logs.rename(moved)
    kiwi.signal(signal.SIGHUP)
    kiwi.wait_log("reloaded")
    assert kiwi.logs(msg="the log file cannot be opened anew; the open one goes on")[0]["reason"] == "No such file or directory"
    assert kiwi.stop() == 0
    assert "stopped" in [record["msg"] for record in records(moved / "kiwi.log")]


def test_nobody_reads_standard_error(kiwi: Kiwi) -> None:
    """Requests are answered although the pipe behind standard error is full; whoever reads it again is told of the loss."""
    fifo = kiwi.directory / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    kiwi.set(log_level="trace")
    kiwi.start(before=["sh", "-c", f'exec "$0" "$@" 2>{fifo}'])
    eventually((kiwi.places.runtime_dir / "control.sock").exists, "the control socket")
    kiwi.child_pid()
    file = kiwi.directory / "kiwi.log"
    while "log lines cannot be written" not in file.read_text():
        assert kiwi.get(f"/{'x' * 200}")[0] == 200
    assert kiwi.get()[0] == 200
    assert eventually(lambda: os.read(reader, 1 << 20), "what fitted into the pipe").startswith(b"{")
    assert kiwi.get()[0] == 200
    told = eventually(lambda: [line for line in records(file) if line["msg"] == "log lines were lost"], "the loss told")[0]
    assert (told["to"], told["reason"]) == ("stderr", "nobody reads it")
    said = b""

    def read_on() -> bool:
        nonlocal said
        with suppress(BlockingIOError):
            said += os.read(reader, 1 << 20)
        return b"log lines were lost" in said

    eventually(read_on, "the loss told to whoever reads again")
    os.close(reader)
    assert kiwi.stop() == 0  # into a pipe without a reader


@pytest.fixture
def told() -> list[tuple[str, dict[str, object]]]:
    """What a sink had to say."""
    return []


@pytest.fixture
def limit() -> Iterator[Any]:
    """A function that says how large a file may become, for this process; taken back afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_number_of_lost_lines_is_exact(tmp_path: Path, told: list[tuple[str, dict[str, object]]], limit: Any) -> None:
    """Lines in the file and lines said to be lost are together the lines that were written, however a write was cut."""
    sink = FileSink(tmp_path / "log", lambda message, fields: told.append((message, fields)))
    written = 0
    for size in range(0, 2000, 7):
        limit(size)
        sink.write("one\ntwo and a little\nthree\n")
        written += 3
    limit(resource.RLIM_INFINITY)
    sink.write("last\n")
    lost = sum(int(str(fields["lines"])) for message, fields in told if "lines" in fields)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) + lost == written + 1
    assert set(lines) <= {"one", "two and a little", "three", "last"}
    assert lost > 50


def test_a_pipe_that_ends_in_the_middle_of_a_line(told: list[tuple[str, dict[str, object]]]) -> None:
    """What follows half a line begins a new one, so that only that one cannot be read."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        sink = StreamSink(stream, lambda message, fields: told.append((message, fields)))
        sink.write("x" * 200_000 + "\n")
        assert told[0][0] == "log lines cannot be written"
        os.set_blocking(reader, False)
        with suppress(BlockingIOError):
            while os.read(reader, 1 << 20):
                pass
        sink.write("after\n")
        assert os.read(reader, 1 << 20) == b"\nafter\n"
        assert told[-1][1]["lines"] == 1
        sink.close()
    os.close(reader)
