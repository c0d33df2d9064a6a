"""What the front refuses, counted by kind; and logged so that a flood of refusals is no flood of lines."""

from __future__ import annotations

import time
from dataclasses import dataclass

from kiwi_id.logs import Log

log = Log("front")

# Seconds without a refusal of a kind after which the next one is news again, and its line is written at once.
QUIET = 600.0


@dataclass(slots=True)
class _Kind:
    total: int = 0
    burst: int = 0
    last: float = 0.0


class Refusals:
    """Counts refusals. A kind is the stable ``code`` of the error that the client gets, or a word for a connection that gets none.

    Of each kind the 1st, 2nd, 4th, 8th … of a burst is logged, so that an attack of any size costs some dozen lines; a burst ends
    after ten minutes of quiet.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind there were since the start, by name."""
        return {name: kind.total for name, kind in sorted(self._kinds.items())}

    def count(self, name: str, client: str, **fields: object) -> None:
        """Count one; ``client`` is its address, ``fields`` are more of its log line, when there is one."""
        kind = self._kinds.get(name)
        if kind is None:
            kind = self._kinds[name] = _Kind()
        now = time.monotonic()
        if now - kind.last > QUIET:
            kind.burst = 0
        kind.total += 1
        kind.burst += 1
        kind.last = now
        if kind.burst & (kind.burst - 1) == 0:
            log.warn("refused", kind=name, client=client, so_far=kind.total, **fields)
