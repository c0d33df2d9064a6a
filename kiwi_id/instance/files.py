"""Reading and writing the files that a config names: reading never hangs, and writing leaves nobody with half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

# Keys, certificates, secrets and settings are a few kilobytes; a bundle of all authorities of the world has 0.3 MB.
MOST_READ = 4 << 20
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO (named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_file(path: Path) -> bytes:
    """Return what a regular file holds. Raises OSError, also for what is no file or larger than 4 MiB.

    Opening a FIFO waits for a writer, and a device may have no end: in a reload that thread could never be ended. So it is opened
    without waiting, and looked at before it is read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        _require_regular(os.fstat(descriptor), path)
        data = file.read(MOST_READ + 1)
    if len(data) > MOST_READ:
        raise OSError(errno.EFBIG, f"A file of more than {MOST_READ >> 20} MiB", str(path))
    return data


def require_file(path: Path) -> None:
    """Raise OSError unless ``path`` is a regular file: for what others open by its name."""
    _require_regular(path.stat(), path)


def _require_regular(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
        raise OSError(errno.EINVAL, f"{kind[0].upper()}{kind[1:]}, not a regular file", str(path))


def write_atomic(path: Path, data: bytes, mode: int) -> None:
    """Write ``data`` to ``path`` with exactly ``mode`` (whatever the umask), replacing what is there in one step.

    The bytes reach the disk before the name does (fsync, then rename, then fsync of the directory). The temporary file is made
    with mode 0600 in the same directory, so that a secret is at no time readable by others. Raises OSError; the old file is
    then untouched and nothing is left behind.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable. Raises OSError when it cannot be opened."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
