"""Where log lines go: files, pipes and terminals that may be full, gone or stuck, and must never keep a login waiting.

Lines that cannot be written are counted and dropped: held back they would fill the memory. The other outputs are told at once, and
whoever reads this one as soon as it can be written again.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

# A file that could not be opened is tried again so often, seconds.
AGAIN = 5.0
# A pipe whose reader is slow is waited for this long, milliseconds, and then not again until it takes something.
_PATIENCE_MS = 50

# Logs what the sinks have to say of themselves: a message and its fields.
Tell = Callable[[str, dict[str, object]], None]


class Sink:
    """Writes whole lines to one descriptor. ``tell`` logs what became of them; it is called from within :meth:`write`."""

    def __init__(self, name: str, descriptor: int | None, tell: Tell) -> None:
        self.name = name
        self._descriptor, self._tell = descriptor, tell
        self._lost, self._reason, self._since = 0, "", 0.0
        self._torn = False

    def write(self, text: str) -> None:
        """Write ``text``, one or more lines with their newlines; never raises, and never waits for long."""
        data = (b"\n" if self._torn else b"") + text.encode("utf-8", "backslashreplace")
        done, reason = 0, ""
        try:
            while done < len(data):
                done += self._put(data[done:])
        except OSError as error:
            reason = error.strerror or str(error)
        if done:
            self._torn = data[done - 1] != 0x0A
            if self._torn and self._cut(done - data.rfind(b"\n", 0, done) - 1):
                self._torn = False
        if reason:
            self._note_loss(data.count(b"\n", done), reason)
        elif self._lost:
            self._tell_loss()

    def _note_loss(self, lines: int, reason: str) -> None:
        first = not self._lost
        self._lost, self._reason = self._lost + lines, reason
        if first:
            self._since = time.monotonic()
            self._tell("log lines cannot be written", {"to": self.name, "reason": reason})

    def _tell_loss(self) -> None:
        lost, reason, seconds = self._lost, self._reason, round(time.monotonic() - self._since, 1)
        self._lost = 0
        self._tell("log lines were lost", {"to": self.name, "lines": lost, "reason": reason, "seconds": seconds})
        if self._lost:  # not even that could be written
            self._lost += lost

    def _put(self, data: bytes) -> int:
        """Write some of ``data``; return how much. Raises OSError."""
        if self._descriptor is None:
            raise OSError(0, "it is closed")
        return os.write(self._descriptor, data)

    def _cut(self, _count: int) -> bool:
        """Take back the last bytes, half a line; return False where that cannot be done."""
        return False

    def close(self) -> None:
        """Close the descriptor."""
        if self._descriptor is not None:
            with suppress(OSError):  # of a network file system, whose last write failed
                os.close(self._descriptor)
            self._descriptor = None


class FileSink(Sink):
    """A file that is appended to. One that cannot be opened is tried again and again: a disk may come back."""

    def __init__(self, path: Path, tell: Tell) -> None:
        super().__init__(str(path), None, tell)
        self._path, self._tried, self._problem = path, 0.0, OSError(0, "it is closed")
        self._open()

    @property
    def is_open(self) -> bool:
        """Whether there is a file to write to."""
        return self._descriptor is not None

    @property
    def reason(self) -> str:
        """Why it could not be opened."""
        return self._problem.strerror or str(self._problem)

    def _open(self) -> None:
        self._tried = time.monotonic()
        try:
            self._descriptor = open_file(self._path)
        except OSError as error:
            self._problem = error

    def _put(self, data: bytes) -> int:
        if self._descriptor is None and time.monotonic() - self._tried >= AGAIN:
            self._open()
        if self._descriptor is None:
            raise self._problem
        return super()._put(data)

    def _cut(self, count: int) -> bool:
        # Half a line would make a JSON reader stumble; and the room may be what the next line fits into.
        assert self._descriptor is not None  # noqa: S101 - for the type checker
        try:
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - count)
        except OSError:  # no regular file
            return False
        return True


class StreamSink(Sink):
    """Standard error: a pipe or socket whose reader is stuck is not waited for; anything else is written to as it is."""

    def __init__(self, stream: TextIO, tell: Tell) -> None:
        descriptor = stream.fileno()
        self._socket: socket.socket | None = None
        self._poller: select.poll | None = None
        self._stuck = False
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(kind):
            super().__init__("stderr", _own_end(descriptor), tell)
            self._poller = select.poll()
        elif stat.S_ISSOCK(kind):  # of the journal
            super().__init__("stderr", None, tell)
            self._socket = socket.socket(fileno=os.dup(descriptor))
            self._poller = select.poll()
            descriptor = self._socket.fileno()
        else:
            super().__init__("stderr", os.dup(descriptor), tell)
        if self._poller is not None:
            self._poller.register(self._descriptor if self._descriptor is not None else descriptor, select.POLLOUT)

    def _put(self, data: bytes) -> int:
        try:
            done = self._put_now(data)
        except BlockingIOError:
            if self._stuck or self._poller is None or not self._poller.poll(_PATIENCE_MS):
                self._stuck = True
                raise OSError(0, "nobody reads it") from None
            done = self._put_now(data)
        self._stuck = False
        return done

    def _put_now(self, data: bytes) -> int:
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        return super()._put(data)

    def close(self) -> None:
        """Close our own descriptor of it; standard error itself stays open."""
        if self._socket is not None:
            self._socket.close()
        super().close()


def _own_end(descriptor: int) -> int:
    """Return a descriptor of the same pipe that does not block; ``descriptor`` itself may be shared with other programs."""
    try:
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no /proc, or a pipe of another user: then it may block, as it always did
        return os.dup(descriptor)
    return own


def open_file(path: Path) -> int:
    """Open a log file for appending, made with mode 0640 when missing; return its descriptor. Raises OSError."""
    # Not the umask's choice alone: request logs hold user names and addresses. Not waiting: it may be a pipe that nobody reads.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
    os.set_blocking(descriptor, stat.S_ISREG(os.fstat(descriptor).st_mode))
    return descriptor
