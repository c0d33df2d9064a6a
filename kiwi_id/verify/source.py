"""Where a verifier's keys come from: given once, or a file that may change below it."""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from kiwi_id.verify import keys
from kiwi_id.verify.errors import KeysError
from kiwi_id.verify.keys import Keys

# How often, at most, the file is looked at (one stat, 2 µs): a changed key is known after a second.
CHECK_SECONDS = 1.0
MAX_FILE = 1 << 20

_LOG = logging.getLogger("kiwi_id.verify")
_Seen = tuple[int, int, int, int]


class KeySource(Protocol):
    """Whatever can say which keys are good at this moment, without waiting."""

    def current(self) -> Keys:
        """Return the keys; the same object as long as they are the same."""

    def missed(self) -> None:
        """Note that a token named a key that is not among them."""


class FixedKeys:
    """Keys that do not change."""

    def __init__(self, found: Keys) -> None:
        self._keys = found

    def current(self) -> Keys:
        """Return the keys."""
        return self._keys

    def missed(self) -> None:
        """There are no others."""


class KeyFile:
    """The keys of a PEM or JWKS file, read again when it has changed; what cannot be read leaves the last good ones in place.

    A change is another inode, size or time of what the path leads to: a rewritten file, one renamed into place, and a swapped
    symbolic link anywhere on the way, as Kubernetes swaps ``..data``. ``clock`` gives seconds, ``interval`` is in them.
    """

    def __init__(self, path: str | Path, *, interval: float = CHECK_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = Path(path)
        self._interval, self._clock = interval, clock
        self._lock = threading.Lock()
        self._refused = ""
        self._seen, self._data = self._read()
        self._keys = keys.read(self._data, str(self._path))
        self._next_check = clock() + interval

    def current(self) -> Keys:
        """Return the keys; look at the file first when that is due. One thread looks, the others do not wait for it."""
        if self._clock() >= self._next_check and self._lock.acquire(blocking=False):
            try:
                self._look()
                self._next_check = self._clock() + self._interval
            finally:
                self._lock.release()
        return self._keys

    def missed(self) -> None:
        """A changed file is seen soon enough without."""

    def _look(self) -> None:
        try:
            # A file system's clock has ticks of some milliseconds: a file this young may change again and look the same.
            young = time.time_ns() - self._seen[2] < 2_000_000_000
            if not young and _seen(self._path.stat()) == self._seen:
                return
            seen, data = self._read()
            if data != self._data:
                self._keys = keys.read(data, str(self._path))
                self._data = data
                _LOG.info("%s: read anew, %d keys", self._path, len(self._keys.by_kid))
            self._seen, self._refused = seen, ""
        except (KeysError, OSError) as error:
            # Once in words, not every second; and tried again every second, for it may be in the middle of being written.
            told = f"{self._path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            if told != self._refused:
                _LOG.warning("%s; the keys read before stay in use", told)
            self._refused = told

    def _read(self) -> tuple[_Seen, bytes]:
        try:
            # Not to wait for a pipe's writer; what it is, is asked of what is open: the path may lead elsewhere by now.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise KeysError(f"{self._path}: not a file")
                with open(descriptor, "rb", closefd=False) as file:
                    data = file.read(MAX_FILE + 1)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise KeysError(f"{self._path}: {error.strerror}") from None
        if len(data) > MAX_FILE:
            raise KeysError(f"{self._path}: more than {MAX_FILE} bytes; is this the file of keys?")
        return _seen(found), data


def _seen(found: os.stat_result) -> _Seen:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
