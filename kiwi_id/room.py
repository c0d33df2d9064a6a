"""Why kanidmd cannot run for now, when that passes by itself: a file system that it must write to is full, or read-only.

Found by trying. ``statvfs`` knows nothing of quotas, nor of what is kept for root; kanidmd's own words differ between versions.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import trio

from kiwi_id.logs import Log

log = Log("child")

# Between two tries to start it, and between two looks meanwhile, seconds.
PAUSE = 30.0
LOOK_EVERY = 1.0
_WORDS = {errno.ENOSPC: "is full", errno.EDQUOT: "is at its quota", errno.EROFS: "is read-only"}
# What kanidmd's start may write into its database's log of changes (SQLite's WAL), bytes.
FOR_DATABASE = 4 << 20
# A socket needs a name, and nothing more.
FOR_SOCKET = 0

Acting = Callable[[], AbstractContextManager[None]]


def lack(needs: Mapping[Path, int], acting: Acting) -> str:
    """Return what is wrong with the first directory in which that many bytes cannot be written by whom ``acting`` is, or "".

    Only what may pass by itself is told: no room, a quota, a file system that is read-only for now. Nothing is left behind. Blocks.
    """
    for directory, size in needs.items():
        try:
            with acting(), tempfile.TemporaryFile(dir=directory) as file:
                if size:
                    os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in _WORDS:
                return f"the file system of {directory} {_WORDS[error.errno]}"
    return ""


class Room:
    """Waits for it. ``look`` returns what is wrong, or ""."""

    def __init__(self, look: Callable[[], Awaitable[str]]) -> None:
        self.look = look
        self._told = ""

    async def wait(self, lack: str, stopping: trio.Event) -> bool:
        """Wait until there is room, and tell whether there is; not for ever, because a start may need less than was looked for."""
        if lack != self._told:
            log.error("kanidmd cannot run; serving what needs none, and trying again", why=lack)
            self._told = lack
        with trio.move_on_after(PAUSE):
            while not stopping.is_set():
                with trio.move_on_after(LOOK_EVERY):
                    await stopping.wait()
                if not stopping.is_set() and not await self.look():
                    log.info("there is room again; starting kanidmd", was=lack)
                    self.forget()
                    return True
        return False

    def forget(self) -> None:
        """Have the next lack told, whatever it is."""
        self._told = ""
