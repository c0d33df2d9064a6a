"""What kanidmd prints becomes log lines: split, redacted, with their own level, a batch at a time.

kanidmd prints about forty lines for one login, so what a line costs here is a part of what every login costs. The pipe is read at
most fifty times a second: that a line waits 20 ms costs nobody anything, and a batch is read, written and flushed once.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable
from contextlib import suppress

import trio

from kiwi_id.logs import LEVELS, relay
from kiwi_id.redaction import redact_lines

LONGEST_LINE = 8192
PAUSE = 0.02
_READ = 65536
# A pipe holds 64 KiB by default (pipe(7)), and kanidmd would stand still once it has printed that much in one pause.
_PIPE = 1 << 20
# tracing-forest's lines are "<uuid> <LEVEL> <tree>"; a level of its own is kept, so that log_level works for them, too.
_LEVEL_AT = 37
_LEVEL_WORD = re.compile(r"\b(ERROR|WARN|INFO|DEBUG|TRACE)\b")
_LEVELS = {name.upper(): number for name, number in LEVELS.items()}
_PADDED = {f"{name:5}": number for name, number in _LEVELS.items()}


async def relog(descriptor: int, scope: trio.CancelScope, seen: Callable[[list[str]], None]) -> None:
    """Log what comes out of ``descriptor``, a pipe's non-blocking end, until ``scope`` is cancelled; close it then.

    ``seen`` gets the lines of each batch as well.
    """
    lines = _Lines()

    def log(part: bytes) -> None:
        complete = lines.feed(part)
        texts = [text for text in redact_lines(complete) if text] if complete else []
        if texts:
            seen(texts)
            relay("kanidmd", [(_level(text), text) for text in texts])

    with suppress(OSError):  # an unprivileged process may be over its share of pipe memory (pipe(7)): then it stays small
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE)
    async with trio.lowlevel.FdStream(descriptor) as pipe:
        with scope:
            while part := await pipe.receive_some(_READ):
                log(bytes(part))
                if len(part) < _READ:
                    await trio.sleep(PAUSE)
        # The child has ended: what it wrote last is in the pipe. A grandchild may go on writing.
        with suppress(BlockingIOError):
            for _ in range(_PIPE // _READ):
                log(os.read(descriptor, _READ))
    log(b"\n")


def _level(text: str) -> int:
    level = _PADDED.get(text[_LEVEL_AT : _LEVEL_AT + 5])
    if level is not None and text[8] == text[23] == "-":  # behind a UUID
        return level
    word = _LEVEL_WORD.search(text, 0, 64)
    return _LEVELS[word[1]] if word else LEVELS["info"]


class _Lines:
    """Splits a stream into lines. Of a line that is too long the first part is kept, and the rest is dropped.

    Not cut into several lines: the second would begin inside a token, or behind its name, and would not be redacted.
    """

    def __init__(self) -> None:
        self._begun = b""

    def feed(self, part: bytes) -> list[bytes]:
        """Take the next part of the stream; return the lines that are complete with it."""
        *lines, self._begun = (self._begun + part).split(b"\n")
        # One more than is kept, so that what was dropped cannot come back as the beginning of a line.
        self._begun = self._begun[: LONGEST_LINE + 1]
        return [line[:LONGEST_LINE] for line in lines]
