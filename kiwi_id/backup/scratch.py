"""Directories that a backup or a restore works in. They hold keys in the clear: what a killed one has left, the next one removes.

A process holds the lock of its directory for as long as it lives, so a directory whose lock is free belongs to nobody any more.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kiwi_id.backup import BackupError
from kiwi_id.instance import owners

BACKUP, RESTORE = ".kiwi-backup-", ".kiwi-restore-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What either puts there, with SQLite's files beside a database; a directory with anything else in it is none of ours.
_OURS = re.compile(r"[0-9]+|database(?:-journal|-wal|-shm)?|archive")


@contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a directory for ourselves until the end of the block, and hold its lock; see :func:`owners.scratch_directory`."""
    with owners.scratch_directory(parent, prefix) as path:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits for nobody but a sweep that looks at it just now
            yield path
        finally:
            os.close(descriptor)


def sweep(directories: Iterable[Path]) -> None:
    """Remove what killed backups and restores have left in these directories; nothing that cannot be removed stops anybody."""
    for directory in directories:
        with suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for name in os.listdir(descriptor):  # noqa: PTH208 - of a descriptor
                    if name.startswith((BACKUP, RESTORE)) and _is_left(descriptor, name):
                        shutil.rmtree(name, dir_fd=descriptor)
            finally:
                os.close(descriptor)


def _is_left(parent: int, name: str) -> bool:
    """Tell whether a directory is ours and of a process that is no more. An empty one may have been made just now: it stays."""
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = os.listdir(descriptor)  # noqa: PTH208 - of a descriptor
        return os.fstat(descriptor).st_uid == os.geteuid() and bool(there) and all(map(_OURS.fullmatch, there))
    except OSError:
        return False
    finally:
        os.close(descriptor)


def require_room(directory: Path, size: int) -> None:
    """Raise BackupError when there is no room for ``size`` bytes where ``directory`` is."""
    status = os.statvfs(directory)
    free = (status.f_bfree if os.geteuid() == 0 else status.f_bavail) * status.f_frsize
    if free < size:
        raise BackupError(f"{_named(directory)}: no space left: {-(-size >> 10)} KiB are needed, and {free >> 10} are free")


def told(error: OSError, directory: Path) -> BackupError:
    """Return an error of the system in words, which name ``directory`` where the error names no file, or one of ours in it."""
    file = error.filename
    known = isinstance(file, str) and not file.startswith("/proc/self/fd/")
    return BackupError(f"{file if known else _named(directory)}: {(error.strerror or str(error)).lower()}")


def _named(directory: Path) -> Path:
    """Return the directory that people know: not one of ours, and no descriptor."""
    real = Path(os.path.realpath(directory))
    return real.parent if real.name.startswith((BACKUP, RESTORE)) else real
