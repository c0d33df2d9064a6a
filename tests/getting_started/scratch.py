"""A machine to try things on: this one's files with a layer above that takes every write, and processes and a network apart.

All that the walk-through does to ``/etc``, ``/opt``, ``/var`` and the rest lands in memory and goes with the processes. Ports are
those of the document, for the network has nothing in it but a loopback of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

TOOLS = ("unshare", "nsenter", "mount", "chroot")
# --kill-child: process 1 of the machine ends with ``unshare``, and with it all of them.
UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private")
SETTING_UP = """
mount -t tmpfs scratch "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
root="$1/root"; python="$2"; shift 2
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs run "$root/run"
while [ $# -gt 0 ]; do
    if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$root${2%/*}"; : > "$root$2"; fi
    mount --bind "$1" "$root$2"
    mount -o remount,bind,ro "$root$2"
    shift 2
done
exec chroot "$root" "$python" -I -c "$INIT"
"""
# Process 1 has to take up orphans, or they would stay as zombies; and somebody has to raise the loopback, which starts down.
INIT = """
import fcntl, signal, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended, and what it wrote to standard output and standard error, in their order."""

    status: int
    output: str


class Scratch:
    """The running machine; :func:`machine` makes one."""

    def __init__(self, init: int, environment: Mapping[str, str], directory: str) -> None:
        inside = ("env", "-i", "-C", directory, *(f"{name}={value}" for name, value in environment.items()))
        self._prefix = ("nsenter", "--target", str(init), "--mount", "--net", "--pid", "--root", "--", *inside)

    def run(self, *command: str, given: str = "", timeout: float = 180) -> Done:
        """Run a command there and wait for it, not for what it leaves running."""
        # A file, because whatever it leaves running would hold a pipe open.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [*self._prefix, *command],
                input=given.encode(),
                stdout=output,
                stderr=output,
                timeout=timeout,
                check=False,
            )
            output.seek(0)
            return Done(done.returncode, output.read().decode(errors="replace"))

    def write(self, path: str, text: str) -> None:
        """Write a file there, and the directories above it."""
        done = self.run("sh", "-ec", 'mkdir -p "${1%/*}"; cat > "$1"', "-", path, given=text)
        assert done.status == 0, done


def require_tools() -> None:
    """Skip the test where it is plain that there can be no machine."""
    if os.geteuid() != 0 or None in map(shutil.which, TOOLS):
        pytest.skip(f"a scratch machine takes root and the tools {', '.join(TOOLS)}")
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no namespaces for a scratch machine here: {tried.stderr.strip()}")


@contextmanager
def machine(bound: Sequence[tuple[Path, str]], environment: Mapping[str, str], directory: str) -> Iterator[Scratch]:
    """Start a machine, and end it with every process on it. Skips the test where that cannot be.

    ``bound``: what lies where on it, a file or directory each, and cannot be changed there. ``environment`` and ``directory``:
    in which commands run.
    """
    require_tools()
    pairs = [str(word) for pair in bound for word in pair]
    with tempfile.TemporaryDirectory(prefix="kiwi-") as base:
        process = subprocess.Popen(
            [*UNSHARE, "sh", "-ec", SETTING_UP, "-", base, str(Path(sys.executable).resolve()), *pairs],
            env={"PATH": os.defpath + ":/usr/sbin:/sbin", "INIT": INIT},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                process.kill()
                pytest.skip(f"no scratch machine here (mounts, overlayfs): {process.communicate()[1].strip()}")
            (init,) = (int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
            yield Scratch(init, environment, directory)
        finally:
            process.kill()
            process.communicate()
