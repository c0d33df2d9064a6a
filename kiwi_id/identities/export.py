"""Identities → the text of a state file: sorted, without what is the default anyway, and without secrets (Kanidm shows none)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kiwi_id.errors import ConfigError
from kiwi_id.identities.fields import FIELDS, Field, entry_name
from kiwi_id.identities.load import TABLES, parse
from kiwi_id.identities.model import OUR_FIELDS, Claim, Client, Entry, Identities, Policy, Posix
from kiwi_id.identities.observe import Found
from kiwi_id.identities.sound import sound
from kiwi_id.values import Refused

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_FILE = Path("export")
_TIMES = frozenset({"session_expiry", "privilege_expiry"})


def of_instance(found: Found, known: Mapping[str, Client] = MappingProxyType({})) -> Identities:
    """Return what of an instance belongs into a state file; ``known`` are the clients of its state file of now.

    Kanidm's own groups are there when they have members or a policy, and with ``adopt``, which every instance needs for those.
    Where chosen secrets are, ``known`` says: Kanidm does not know of them.
    """
    every = found.identities
    kept = {name: group for name, group in every.groups.items() if name not in found.builtin or group.members or group.policy}
    # What a session may not read is shown as a UUID; no other instance has that.
    groups = {
        name: replace(group, members=frozenset(name for name in group.members if name in found.uuids))
        for name, group in kept.items()
    }
    clients = {name: _with_secrets(client, known.get(name)) for name, client in every.clients.items()}
    return Identities(every.persons, groups, every.service_accounts, clients, adopt=frozenset(groups.keys() & found.builtin))


def _with_secrets(client: Client, known: Client | None) -> Client:
    if known is None or client.type == "public":
        return client
    return replace(client, **{name: getattr(known, name) for name in OUR_FIELDS})


@dataclass(frozen=True, slots=True)
class Exported:
    """The text of a state file, and in words what could not be written into it and is a comment there."""

    text: str
    left_out: tuple[str, ...] = ()


def text(identities: Identities, *, header: str = "") -> str:
    """Return a state file that says exactly this; ``header`` becomes a comment."""
    return export(identities, header=header).text


def export(identities: Identities, *, header: str = "") -> Exported:
    """Return a state file that says this, as far as a state file may: what Kiwi ID would refuse is a comment with the reason.

    The text is read back, so that what is wrong with an entry as a whole is found, too.
    """
    left_out: dict[str, str] = {}
    for _ in range(sum(len(identities.of(kind)) for kind in TABLES.values()) + 1):
        lines, told = _file(identities, header, left_out)
        try:
            parse([(_FILE, "\n".join(lines))])
        except ConfigError as error:
            before = len(left_out)
            for problem in error.problems:
                name = _entry_at(lines, problem.where)
                left_out.setdefault(name, f"{problem.key}: found {problem.found}; allowed: {problem.allowed}")
            if len(left_out) == before:  # pragma: no cover - every problem is below some table
                raise
        else:
            return Exported("\n".join(lines).lstrip("\n") + "\n", tuple(told))
    raise AssertionError("an entry that is a comment cannot be refused")


def _entry_at(lines: list[str], where: str) -> str:
    """Return the header of the table in which the line of a problem is."""
    number = int(where.rpartition(":")[2])
    return next(line for line in reversed(lines[:number]) if line.startswith("["))


def _file(identities: Identities, header: str, left_out: Mapping[str, str]) -> tuple[list[str], list[str]]:
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    told: list[str] = []
    if identities.prune:
        lines += ["", "prune = true"]
    for table, kind in TABLES.items():
        for name, entry in sorted(identities.of(kind).items()):
            title = f"[{table}.{_key(name)}]"
            adopt = ["adopt = true"] if name in identities.adopt else []
            block = [title, *adopt, *_lines(entry, FIELDS[kind], title.strip("[]"), told)]
            if why := _bad_name(name) or left_out.get(title):
                told.append(f"{title}: {why}")
                block = [f"# Left out, for Kiwi ID refuses it: {why}", *(f"# {line}" for line in block)]
            lines += ["", *block]
    return lines, told


def _bad_name(name: str) -> str:
    try:
        entry_name(name)
    except Refused as refused:
        return f"found {refused.found}; allowed: {refused.allowed}"
    return ""


def _lines(entry: Entry, known: Mapping[str, Field], title: str, told: list[str]) -> Iterator[str]:
    for field in fields(entry):
        value = getattr(entry, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.name not in known or value == default or (field.name == "display_name" and value == entry.name):
            continue
        if isinstance(entry, Client) and field.name == "type" and value == "basic":
            continue
        good = sound(known[field.name], _plain(value, field.name))
        if good.value is not None:
            yield f"{field.name} = {_toml(good.value)}"
        for part, refused in good.left_out:
            why = f"found {refused.found}; allowed: {refused.allowed}"
            told.append(f"{title}.{field.name}: {why}")
            yield f"# Left out, for Kiwi ID refuses it: {why}"
            yield f"# {field.name} = {_toml(part)}"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name)


def _string(value: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is and TOML forbids; and for people a line is a line.
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _plain(value: Any, key: str = "") -> Any:
    """Return a value of the model as tomllib would read it."""
    match value:
        case bool() | str() | datetime():
            return value
        case int():
            return f"{value}s" if key in _TIMES else value
        case Path():
            return str(value)
        case tuple():
            return [_plain(one) for one in value]
        case frozenset():
            return [_plain(one) for one in sorted(value)]
        case Posix() | Policy():
            return {name: _plain(one, name) for name, one in asdict(value).items() if one not in (None, "")}
        case Claim():
            return {"join": value.join, "values": _plain(value.values)}
        case Mapping():
            return {name: _plain(one) for name, one in sorted(value.items())}
    raise AssertionError(value)


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return _string(value)
        case datetime():
            return value.strftime("%Y-%m-%dT%H:%M:%SZ")
        case list():
            return f"[{', '.join(map(_toml, value))}]"
    inside = ", ".join(f"{_key(name)} = {_toml(one)}" for name, one in value.items())
    return f"{{ {inside} }}" if inside else "{}"
