"""Who may try, and what a try costs: the policy, without any HTTP. docs/protection.md says why it is this one.

A *name* is an account or an OAuth2 client, a *place* an address or a network of IPv6. A name is *known* at a place where it has
succeeded lately. Whoever is known there is held back by the failures of that name at that place alone, so that neither strangers
elsewhere nor neighbours behind the same address can shut it out; strangers are held back by all that is counted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import trio

from kiwi_id.config import Protection
from kiwi_id.protect.bucket import MOST, Buckets
from kiwi_id.protect.memory import Memory
from kiwi_id.values import Rate

# What a stranger's harmless request costs its place, in failures: a login that is begun, a token request that is only malformed.
TWENTIETH = 0.05
# A month: people come back after their holidays.
KNOWN_FOR = 30 * 86400.0
_IPV6_PREFIX = 64
# Whose UUID it is nobody here knows, so its failures cannot be counted with those of the name: they come on top. Kanidm locks an
# account after a hundred in a day, of which the limits of names leave 96 at most; this leaves 3, and nobody types a UUID.
BY_UUID = Rate(2, 2 * 86400.0)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@lru_cache(maxsize=4096)
def place_of(client: str) -> str:
    """Return where a client is: its IPv4 address, or its IPv6 network.

    A /64 is the least that one household or one rented machine gets (RFC 6177), so addresses in it prove nothing.
    """
    try:
        address = ipaddress.ip_address(client)
    except ValueError:  # a peer on a Unix socket
        return client
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((int(address) >> 64 << 64, _IPV6_PREFIX)))
        address = address.ipv4_mapped
    return str(address)


@dataclass(frozen=True, slots=True)
class Over:
    """A refusal: ``limit`` is the key of ``[protection]``, ``name`` the account or client it is about, or empty."""

    limit: str
    seconds: float
    name: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """The keys of ``[protection]`` that one ledger goes by; ``name`` is empty where names have no limit of their own."""

    place: str
    name: str
    pair: str


LOGINS = Limits("login_failures_per_address", "login_failures_per_account", "login_failures_per_account_and_address")
# A client's secret is random and cannot be guessed: to count its failures from everywhere would only let strangers shut it out.
TOKENS = Limits("token_failures_per_address", "", "token_failures_per_client")


class Ledger:
    """The failures of one kind of secret, with times of Trio's clock."""

    def __init__(self, limits: Limits, protection: Protection, most: int = MOST) -> None:
        self._limits = limits
        self.failures = 0
        self._places, self._names, self._pairs = (Buckets(rate, most) for rate in self._rates(protection))
        self._uuids = Buckets(self._rate_by_uuid(protection), most)
        self._known: Memory[tuple[str, str], bool] = Memory(most, KNOWN_FOR)

    def __len__(self) -> int:
        """How many places, names and pairs something is kept about."""
        return len(self._places) + len(self._names) + len(self._pairs) + len(self._uuids) + len(self._known)

    def _rates(self, protection: Protection) -> list[Rate | None]:
        keys = (self._limits.place, self._limits.name, self._limits.pair)
        return [getattr(protection, key) if key else None for key in keys]

    def _rate_by_uuid(self, protection: Protection) -> Rate | None:
        """Only accounts have one; and where names are not limited, neither are UUIDs."""
        of_names = protection.login_failures_per_account, protection.login_failures_per_account_and_address
        return BY_UUID if self._limits.name and any(of_names) else None

    def _by_uuid(self, place: str, names: tuple[str, ...], strangers: tuple[str, ...]) -> Iterator[tuple[str, str, Hashable]]:
        """Yield the buckets of those names that are UUIDs: limit, name and key. All accounts at a place share one for strangers."""
        for name in filter(_UUID.fullmatch, names):
            yield self._limits.pair, name, (name, place)
            if name in strangers:
                yield self._limits.name, name, name
                yield self._limits.pair, name, ("", place)

    def change(self, protection: Protection) -> None:
        """Put other limits into force; what was counted stays counted."""
        now = trio.current_time()
        for buckets, rate in zip((self._places, self._names, self._pairs), self._rates(protection), strict=True):
            buckets.change(rate, now)
        self._uuids.change(self._rate_by_uuid(protection), now)

    def attempt(self, client: str, names: tuple[str, ...]) -> Attempt | Over:
        """Let a client try for ``names`` (usually one; none when it is not known for whom), or say how long it has to wait.

        A stranger's place pays in advance, so that a thousand tries at once are no more than a thousand in a row.
        """
        now, place = trio.current_time(), place_of(client)
        strangers = tuple(name for name in names if not self._known.get((name, place), now))
        waits = [Over(self._limits.pair, self._pairs.wait((name, place), now), name) for name in names]
        waits += [Over(self._limits.name, self._names.wait(name, now), name) for name in strangers]
        waits += [Over(limit, self._uuids.wait(key, now), name) for limit, name, key in self._by_uuid(place, names, strangers)]
        strange = bool(strangers) or not names
        if strange:
            waits.append(Over(self._limits.place, self._places.wait(place, now)))
        longest = max(waits, key=lambda over: over.seconds)
        if longest.seconds:
            return longest
        if strange:
            self._places.spend(place, now)
        return Attempt(self, place, names, strangers, strange)

    # -- for Attempt ---------------------------------------------------------------------------------------------------------

    def charge(self, place: str, names: tuple[str, ...], strangers: tuple[str, ...]) -> None:
        """Count a failure of names at a place."""
        self.failures += 1
        now = trio.current_time()
        for name in names:
            self._pairs.spend((name, place), now)
        for name in strangers:
            self._names.spend(name, now)
        for _, _, key in self._by_uuid(place, names, strangers):
            self._uuids.spend(key, now)

    def give_back(self, place: str, share: float) -> None:
        """Return to a place what it paid in advance, but for ``share``."""
        self._places.give_back(place)
        if share:
            self._places.spend(place, trio.current_time(), share)

    def remember(self, name: str, place: str) -> None:
        """Take note that a name has succeeded at a place."""
        self._known.put((name, place), True, trio.current_time())


@dataclass(slots=True)
class Attempt:
    """One try that was let through; exactly one of its methods is to be called, once, when it is known how it ended."""

    _ledger: Ledger
    _place: str
    _names: tuple[str, ...]
    _strangers: tuple[str, ...]
    _paid: bool
    _open: bool = field(default=True)

    def failed(self, *, nameless: bool = False) -> None:
        """It was wrong. ``nameless``: there is no such name, so that only the place is charged."""
        if self._close():
            self._ledger.charge(self._place, () if nameless else self._names, () if nameless else self._strangers)

    def passed(self, *, proven: bool = True) -> None:
        """It was right. ``proven``: by a secret of the name's, which is known at this place from now on."""
        if self._close():
            self._settle()
            # Whoever names two at once has proven one of them, and nobody knows which.
            if proven and len(self._names) == 1:
                self._ledger.remember(self._names[0], self._place)

    def void(self, share: float = 0.0) -> None:
        """It was neither; a stranger's place pays ``share`` of a failure for it."""
        if self._close():
            self._settle(share)

    def _close(self) -> bool:
        was, self._open = self._open, False
        return was

    def _settle(self, share: float = 0.0) -> None:
        if self._paid:
            self._ledger.give_back(self._place, share)
