"""What one process remembers for a moment: codes that were used, and refreshes that are being answered.

Kanidm does not keep codes single-use, and takes a refresh token that is sent twice for a theft. Both memories are short, bounded
and not shared: a replica that did not see the first use lets Kanidm judge the second.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio

_MOST = 20_000


@dataclass
class UsedCode:
    """A code that was exchanged: what it gave, so that it can be taken back when the code comes again."""

    client_id: str
    secret: str | None = field(repr=False)
    inner: str = field(repr=False)


@dataclass
class Exchange:
    """A code that is being exchanged, or was; once ``done`` is set, ``used`` is there unless it failed."""

    until: float
    done: trio.Event = field(default_factory=trio.Event)
    used: UsedCode | None = None


@dataclass
class Refresh:
    """A refresh that is being answered, or was a moment ago; once ``done`` is set, ``answer`` is there unless it failed.

    ``inner`` is Kanidm's access token in the answer, by which it can be asked whether the session still lives.
    """

    until: float
    done: trio.Event = field(default_factory=trio.Event)
    answer: dict[str, Any] | None = field(default=None, repr=False)
    inner: str = field(default="", repr=False)


_Record = TypeVar("_Record", Exchange, Refresh)


class Memory:
    """Both memories; keys are digests, so that no token is kept as such."""

    def __init__(self) -> None:
        self._codes: OrderedDict[bytes, Exchange] = OrderedDict()
        self._refreshes: OrderedDict[bytes, Refresh] = OrderedDict()

    def join_code(self, code: str, *, lifetime: float) -> tuple[bool, Exchange]:
        """Return whether this is the first to send ``code`` within ``lifetime`` seconds, and the record that all share."""
        self._forget()
        key = _digest(code)
        present = self._codes.get(key)
        if present is not None:
            return False, present
        record = self._codes[key] = Exchange(time.monotonic() + lifetime)
        return True, record

    def free_code(self, code: str) -> None:
        """Give a code back: its exchange failed in a way that did not use it up."""
        self._codes.pop(_digest(code), None)

    def join_refresh(self, token: str, credentials: str, *, window: float) -> tuple[bool, Refresh]:
        """Return whether this is the first to send ``token`` within ``window`` seconds, and the record that all share.

        ``credentials`` are part of the key: another client with a stolen token gets no answer from here.
        """
        self._forget()
        key = _digest(token + "\0" + credentials)
        present = self._refreshes.get(key)
        if present is not None:
            return False, present
        record = self._refreshes[key] = Refresh(time.monotonic() + window)
        return True, record

    def drop_refresh(self, token: str, credentials: str) -> None:
        """Forget a refresh that failed, so that the next one is asked anew."""
        self._refreshes.pop(_digest(token + "\0" + credentials), None)

    def _forget(self) -> None:
        now = time.monotonic()
        _forget(self._codes, now)
        _forget(self._refreshes, now)


def _forget(records: OrderedDict[bytes, _Record], now: float) -> None:
    while records:
        key, record = next(iter(records.items()))
        if record.until >= now and len(records) <= _MOST:
            return
        del records[key]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
