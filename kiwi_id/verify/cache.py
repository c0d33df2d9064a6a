"""Tokens that were checked already: a bounded memory, safe across threads."""

from __future__ import annotations

import threading
from typing import NamedTuple

from kiwi_id.verify.claims import Claims


class Entry(NamedTuple):
    """Claims, and between which times (Unix seconds; the second one excluded) they may be given out."""

    claims: Claims
    begins: float
    ends: float


class Cache:
    """At most ``size`` entries, by the digest of their token. When it is full, the oldest one goes.

    The oldest rather than the least recently used: tokens of one issuer live equally long, so the oldest is the next to end, and
    reading needs no lock. Refusals are not kept: whoever sends junk would push the good ones out.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: dict[bytes, Entry] = {}
        self._lock = threading.Lock()
        self.get = self._entries.get  # one call less on the way that has to be fast

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, digest: bytes, entry: Entry) -> None:
        """Remember a token that was checked."""
        if self._size <= 0:
            return
        with self._lock:
            self._entries.pop(digest, None)
            while len(self._entries) >= self._size:
                del self._entries[next(iter(self._entries))]
            self._entries[digest] = entry
