"""A memory of fixed size: what was learnt lately, and nothing older than its lifetime."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory(Generic[K, V]):
    """Keeps ``most`` entries for ``lifetime`` seconds after they were last put; beyond that the oldest are forgotten."""

    def __init__(self, most: int, lifetime: float) -> None:
        self._most, self._lifetime = most, lifetime
        self._entries: dict[K, tuple[V, float]] = {}  # in the order of their ends

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: K, value: V, now: float) -> None:
        """Remember ``value`` for ``key``."""
        self._entries.pop(key, None)
        self._entries[key] = value, now + self._lifetime
        if len(self._entries) > self._most:
            del self._entries[next(iter(self._entries))]

    def get(self, key: K, now: float) -> V | None:
        """Return what was put for ``key``, or None."""
        value, ends = self._entries.get(key, (None, 0.0))
        return value if ends > now else None
