"""Who listens on a TCP port of this machine, as far as the kernel tells this user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LISTEN = "0A"  # TCP_LISTEN (include/net/tcp_states.h), as /proc/net/tcp has it (proc_pid_net(5))


def listeners(port: int) -> dict[int, str]:
    """Return the processes that hold a socket which listens on ``port``, with their names; those that we may look at.

    Blocks for some milliseconds: the descriptors of every process are looked at.
    """
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir() if wanted else ():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended, or is another user's
                if any(str(file.readlink()) in wanted for file in (entry / "fd").iterdir()):
                    found[int(entry.name)] = (entry / "comm").read_text().rstrip("\n")
    return found


def _inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
