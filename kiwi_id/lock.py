"""The lock beside the database: two Kanidms on one SQLite file would corrupt what they cache of it.

kanidmd's own lock file is unlocked again before it serves (server/daemon/src/main.rs drops the handle at the block's end), so it
protects nothing.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import trio

from kiwi_id.errors import Exit, KiwiError, Problem


class Locked(KiwiError):
    """Another process holds the database. Exit code 78: starting again will not help."""

    exit_code = Exit.CONFIG


async def acquire(
    database: Path, *, patience: float = 2.0, acting: Callable[[], AbstractContextManager[None]] = nullcontext
) -> int:
    """Take the exclusive lock for ``database`` and return its open descriptor; the lock ends with the last copy of it.

    Waits ``patience`` seconds for a predecessor that is just ending; ``acting`` is entered while the file is opened, where its
    directory is another user's. Raises Locked.
    """
    file = database.with_name(database.name + ".kiwi-lock")
    try:
        with acting():
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        fix = "Create the database's directory and let this user write to it."
        problem = Problem(str(file), "", error.strerror or str(error), "a file that can be created and locked", fix)
        raise Locked(str(problem)) from None
    try:
        with trio.move_on_after(patience):
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await trio.sleep(0.05)
                else:
                    with suppress(OSError):  # who holds it is for people; on a full disk it is held all the same
                        os.ftruncate(descriptor, 0)
                        os.write(descriptor, f"{os.getpid()}\n".encode())
                    return descriptor
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    raise Locked(
        f"the database {database} is in use by another Kiwi ID (process {holder}, lock file {file}). "
        "Two instances on one database would corrupt it: stop the other one first, or give this one its own db_path."
    )
