"""What one process remembers for a moment: codes that were used, and refreshes that are being answered.

Kanidm does not keep codes single-use, and takes a refresh token that is sent twice for a theft. Both memories are short, bounded
and not shared: a replica that did not see the first use lets Kanidm judge the second.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import trio

_MOST = 20_000


@dataclass
class UsedCode:
    """A code that was exchanged: what it gave, so that it can be taken back when the code comes again."""

    client_id: str
    secret: str | None = field(repr=False)
    inner: str = field(repr=False)


@dataclass
class Refresh:
    """A refresh that is being answered, or was a moment ago; ``answer`` is there once ``done`` is set."""

    until: float
    done: trio.Event = field(default_factory=trio.Event)
    answer: dict[str, Any] | None = field(default=None, repr=False)


class Memory:
    """Both memories; keys are digests, so that no token is kept as such."""

    def __init__(self) -> None:
        self._codes: OrderedDict[bytes, UsedCode | None] = OrderedDict()
        self._refreshes: OrderedDict[bytes, Refresh] = OrderedDict()
        self._expiry: OrderedDict[bytes, float] = OrderedDict()

    def claim_code(self, code: str, *, lifetime: float) -> tuple[bool, UsedCode | None]:
        """Take a code for oneself; return whether it was free, and else what it gave (None: its exchange is not over)."""
        self._forget()
        key = _digest(code)
        if key in self._expiry:
            return False, self._codes.get(key)
        self._expiry[key] = time.monotonic() + lifetime
        return True, None

    def code_gave(self, code: str, used: UsedCode) -> None:
        """Note what a code gave."""
        self._codes[_digest(code)] = used

    def free_code(self, code: str) -> None:
        """Give a code back: its exchange failed in a way that did not use it up."""
        self._expiry.pop(_digest(code), None)

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
        while self._expiry and (len(self._expiry) > _MOST or next(iter(self._expiry.values())) < now):
            key, _ = self._expiry.popitem(last=False)
            self._codes.pop(key, None)
        while self._refreshes:
            key, record = next(iter(self._refreshes.items()))
            if record.until >= now and len(self._refreshes) <= _MOST:
                break
            del self._refreshes[key]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
