"""Who is who: which entries of Kanidm the names of a state file mean. Pure.

A name alone says nothing: Kanidm lets every person rename herself. What an entry of ours was made for, or adopted as, its mark
says (:mod:`kiwi_id.identities.marks`); one that is called otherwise now is renamed back or left alone, never taken for another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kiwi_id.identities.model import KINDS, Identities, Kind
from kiwi_id.identities.observe import Found

ADOPT = "To take it over: --adopt {name}, or 'adopt = true'"
_BY_HAND = "If it is the right one: kiwi-id apply --adopt {name}. Else rename it back in Kanidm."
_FREE = "Rename {name} in Kanidm, or remove it there; or choose another name in the file."


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """Why an entry of the file is left alone, and what a person can do."""

    reason: str
    fix: str


@dataclass(slots=True)
class Who:
    """``renamed``: names in Kanidm of entries of ours that get back the name they stand under. ``blocked``: names that do not.

    ``rightful``: names in Kanidm of ours that are called as they were made. ``kept``: names in Kanidm of ours that must not be
    removed although no name of the file is theirs now. ``odd``: all other names in Kanidm of ours that were renamed.
    """

    renamed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, LeftAlone] = field(default_factory=dict)
    rightful: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    odd: set[str] = field(default_factory=set)


def who_is_who(wanted: Identities, found: Found, *, prune: bool, adopt: frozenset[str]) -> Who:
    """Return who is who; ``adopt`` are names that somebody has named one by one, which counts more than a mark."""
    who = Who()
    for kind in KINDS:
        claims: dict[str, list[str]] = {}
        for current in found.identities.of(kind):
            if current not in found.owned:
                continue
            if found.was(kind, current, current):
                who.rightful.add(current)
                continue
            who.odd.add(current)
            for name in [name for name in wanted.of(kind) if found.was(kind, current, name)]:
                claims.setdefault(name, []).append(current)
        for name, claimants in claims.items():
            _claim(who, wanted, found, kind, name, claimants, adopt)
    while blocked := [(current, name) for current, name in who.renamed.items() if not _is_free(who, wanted, found, name, prune)]:
        for current, name in blocked:
            _block(who, name, [current], f"Kanidm has another of that name, and the one that is ours is called {current} now")
            del who.renamed[current]
    who.odd -= who.renamed.keys()
    return who


def _claim(who: Who, wanted: Identities, found: Found, kind: Kind, name: str, claimants: list[str], adopt: frozenset[str]) -> None:
    if name in found.identities.of(kind) and (name in adopt or (name in found.owned and found.was(kind, name, name))):
        return  # it is there; who else was made for it is another by now
    match claimants:
        case [current]:
            who.renamed[current] = name
        case _:
            _block(who, name, claimants, f"Kiwi ID has made more than one for it, which are called {', '.join(claimants)} now")


def _block(who: Who, name: str, currents: list[str], reason: str) -> None:
    who.blocked[name] = LeftAlone(reason, _FREE.format(name=name))
    who.kept.update(currents)


def _is_free(who: Who, wanted: Identities, found: Found, name: str, prune: bool) -> bool:
    """Tell whether an entry can get this name: nobody has it, or who has it moves on or goes."""
    if name not in found.uuids or name in who.renamed:
        return True
    kind = found.identities.kind_of(name)
    return prune and name in who.rightful and kind is not None and wanted.kind_of(name) != kind


def why_not(name: str, kind: Kind, kind_there: Kind | None, *, ours: bool) -> LeftAlone:
    """Return why what Kanidm has of this name is not what the file means."""
    if kind_there is None:
        return LeftAlone("Kanidm has an account of its own of that name", "Choose another name in the file.")
    if kind_there != kind:
        return LeftAlone(f"Kanidm has a {kind_there.replace('_', ' ')} of that name", _FREE.format(name=name))
    if ours:
        return LeftAlone("Kanidm has it, but it was made under another name: somebody has renamed it", _BY_HAND.format(name=name))
    return LeftAlone("Kanidm has it, and Kiwi ID did not make it", ADOPT.format(name=name))


def by_final_name(found: Found, renamed: Mapping[str, str]) -> dict[str, str]:
    """Return the name in Kanidm now of every entry, by the name it will have."""
    return {renamed.get(name, name): name for name in found.uuids}
