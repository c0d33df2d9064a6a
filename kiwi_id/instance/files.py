"""Reading and writing the files that a config names: reading never hangs, and writing leaves nobody with half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from kiwi_id.instance import owners
from kiwi_id.instance.owners import Owner

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


def write_atomic(path: Path, data: bytes, mode: int, owner: Owner | None = None) -> None:
    """Write ``data`` to ``path`` with exactly ``mode`` (whatever the umask), replacing what is there in one step.

    The bytes reach the disk before the name does (fsync, then rename, then fsync of the directory). The temporary file is made
    with mode 0600 in the same directory, so that a secret is at no time readable by others. Raises OSError; the old file is
    then untouched and nothing is left behind.

    Written by root, it belongs to ``owner``, else to whom the file before it belonged, else to whom the directory belongs. It is
    given away while nobody has a name for it but us, and by no name: see :mod:`kiwi_id.instance.owners`.
    """
    try:
        with owners.opened(path.parent) as directory:
            _write(directory, path.name, data, mode, owner)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(error.filename if error.filename == str(path.parent) else path)) from None


def _write(directory: int, name: str, data: bytes, mode: int, owner: Owner | None) -> None:
    scratch = f".{name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(scratch, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            owners.give(descriptor, owner, owners.heir(directory, name))
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.rename(scratch, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(scratch, dir_fd=directory)
        raise
    os.fsync(directory)


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable. Raises OSError when it cannot be opened."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
