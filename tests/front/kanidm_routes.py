"""The table of Kanidm's routes (tests/data/kanidm_routes.txt), for tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).parents[1] / "data" / "kanidm_routes.txt"


@dataclass(frozen=True, slots=True)
class Route:
    """One route: a path with ``{}`` for one segment each, and a method; ``version`` is "1.5" or "1.10", or "both"."""

    path: str
    method: str
    closed: bool
    version: str

    def __str__(self) -> str:
        """Return what a failure should name."""
        return f"{self.method} {self.path}"

    def filled(self, value: str = "x") -> str:
        """Return the path with ``value`` in each place that is free."""
        return self.path.replace("{}", value)


def routes() -> list[Route]:
    """Return all rows."""
    rows = [line.split() for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    return [
        Route(path, method, state == "closed", version)
        for state, version, _file, methods, path in rows
        for method in methods.split(",")
    ]
