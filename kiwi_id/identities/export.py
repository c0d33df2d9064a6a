"""Identities → the text of a state file: sorted, without what is the default anyway, and without secrets (Kanidm shows none)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kiwi_id.identities.fields import FIELDS
from kiwi_id.identities.load import TABLES
from kiwi_id.identities.model import OUR_FIELDS, Claim, Client, Entry, Identities, Policy, Posix
from kiwi_id.identities.observe import Found

_BARE = re.compile(r"[A-Za-z0-9_-]+")
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


def text(identities: Identities, *, header: str = "") -> str:
    """Return a state file that says exactly this; ``header`` becomes a comment."""
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    if identities.prune:
        lines += ["", "prune = true"]
    for table, kind in TABLES.items():
        for name, entry in sorted(identities.of(kind).items()):
            lines += ["", f"[{table}.{_key(name)}]"]
            if name in identities.adopt:
                lines.append("adopt = true")
            lines += [f"{key} = {value}" for key, value in _lines(entry, FIELDS[kind])]
    return "\n".join(lines).lstrip("\n") + "\n"


def _lines(entry: Entry, known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for field in fields(entry):
        value = getattr(entry, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.name not in known or value == default or (field.name == "display_name" and value == entry.name):
            continue
        if isinstance(entry, Client) and field.name == "type" and value == "basic":
            continue
        yield field.name, _value(value, field.name)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name)


def _string(value: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is and TOML forbids.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any, key: str = "") -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return f'"{value}s"' if key in _TIMES else str(value)
        case str() | Path():
            return _string(str(value))
        case datetime():
            return value.strftime("%Y-%m-%dT%H:%M:%SZ")
        case tuple():
            return f"[{', '.join(map(_value, value))}]"
        case frozenset():
            return f"[{', '.join(map(_value, sorted(value)))}]"
        case Posix() | Policy():
            said = {name: one for name, one in asdict(value).items() if one not in (None, "")}
            return _table((name, _value(one, name)) for name, one in said.items())
        case Claim():
            return _table([("join", _string(value.join)), ("values", _value(value.values))])
        case Mapping():
            return _table((name, _value(one)) for name, one in sorted(value.items()))
    raise AssertionError(value)


def _table(items: Any) -> str:
    inside = ", ".join(f"{_key(name)} = {value}" for name, value in items)
    return f"{{ {inside} }}" if inside else "{}"
