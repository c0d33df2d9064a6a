"""What is remembered of the latest backup, for ``kiwi-id status``: a small file beside the database, as kanidmd's user writes it.

Not in the backup's own directory, which nobody could find again, nor in ``runtime_dir``, which is empty after each boot.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kiwi_id.instance.files import read_file, write_atomic
from kiwi_id.privileges import Account, acting_as


@dataclass(frozen=True, slots=True)
class Record:
    """The latest backup: when (RFC 3339), where, its ``size`` in bytes, and whether it is encrypted. It was read back and good."""

    made: str
    path: str
    size: int
    encrypted: bool

    def as_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return asdict(self) | {"verified": True}


def file_of(database: Path) -> Path:
    """Return where the record of a database lies."""
    return database.with_name(database.name + ".kiwi-backup")


def write(database: Path, account: Account | None, record: Record) -> bool:
    """Remember a backup; return False when that cannot be done, which is no reason to have none."""
    with suppress(OSError), acting_as(account):
        write_atomic(file_of(database), json.dumps(asdict(record)).encode() + b"\n", 0o600)
        return True
    return False


def read(database: Path) -> Record | None:
    """Return what is remembered, None for nothing. Raises OSError, and ValueError for what :func:`write` does not write."""
    try:
        found = json.loads(read_file(file_of(database)))
    except FileNotFoundError:
        return None
    except RecursionError:
        raise ValueError("no note of a backup") from None
    match found:
        case {"made": str(made), "path": str(path), "size": int(size), "encrypted": bool(encrypted)} if size >= 0:
            if datetime.fromisoformat(made).tzinfo is not None:
                return Record(made, path, size, encrypted)
    raise ValueError("no note of a backup")
