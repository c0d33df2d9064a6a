"""State files in a backup: the secret files that they name belong to it, and follow when an instance moves to another root.

Read with less strictness than an apply reads them: a mistake in a state file is no reason to have no backup.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from kiwi_id import toml
from kiwi_id.backup import BackupError
from kiwi_id.errors import ConfigError

_KEYS = ("secret_file", "previous_secret_file")
_PLAIN = re.compile(r"""(secret_file["']?\s*=\s*)(["'])((?:(?!\2)[^\n])*)\2""")


def named_in(data: bytes, file: Path) -> list[Path]:
    """Return the secret files that a state file names; none when it is no TOML, which its own errors tell."""
    try:
        table = toml.parse(data.decode("utf-8"), file)
    except (ConfigError, UnicodeDecodeError):
        return []
    clients = table.get("clients")
    each = [client for client in clients.values() if isinstance(client, dict)] if isinstance(clients, dict) else []
    found = [client.get(key) for client in each for key in _KEYS]
    return [Path(path) for path in found if isinstance(path, str) and path.startswith("/") and "\0" not in path]


def moved(data: bytes, file: Path, places: Mapping[str, Path]) -> bytes:
    """Return a state file in which each secret file is named by its new place. Raises BackupError when that cannot be done.

    ``places`` are the new places of everything in the backup, by the old one. The rest of the text stays as people wrote it.
    """
    names = named_in(data, file)
    wanted = [places.get(os.path.normpath(name), name) for name in names]
    if wanted == names:
        return data
    news = {str(old): str(new) for old, new in zip(names, wanted, strict=True)}

    def renamed(match: re.Match[str]) -> str:
        key, quote, old = match.groups()
        return f"{key}{quote}{news.get(old, old)}{quote}"

    text = _PLAIN.sub(renamed, data.decode("utf-8"))
    changed = text.encode()
    if named_in(changed, file) != wanted:
        raise BackupError(f'{file}: its secret files cannot be moved; write them in the plain form secret_file = "…"')
    return changed
