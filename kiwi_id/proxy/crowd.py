"""What all connections share: who of them waits for its client, longest first; and what was refused.

Waiting is cheap for a client, so a hostile one does it a thousand times over; but for how long it has waited tells it from others,
whose request takes milliseconds. Where a place is wanted and none is left, whoever has waited longest makes room.
"""

from __future__ import annotations

from typing import Protocol

import trio

from kiwi_id.proxy.refusals import Refusals


class Waiting(Protocol):
    """One that waits for its client."""

    def make_room(self) -> None:
        """End it now."""


class Scope:
    """A wait under a cancel scope."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope

    def make_room(self) -> None:
        """End the wait."""
        self._scope.cancel()


class Crowd:
    """Those that wait, in the order in which they began to."""

    def __init__(self) -> None:
        self._members: dict[Waiting, None] = {}

    def __len__(self) -> int:
        return len(self._members)

    def join(self, member: Waiting) -> None:
        """Add one."""
        self._members[member] = None

    def leave(self, member: Waiting) -> None:
        """Take one out, if it is still there."""
        self._members.pop(member, None)

    def end_longest(self) -> bool:
        """End the one that has waited longest; return False when nobody waits."""
        for member in self._members:
            del self._members[member]
            member.make_room()
            return True
        return False


class Shared:
    """What connections share: ``heads`` wait for a request or a handshake, ``readers`` for their client to read; ``refusals``."""

    def __init__(self, refusals: Refusals | None = None) -> None:
        self.heads, self.readers = Crowd(), Crowd()
        self.refusals = refusals or Refusals()
