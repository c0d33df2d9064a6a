"""Root at work where another user may write: nothing is given away, made or opened by a name that he could turn elsewhere.

Where Kiwi ID runs as a user of its own, root's commands write into that user's directories. Between two system calls on the same
name he can put a link there, and a ``chown`` that follows it makes any file of the machine his. So a directory is opened once and
everything in it is done through that descriptor; a file is given away by its own descriptor before it has its name; what decides
about owners is never asked through a link; and a link of his leads root to nothing but his own directories.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Owner = tuple[int, int]
"""A user and a group by their numbers; -1 leaves one as it is."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    """Open a directory for the block. Raises OSError, for root also when a link of another user leads to a third one's."""
    try:
        descriptor = _walk(directory) if os.geteuid() == 0 else os.open(directory, _DIRECTORY)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(directory)) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _walk(path: Path) -> int:
    """Open a directory link by link, so that we know whose links they were."""
    guides = set()
    links, parts = 0, deque(path.parts)
    here = os.open(".", _STEP)
    try:
        while parts:
            following = os.open(parts.popleft(), _STEP, dir_fd=here)
            status = os.fstat(following)
            if stat.S_ISLNK(status.st_mode):
                try:
                    parts.extendleft(reversed(Path(os.readlink("", dir_fd=following)).parts))
                finally:
                    os.close(following)
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                guides.add(status.st_uid)
            else:
                os.close(here)
                here = following
        descriptor = os.open(".", _DIRECTORY, dir_fd=here)
    finally:
        os.close(here)
    if guides - {0, os.fstat(descriptor).st_uid}:
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "reached by a link of another user, which root does not follow")
    return descriptor


def of(path: Path) -> Owner | None:
    """Return whose ``path`` is, and of a link whose the link is; None unless we are root, who alone can give. Raises OSError."""
    if os.geteuid() != 0:
        return None
    status = path.lstat()
    return status.st_uid, status.st_gid


def heir(directory: int, name: str) -> Owner | None:
    """Return to whom a new file belongs that root writes there: whose the old one was, else whose the directory is; None: to us."""
    if os.geteuid() != 0:
        return None
    with suppress(FileNotFoundError):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            return status.st_uid, status.st_gid
    status = os.fstat(directory)
    return (status.st_uid, status.st_gid) if status.st_uid != 0 else None


def give(descriptor: int, owner: Owner | None, otherwise: Owner | None = None) -> None:
    """Give an open file or directory to ``owner``; without one to ``otherwise``, if we may. Raises OSError."""
    status = os.fstat(descriptor)
    if owner is not None:
        if (status.st_uid, status.st_gid) != owner:
            os.fchown(descriptor, *owner)
    elif otherwise is not None and (status.st_uid, status.st_gid) != otherwise:
        with suppress(PermissionError):  # a root without CAP_CHOWN
            os.fchown(descriptor, *otherwise)


def make_directory(path: Path, mode: int, owner: Owner | None = None) -> None:
    """Make a directory with exactly ``mode``, for ``owner`` (None: for us). Raises OSError, FileExistsError above all."""
    try:
        with opened(path.parent) as parent:
            os.mkdir(path.name, 0o700, dir_fd=parent)
            descriptor = os.open(path.name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            try:
                _require_ours(descriptor)
                give(descriptor, owner)
                os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def open_lock(path: Path, owner: Owner | None = None) -> int:
    """Open a file of mode 0600 that is there for its lock, made when missing; return its descriptor. Raises OSError."""
    try:
        with opened(path.parent) as directory:
            heritage = heir(directory, path.name)
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            try:
                descriptor = os.open(path.name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
            except FileExistsError:
                return os.open(path.name, flags, dir_fd=directory)
            give(descriptor, owner, heritage)
            return descriptor
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def scratch_directory(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a directory for ourselves until the end of the block; return a path to it that holds whatever becomes of its name.

    The path is that of its descriptor: whoever may write to ``parent`` can move the directory away and put another there.
    """
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as name:
        descriptor = os.open(name, _DIRECTORY | os.O_NOFOLLOW)
        try:
            _require_ours(descriptor)
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)


def _require_ours(descriptor: int) -> None:
    """Raise PermissionError unless an open directory is the one that we have just made, for all that can be seen."""
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o777 != 0o700 or os.listdir(descriptor):
        raise PermissionError(errno.EPERM, "somebody else has put another directory there")
