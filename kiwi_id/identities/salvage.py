"""Which clients have chosen a secret, of a state file with mistakes: one typo must not make Kanidm's own secrets count again.

What can be read of each ``[clients.NAME]`` is read, whatever is wrong beside it; where the text is no TOML, each table by itself.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiwi_id.errors import ConfigError
from kiwi_id.identities.fields import FIELDS, reference
from kiwi_id.identities.load import files_of
from kiwi_id.identities.model import OUR_FIELDS, Client
from kiwi_id.instance.files import read_file
from kiwi_id.values import Refused

_HEADER = re.compile(r"^[ \t]*\[[ \t]*clients[ \t]*\.[ \t]*(?:\"([^\"\n]+)\"|'([^'\n]+)'|([\w-]+))", re.MULTILINE)
_TABLE = re.compile(r"^(?=[ \t]*\[[^\n]*\][ \t]*(?:#[^\n]*)?\r?$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Salvaged:
    """``clients``: those that have chosen a secret; ``lost``: those that have, of which nobody can tell where it is."""

    clients: dict[str, Client]
    lost: frozenset[str]


def salvage(path: Path) -> Salvaged:
    """Return what can be told of the state files at ``path``. Raises nothing."""
    tables: dict[str, dict[str, Any]] = {}
    lost: set[str] = set()
    for text in _texts(path):
        for part in [text] if _parsed(text) is not None else _TABLE.split(text):
            parsed = _parsed(part)
            if parsed is not None:
                clients = parsed.get("clients")
                for name, table in clients.items() if isinstance(clients, dict) else ():
                    tables.setdefault(name, {}).update(table if isinstance(table, dict) else {})
            elif "secret_file" in part and (header := _HEADER.match(part)):
                lost.add(header[1] or header[2] or header[3])
    found: dict[str, Client] = {}
    for name, table in tables.items():
        try:
            if table.get("secret_file"):
                found[reference(name)] = Client(name, **{key: _field(table, key) for key in OUR_FIELDS})
        except Refused:
            lost.add(name)
    return Salvaged({name: client for name, client in found.items() if name not in lost}, frozenset(lost))


def _field(table: dict[str, Any], key: str) -> Any:
    row = FIELDS["client"][key]
    return row.parse(table[key]) if key in table else row.default


def _texts(path: Path) -> Iterator[str]:
    try:
        files = files_of(path, missing_ok=True)
    except ConfigError:
        return
    for file in files:
        try:
            yield read_file(file).decode("utf-8", "replace").removeprefix("\ufeff")
        except OSError:
            continue


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None
