"""State files → :class:`Identities`: strict, with every problem of every file told at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kiwi_id import toml, values
from kiwi_id.config_keys import CLIENT_KEYS
from kiwi_id.errors import ConfigError, ConfigMissing, Problem
from kiwi_id.identities.fields import FIELDS, Field, entry_name
from kiwi_id.identities.model import Client, Entry, Group, Identities, Kind, Person, ServiceAccount
from kiwi_id.instance.files import read_file
from kiwi_id.values import Refused

TABLES: dict[str, Kind] = {"persons": "person", "groups": "group", "service_accounts": "service_account", "clients": "client"}
_MAKE = {"person": Person, "group": Group, "service_account": ServiceAccount, "client": Client}


@dataclass(slots=True)
class _Gathered:
    entries: dict[Kind, dict[str, Entry]] = field(default_factory=lambda: {kind: {} for kind in _MAKE})  # type: ignore[misc]
    places: dict[str, str] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)
    wishes: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Members by their own table: group, member, place, key."""
    adopt: set[str] = field(default_factory=set)
    prune: tuple[str, bool] | None = None
    problems: list[Problem] = field(default_factory=list)


def files_of(path: Path, *, missing_ok: bool = False) -> list[Path]:
    """Return the state files that ``path`` means, in order: it and those of its ``.d`` directory, or those of a directory.

    Raises ConfigMissing when there is none, unless ``missing_ok``; ConfigError when that cannot be told.
    """
    try:
        if path.is_dir():
            found = sorted(path.glob("*.toml"))
        else:
            beside = path.with_suffix(".d")
            more = sorted(beside.glob("*.toml")) if beside.is_dir() else [beside] if beside.is_symlink() else []
            # A link to nothing is no absence: with prune, all that is in that file would go.
            here = path.is_symlink() or path.exists()
            found = [*([path] if here else []), *more]
    except OSError as error:  # a directory on the way that this user may not enter
        reason = (error.strerror or str(error)).lower()
        raise ConfigError([Problem(str(path), "", reason, "a state file, or a directory of them, that can be read", "")]) from None
    if not found and not missing_ok:
        fix = "Write one (docs/identities.md has an example), or make it from what Kanidm has: kiwi-id export"
        raise ConfigMissing([Problem(str(path), "", "no state file", "a TOML file, or a directory of *.toml", fix)])
    return found


def load(path: Path) -> Identities:
    """Read and check all files that ``path`` means. Raises ConfigError with every problem, ConfigMissing."""
    texts: list[tuple[Path, str]] = []
    problems: list[Problem] = []
    for file in files_of(path):
        try:
            text = read_file(file).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            found = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "bytes that are not UTF-8"
            if file.is_symlink() and isinstance(error, FileNotFoundError):
                found = "a symbolic link to nothing"
            problems.append(Problem(str(file), "", found, "a readable TOML file in UTF-8", ""))
            continue
        if text.startswith("\ufeff"):
            fix = "Save it as UTF-8 without that mark."
            problems.append(Problem(f"{file}:1", "", "a byte order mark (BOM) before the text", "TOML", fix))
        texts.append((file, text.removeprefix("\ufeff")))
    return parse(texts, problems)


def parse(texts: list[tuple[Path, str]], problems: list[Problem] | None = None) -> Identities:
    """Check the texts of state files, each with the name for its errors. Raises ConfigError."""
    gathered = _Gathered(problems=list(problems or []))
    for file, text in texts:
        try:
            lines = toml.line_numbers(text)
            _read(toml.parse(text, file), lines, file, gathered)
            gathered.lines |= {key: f"{file}:{line}" for key, line in lines.items()}
        except ConfigError as error:
            gathered.problems += error.problems
    # A person's groups and a group's members are one relation; a name that is no group of the files is a typo, more often than not.
    groups: dict[str, Any] = dict(gathered.entries["group"])
    members: dict[str, set[str]] = {name: set(group.members) for name, group in groups.items()}
    for group, member, where, key in gathered.wishes:
        if group in members:
            members[group].add(member)
        else:
            close = difflib.get_close_matches(group, members, n=1)
            fix = f"Did you mean '{close[0]}'?" if close else f"Add [groups.{group}], with 'adopt = true' if Kanidm has it already."
            gathered.problems.append(Problem(where, key, f"'{group}'", "groups that the state file has", fix))
    if gathered.problems:
        raise ConfigError(gathered.problems)
    made: Any = gathered.entries
    return Identities(
        persons=made["person"],
        groups={name: _with_members(group, members[name]) for name, group in groups.items()},
        service_accounts=made["service_account"],
        clients=made["client"],
        prune=gathered.prune is not None and gathered.prune[1],
        adopt=frozenset(gathered.adopt),
        places=gathered.places,
        lines=gathered.lines,
    )


def _with_members(group: Group, members: set[str]) -> Group:
    return Group(group.name, group.description, frozenset(members), group.managed_by, group.mail, group.posix, group.policy)


