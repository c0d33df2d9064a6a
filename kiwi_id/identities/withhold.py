"""What of a state file is not asked of Kanidm, and told instead. Pure.

References to what is left alone: what is meant for an entry of the file must not go to a namesake. And what would be refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

from kiwi_id.identities.model import Claim, Client, Entry, Group, Kind, Person, Posix, ServiceAccount

NO_POSIX = (
    "Kanidm lets Kiwi ID's account give POSIX attributes to a person, and not take them. Write 'posix' again, or remove the person "
    "and make them anew; from Kanidm 1.10 on idm_admin may take them (--recover)"
)


@dataclass(frozen=True, slots=True)
class Held:
    """Something of the file that is held back: the entry and the key that have it, and why."""

    kind: Kind
    name: str
    field: str
    reason: str


def _namesake(kind: Kind, name: str, field: str, reference: str) -> Held:
    return Held(kind, name, field, f"nothing is given to {reference}, which is left alone")


@dataclass(frozen=True, slots=True)
class Asked:
    """An entry without such references, where Kanidm has none of them already, and those that are held back."""

    entry: Entry
    held: tuple[Held, ...] = ()


def withhold(entry: Entry, have: Entry, names: Set[str], *, takes_posix: bool) -> Asked:
    """Return what may be asked of Kanidm for ``entry``, which is ``have`` there: of ``names`` all stays as it is.

    ``takes_posix``: whether POSIX attributes can be taken from a person.
    """
    match entry, have:
        case Group(), Group():
            members = (entry.members - names) | (have.members & names)
            held = [_namesake("group", entry.name, "members", name) for name in sorted(entry.members - members)]
            manager, more = _manager("group", entry.name, entry.managed_by, have.managed_by, names)
            return Asked(replace(entry, members=members, managed_by=manager), (*held, *more))
        case ServiceAccount(), ServiceAccount():
            manager, more = _manager("service_account", entry.name, entry.managed_by, have.managed_by, names)
            return Asked(replace(entry, managed_by=manager), more)
        case Client(), Client():
            return _client(entry, have, names)
        case Person(posix=None), Person(posix=Posix()) if not takes_posix:
            return Asked(replace(entry, posix=have.posix), (Held("person", entry.name, "posix", NO_POSIX),))
    return Asked(entry)


def _manager(kind: Kind, name: str, want: str, have: str, names: Set[str]) -> tuple[str, tuple[Held, ...]]:
    if want not in names or want == have:
        return want, ()
    return have, (_namesake(kind, name, "managed_by", want),)


def _client(entry: Client, have: Client, names: Set[str]) -> Asked:
    held: list[Held] = []

    def some(key: str, want: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
        held.extend(_namesake("client", entry.name, key, name) for name in want if name in names and want[name] != there.get(name))
        rest = {name: value for name, value in want.items() if name not in names}
        return dict(sorted({**rest, **{name: value for name, value in there.items() if name in names}}.items()))

    scopes = some("scopes", entry.scopes, have.scopes)
    supplementary = some("supplementary_scopes", entry.supplementary_scopes, have.supplementary_scopes)
    claims: dict[str, Claim] = {}
    for key in sorted({*entry.claims, *have.claims}):
        want, there = entry.claims.get(key, have.claims.get(key, Claim())), have.claims.get(key, Claim())
        values = some(f"claims.{key}", entry.claims[key].values if key in entry.claims else {}, there.values)
        if values:
            claims[key] = replace(want, values=values)
    return Asked(replace(entry, scopes=scopes, supplementary_scopes=supplementary, claims=claims), tuple(held))
