"""Which known faults a version of Kanidm has, and whether it is supported still: from advisories.toml, whose date is told.

A list that comes with the program and no question to the network: an identity server has no business calling out, and a list that
says its age misleads nobody.
"""

from __future__ import annotations

import calendar
import datetime
import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Severity = Literal["low", "moderate", "high", "critical"]
SEVERITIES: tuple[Severity, ...] = ("low", "moderate", "high", "critical")
Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Advisory:
    """One fault: ``affected`` are ranges of versions, the end excluded; ``needs`` a feature of Kanidm, "" for any instance."""

    id: str
    severity: Severity
    what: str
    affected: tuple[tuple[str, str], ...]
    fixed: tuple[str, ...]
    source: str
    needs: str = ""

    def affects(self, version: str) -> bool:
        """Tell whether a version of Kanidm has it."""
        number = numbers(version)
        return any((not low or numbers(low) <= number) and number < numbers(high) for low, high in self.affected)

    def as_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return asdict(self) | {"affected": [list(pair) for pair in self.affected], "fixed": list(self.fixed)}


@dataclass(frozen=True, slots=True)
class Known:
    """The whole list, as of ``date``; ``newest`` is the newest stable Kanidm of that day."""

    date: datetime.date
    newest: str
    releases: dict[str, datetime.date]
    support_months: int
    advisories: tuple[Advisory, ...]

    def for_version(self, version: str, *, ldap: bool) -> list[Advisory]:
        """Return what concerns an instance of this version, the worst first; without ``ldap`` nothing that needs LDAP."""
        found = [one for one in self.advisories if one.affects(version) and (not one.needs or ldap)]
        return sorted(found, key=lambda one: -SEVERITIES.index(one.severity))

    def supported_until(self, version: str) -> datetime.date | None:
        """Return the last day on which Kanidm mends this version's faults; None for a minor version that the list does not know."""
        released = self.releases.get(".".join(version.split(".")[:2]))
        return _months_later(released, self.support_months) if released else None


def numbers(version: str) -> Version:
    """Return the numbers of a version such as "1.10.5" or "1.11.0-dev"."""
    return tuple(int(part) for part in version.partition("-")[0].partition("+")[0].split("."))


@cache
def load() -> Known:
    """Read the list that this release came with."""
    table = tomllib.loads(Path(__file__).with_name("advisories.toml").read_text(encoding="utf-8"))
    return Known(
        date=table["date"],
        newest=table["newest"],
        releases=table["releases"],
        support_months=table["support_months"],
        advisories=tuple(
            Advisory(**row | {"affected": tuple((low, high) for low, high in row["affected"]), "fixed": tuple(row["fixed"])})
            for row in table["advisory"]
        ),
    )


def _months_later(day: datetime.date, months: int) -> datetime.date:
    years, month = divmod(day.month - 1 + months, 12)
    year, month = day.year + years, month + 1
    return datetime.date(year, month, min(day.day, calendar.monthrange(year, month)[1]))
