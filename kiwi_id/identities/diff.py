"""The difference between a state file and Kanidm, as steps; pure, so that ``plan`` shows exactly what ``apply`` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from kiwi_id.errors import ConfigError, Problem
from kiwi_id.identities.model import KINDS, OUR_FIELDS, Client, Entry, Group, Identities, Kind, Person, Policy, ServiceAccount
from kiwi_id.identities.observe import Found
from kiwi_id.identities.who import LeftAlone, by_final_name, who_is_who, why_not
from kiwi_id.identities.withhold import Held, withhold

Action = Literal["remove", "rename", "adopt", "create", "change"]
# Removing comes first: a name or address that is given up may be wanted by what is made in the same run.
ORDER: tuple[Action, ...] = ("remove", "adopt", "rename", "create", "change")
_TABLES: dict[Kind, str] = {"person": "persons", "group": "groups", "service_account": "service_accounts", "client": "clients"}
FEW = 10
"""So many entries may be removed in one apply, or a fifth of what is ours; for more a person must be there."""


@dataclass(frozen=True, slots=True)
class Change:
    """One field of an entry: what it is in Kanidm, and what the file says."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Step:
    """One entry to create, change, rename, adopt or remove. ``entry`` is what the file says, None for what is removed.

    ``current`` is the name in Kanidm now, empty for what is not there.
    """

    action: Action
    kind: Kind
    name: str
    current: str = ""
    entry: Entry | None = None
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """``steps`` in their order; ``foreign``: entries of the file that Kanidm has and that are not ours, each with the reason.

    ``left``: entries of ours that left the file and stay because ``prune`` is not set. ``removals_allowed`` is the guard of
    :data:`FEW`. ``held``: what of the file is not done, and why.
    """

    steps: tuple[Step, ...]
    foreign: Mapping[str, LeftAlone]
    left: tuple[tuple[Kind, str], ...]
    removals_allowed: int
    held: tuple[Held, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether Kanidm is as the file says once the steps are done."""
        return not (self.foreign or self.held)

    @property
    def removals(self) -> int:
        """How many entries are to be removed."""
        return sum(step.action == "remove" for step in self.steps)


def diff(
    wanted: Identities,
    found: Found,
    *,
    prune: bool = False,
    adopt: frozenset[str] = frozenset(),
    adopt_named: frozenset[str] = frozenset(),
) -> Difference:
    """Return what makes ``found`` like ``wanted``; ``prune`` and ``adopt`` add to what the file itself says.

    ``adopt_named``: names that a person has given one by one, so that even an entry of ours that was made under another name is
    meant. Raises ConfigError for what no step can mend: names that neither has, and a client whose type would have to change.
    """
    prune, adopt = prune or wanted.prune, adopt | wanted.adopt | adopt_named
    who = who_is_who(wanted, found, prune=prune, adopt=adopt_named)
    have = _rename(found.identities, who.renamed)
    names = by_final_name(found, who.renamed)
    ours = (who.rightful - who.renamed.keys()) | set(who.renamed.values())
    gone = [
        (kind, name)
        for kind in KINDS
        for name in have.of(kind)
        if (name in ours and wanted.kind_of(name) != kind) or (names[name] in who.odd - who.kept and wanted.kind_of(name) is None)
    ]
    steps = [Step("remove", kind, name, names[name]) for kind, name in reversed(gone)] if prune else []
    freed = {step.name for step in steps}
    have = _without(have, freed)
    foreign: dict[str, LeftAlone] = dict(who.blocked)
    meant: list[tuple[Kind, Entry, Entry | None]] = []
    for kind in KINDS:
        for name, entry in wanted.of(kind).items():
            before = have.of(kind).get(name)
            odd = names.get(name) in who.odd
            if name in foreign:
                continue
            if before is None and name in names and name not in freed:
                foreign[name] = why_not(name, kind, have.kind_of(name), ours=odd)
            elif before is not None and name not in ours and name not in (adopt_named if odd else adopt):
                foreign[name] = why_not(name, kind, kind, ours=odd)
            else:
                meant.append((kind, entry, before))
    _check(wanted, have, found, names.keys() - freed, foreign.keys())
    # Who is not the one that is meant gets nothing that was meant for that one.
    withheld = foreign.keys() | {name for name in who.odd if wanted.kind_of(name) is None}
    held: list[Held] = []
    for kind, entry, before in meant:
        name = entry.name
        asked = withhold(entry, before or _nothing(entry), withheld, takes_posix=found.takes_posix)
        held += asked.held
        if before is None:
            steps.append(Step("create", kind, name, "", entry, tuple(_changes(_nothing(entry), asked.entry, found))))
            continue
        if name not in ours and name not in found.builtin:
            steps.append(Step("adopt", kind, name, name, entry))
        if names[name] != name:
            steps.append(Step("rename", kind, name, names[name], entry, (Change("name", names[name], name),)))
        if changes := tuple(_changes(before, asked.entry, found)):
            steps.append(Step("change", kind, name, names[name], entry, changes))
    left = () if prune else tuple(gone)
    steps.sort(key=lambda step: ORDER.index(step.action))
    return Difference(tuple(steps), foreign, left, max(FEW, len(found.owned) // 5), tuple(held))


def _rename(identities: Identities, names: Mapping[str, str]) -> Identities:
    """Return the same under the names of the file, wherever they stand."""
    if not names:
        return identities

    def of(name: str) -> str:
        return names.get(name, name)

    def keyed(table: Mapping[str, Any]) -> dict[str, Any]:
        return {of(name): value for name, value in table.items()}

    groups = {
        of(g.name): replace(g, name=of(g.name), members=frozenset(map(of, g.members)), managed_by=of(g.managed_by))
        for g in identities.groups.values()
    }
    clients = {
        of(c.name): replace(
            c,
            name=of(c.name),
            scopes=keyed(c.scopes),
            supplementary_scopes=keyed(c.supplementary_scopes),
            claims={claim: replace(one, values=keyed(one.values)) for claim, one in c.claims.items()},
        )
        for c in identities.clients.values()
    }
    return Identities(
        {of(p.name): replace(p, name=of(p.name)) for p in identities.persons.values()},
        groups,
        {of(s.name): replace(s, name=of(s.name), managed_by=of(s.managed_by)) for s in identities.service_accounts.values()},
        clients,
    )


def _without(identities: Identities, gone: set[str]) -> Identities:
    """Return the same as it is when these entries were removed: Kanidm takes them out wherever they are mentioned.

    A new entry may have the name of one, and is not meant by what mentioned that.
    """
    if not gone:
        return identities

    def kept(table: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in table.items() if name not in gone}

    def manager(name: str) -> str:
        return "" if name in gone else name

    groups = {
        name: replace(g, members=g.members - gone, managed_by=manager(g.managed_by)) for name, g in kept(identities.groups).items()
    }
    clients = {}
    for name, c in kept(identities.clients).items():
        claims = {claim: replace(one, values=kept(one.values)) for claim, one in c.claims.items()}
        clients[name] = replace(
            c,
            scopes=kept(c.scopes),
            supplementary_scopes=kept(c.supplementary_scopes),
            claims={claim: one for claim, one in claims.items() if one.values},
        )
    services = {name: replace(s, managed_by=manager(s.managed_by)) for name, s in kept(identities.service_accounts).items()}
    return Identities(kept(identities.persons), groups, services, clients)


def _nothing(entry: Entry) -> Entry:
    """Return what an entry is of which only the name was said."""
    match entry:
        case Person(name):
            return Person(name)
        case Group(name):
            return Group(name)
        case ServiceAccount(name):
            # A name that none has, for the empty one would mean that Kanidm does not show it.
            return ServiceAccount(name, "\0")
        case Client(name):
            return Client(name, type=entry.type, strict_redirect_uris=False)


def _changes(before: Entry, after: Entry, found: Found) -> Iterator[Change]:
    builtin = after.name in found.builtin
    for field in fields(after):
        key = field.name
        have, want = getattr(before, key), getattr(after, key)
        if key in ("name", "type", *OUR_FIELDS) or have == want:
            continue
        if key in ("expires", "valid_from") and want is None:
            continue
        if key == "display_name" and isinstance(after, ServiceAccount) and not have:
            continue  # Kanidm 1.10 shows it to nobody but who manages the account
        if key == "display_name" and have == "\0":
            have = ""
        if key == "posix" and have and want and want.gid is None and have.shell == want.shell:
            continue
        if key == "policy" and builtin:
            want = _over(have, want)
            if want == have:
                continue
        yield Change(key, have, want)


def _over(have: Policy | None, want: Policy | None) -> Policy | None:
    """Return Kanidm's own policy with what the file says of it: what it does not say was Kanidm's choice, not nobody's."""
    said = {key: value for key, value in dataclasses.asdict(want).items() if value is not None} if want else {}
    return replace(have or Policy(), **said) if said else have


def _check(wanted: Identities, have: Identities, found: Found, there: Set[str], alone: Set[str]) -> None:
    problems: list[Problem] = []

    def refuse(kind: Kind, entry: Entry, key: str, what: str, allowed: str, fix: str) -> None:
        whole = f"{_TABLES[kind]}.{entry.name}.{key}"
        where = wanted.lines.get(whole) or wanted.places.get(entry.name, "the state file")
        problems.append(Problem(where, whole, what, allowed, fix))

    for kind in KINDS:
        for entry in wanted.of(kind).values():
            for key, name, must_be_group in _references(entry):
                exists = wanted.kind_of(name) is not None or name in there
                is_group = name in wanted.groups or (name in have.groups and wanted.kind_of(name) is None)
                if not exists:
                    refuse(kind, entry, key, f"'{name}'", "names that the state file or Kanidm has", "")
                elif must_be_group and not is_group:
                    refuse(kind, entry, key, f"'{name}', which is no group", "a group", "")
    for name, client in wanted.clients.items():
        before = have.clients.get(name)
        if before is not None and before.type != client.type and name not in alone:
            fix = "Kanidm cannot change it. Remove the client (kiwi-id client remove), then apply; its secret will be another."
            refuse("client", client, "type", f'"{client.type}", and Kanidm has a {before.type} one', f'"{before.type}"', fix)
    for name, group in wanted.groups.items():
        if name in found.builtin and (group.description or group.managed_by or group.mail or group.posix):
            fix = "Leave description, managed_by, mail and posix out."
            refuse("group", group, "adopt", "one of Kanidm's own groups with more than that", "members and policy", fix)
    if problems:
        raise ConfigError(problems)


def _references(entry: Entry) -> Iterator[tuple[str, str, bool]]:
    """Yield each name that an entry mentions, with its key, and whether it must be a group's."""
    match entry:
        case Group():
            yield from (("members", name, False) for name in sorted(entry.members))
            if entry.managed_by:
                yield "managed_by", entry.managed_by, False
        case ServiceAccount():
            yield "managed_by", entry.managed_by, False
        case Client():
            yield from (("scopes", name, True) for name in entry.scopes)
            yield from (("supplementary_scopes", name, True) for name in entry.supplementary_scopes)
            yield from ((f"claims.{key}", name, True) for key, claim in entry.claims.items() for name in claim.values)
        case Person():
            pass
