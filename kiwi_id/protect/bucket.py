"""Buckets that fill again with time: one number each, a fixed number of them, and no clock of their own.

The arithmetic is GCRA, the "virtual scheduling algorithm" of ITU-T I.371 (Annex A), which is a token bucket kept as the one moment
at which it will be full again. Moments are whole nanoseconds: with fractions, the last of a hundred tokens is lost to rounding.
"""

from __future__ import annotations

from collections.abc import Hashable

from kiwi_id.values import Rate

# Some 300 bytes each. Who wants the failures of one key forgotten must fail with as many others.
MOST = 16384
_SECOND = 1_000_000_000


class Buckets:
    """A bucket for each key: ``rate.count`` tokens at most, filled again within ``rate.period``; without a rate, never empty.

    Keys that have not spent anything, or whose bucket is full again, cost nothing. Beyond ``most`` keys, the one that has spent
    least recently is forgotten. ``now`` is a time in seconds on any one clock that does not go back.
    """

    def __init__(self, rate: Rate | None, most: int = MOST) -> None:
        self._most = most
        self._full_at: dict[Hashable, int] = {}  # in the order of the last spending
        self._rate: Rate | None = None
        self._period = self._token = 0
        self._set(rate)

    def __len__(self) -> int:
        return len(self._full_at)

    def _set(self, rate: Rate | None) -> None:
        self._rate = rate
        self._period = int(rate.period * _SECOND) if rate is not None else 0
        # Rounded down, so that the tokens of a full bucket fit into its period.
        self._token = self._period // rate.count if rate is not None else 0

    def wait(self, key: Hashable, now: float) -> float:
        """Return the seconds until there is a whole token; 0.0 when there is one now."""
        full_at = self._full_at.get(key)
        if full_at is None:
            return 0.0
        at = int(now * _SECOND)
        lack = max(full_at, at) + self._token - self._period - at
        return lack / _SECOND if lack > 0 else 0.0

    def spend(self, key: Hashable, now: float, share: float = 1.0) -> None:
        """Take ``share`` of a token, whether or not there is one: what is owed, one full bucket at most, is filled first."""
        if self._rate is None:
            return
        at = int(now * _SECOND)
        full_at = max(self._full_at.pop(key, at), at) + int(self._token * share)
        self._full_at[key] = min(full_at, at + 2 * self._period)
        if len(self._full_at) > self._most:
            del self._full_at[next(iter(self._full_at))]

    def give_back(self, key: Hashable) -> None:
        """Return a whole token that was taken and turned out not to be due."""
        if key in self._full_at:
            self._full_at[key] -= self._token

    def change(self, rate: Rate | None, now: float) -> None:
        """Put another rate into force; tokens that were spent, and are not filled again, stay spent."""
        before = self._token
        if rate == self._rate:
            return
        self._set(rate)
        if rate is None:
            self._full_at.clear()
        at = int(now * _SECOND)
        for key, full_at in list(self._full_at.items()):
            if full_at <= at:
                del self._full_at[key]
            else:
                self._full_at[key] = min(at + (full_at - at) * self._token // before, at + 2 * self._period)
