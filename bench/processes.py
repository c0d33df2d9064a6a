"""Processes of the bench: what each one uses, as the kernel counts it, and an end for each of them under every error."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICK = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def cpu_seconds(pid: int) -> float:
    """Return user plus system time of one process, all its threads, in seconds (resolution: a clock tick, 10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss_mb(pid: int, *, peak: bool = False) -> float:
    """Return the resident memory of one process, in MB (10^6 bytes), now or at its peak since :func:`reset_peak`."""
    wanted = "VmHWM:" if peak else "VmRSS:"
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(wanted):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def reset_peak(pid: int) -> None:
    """Let the peak of a process's resident memory begin anew (proc(5), ``clear_refs``)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def raise_descriptors() -> int:
    """Raise the soft limit on open files to the hard one, for this process and all it starts; return it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _end_with_parent() -> None:
    # TERM and not KILL: Kiwi ID then stops the upstream that it has started.
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command beside this block, its output going to ``log``; it has ended when the block has, however that ended."""
    with log.open("wb") as output:
        # preexec_fn is unsafe beside threads that hold locks; the programs that start others have no threads.
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, preexec_fn=_end_with_parent)  # noqa: PLW1509
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def wait_port(port: int, process: subprocess.Popen[bytes] | None = None, log: Path | None = None, seconds: float = 20.0) -> None:
    """Wait until something accepts connections on the port. Raises SystemExit, with the end of ``log``, when nothing does."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and (process is None or process.poll() is None):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.02)
    said = log.read_text(encoding="utf-8", errors="replace")[-2000:] if log else ""
    raise SystemExit(f"bench: nothing listens on port {port}\n{said}")