def _read(table: dict[str, Any], lines: dict[str, int], file: Path, gathered: _Gathered) -> None:
    def refuse(key: str, found: str, allowed: str, fix: str = "") -> None:
        line = next((lines[part] for part in _prefixes(key) if part in lines), None)
        if line is None:  # a table that is there only through those in it
            line = next((number for name, number in lines.items() if name.startswith(f"{key}.")), None)
        gathered.problems.append(Problem(f"{file}:{line}" if line else str(file), key, found, allowed, fix))

    for name, value in table.items():
        if name == "prune":
            try:
                prune = values.boolean(value)
            except Refused as refused:
                refuse("prune", refused.found, refused.allowed, refused.fix)
                continue
            if gathered.prune is not None and gathered.prune[1] != prune:
                refuse("prune", f"another value than in {gathered.prune[0]}", "one for all files")
            gathered.prune = (str(file), prune)
        elif name not in TABLES:
            close = difflib.get_close_matches(name, [*TABLES, "prune"], n=1, cutoff=0.5)
            told = f"[{close[0]}.{next(iter(value))}]" if close and isinstance(value, dict) and value else "".join(close)
            fix = f"Did you mean {told if told.startswith('[') else repr(told)}?" if close else ""
            refuse(name, "an unknown key", ", ".join(["prune", *TABLES]), fix)
        elif not isinstance(value, dict) or not all(isinstance(inner, dict) for inner in value.values()):
            refuse(name, values.shown(value), f"tables such as [{name}.NAME]")
        else:
            for entry, keys in value.items():
                _entry(TABLES[name], entry, keys, f"{name}.{entry}", refuse, file, lines, gathered)


def _entry(
    kind: Kind, name: str, table: dict[str, Any], key: str, refuse: Any, file: Path, lines: dict[str, int], gathered: _Gathered
) -> None:
    place = f"{file}:{lines.get(key, 1)}"
    try:
        entry_name(name)
    except Refused as refused:
        refuse(key, refused.found, refused.allowed, refused.fix)
        return
    if name in gathered.places:
        refuse(
            key, f"'{name}' a second time", "each name once, over all kinds and files", f"It is in {gathered.places[name]} already."
        )
        return
    gathered.places[name] = place
    fields = FIELDS[kind]
    for unknown in [name for name in table if name not in fields]:
        refuse(f"{key}.{unknown}", "an unknown key", "", _hint(kind, unknown, fields))
    found: dict[str, Any] = {}
    good = True
    for field_name, row in fields.items():
        try:
            found[field_name] = row.parse(table[field_name]) if field_name in table else row.default
        except Refused as refused:
            refuse(f"{key}.{field_name}", refused.found, refused.allowed, refused.fix)
            good = False
    if not good or not _sensible(kind, table, found, key, refuse):
        return
    if found.pop("adopt"):
        gathered.adopt.add(name)
    for group in found.pop("groups", ()):
        line = lines.get(f"{key}.groups", lines.get(key, 1))
        gathered.wishes.append((group, name, f"{file}:{line}", f"{key}.groups"))
    if "display_name" in found:
        found["display_name"] = found["display_name"] or name
    gathered.entries[kind][name] = _MAKE[kind](name=name, **found)


def _sensible(kind: Kind, table: dict[str, Any], found: dict[str, Any], key: str, refuse: Any) -> bool:
    if kind != "client":
        return True
    wrong = []
    if not found["landing"]:
        wrong.append(("landing", "nothing", "the address where people find the application", "Add it."))
    if found["type"] == "public" and not found["pkce"]:
        wrong.append(("pkce", "false", "true: a public client has nothing but PKCE", "Remove it, or make it a basic client."))
    if found["type"] == "public" and found["secret_file"]:
        wrong.append(("secret_file", "a file", "nothing: a public client has no secret", "Remove it."))
    for name, other in (("previous_secret_file", "secret_file"), ("previous_secret_until", "previous_secret_file")):
        if found[name] and not found[other]:
            wrong.append((name, f"it without '{other}'", f"'{other}' beside it", f"Add '{other}', or remove it."))
    if found["type"] == "basic" and found["localhost_redirect"]:
        wrong.append(("localhost_redirect", "true", "false: Kanidm has it for public clients only", "Name the URIs."))
    for name, what, allowed, fix in wrong:
        refuse(f"{key}.{name}", what, allowed, fix)
    return not wrong


def _hint(kind: Kind, name: str, fields: dict[str, Field]) -> str:
    if kind == "client" and name in CLIENT_KEYS:
        return "Kanidm does not know it: write it in config.toml, in [clients.NAME]."
    if name in ("password", "secret", "token"):
        return "No secret belongs in this file." + (" Name a file by 'secret_file'." if kind == "client" else "")
    close = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else f"Known here: {', '.join(fields)}."


def _prefixes(key: str) -> Iterator[str]:
    while key:
        yield key
        key = key.rpartition(".")[0]
