"""The database file: entries and keys that survive a restart, and a kill -9 in the middle of a write.

SQLite, as Kanidm has it, in write-ahead mode: each change is one transaction, so a reader never finds half of one. A file
that belongs to a real Kanidm is refused, because writing into it would harm it.
"""

import json
import sqlite3
from pathlib import Path
from typing import Any

__all__ = ["Store", "StoreError"]

_APPLICATION_ID = 0x4B495749  # "KIWI"


class StoreError(Exception):
    """The database file cannot be used; the text says why and what to do."""


class Store:
    """JSON values by kind and id. Everything is written through at once; reading happens at start only."""

    def __init__(self, path: Path) -> None:
        if not path.parent.is_dir():
            raise StoreError(f"DB folder {path.parent} may not exist, server startup will FAIL! Create it, or change db_path")
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            mark = self._db.execute("PRAGMA application_id").fetchone()[0]
            if tables and mark != _APPLICATION_ID:
                raise StoreError(f"{path} is not a database of the stand-in (a real Kanidm's?); choose another db_path")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            self._db.execute("CREATE TABLE IF NOT EXISTS items (kind TEXT, id TEXT, value TEXT, PRIMARY KEY (kind, id))")
        except sqlite3.Error as error:
            raise StoreError(f"cannot open the database {path}: {error}") from None

    def all(self, kind: str) -> dict[str, Any]:
        """Every value of `kind`, by id."""
        rows = self._db.execute("SELECT id, value FROM items WHERE kind = ? ORDER BY rowid", (kind,))
        return {key: json.loads(value) for key, value in rows}

    def put(self, kind: str, key: str, value: Any) -> None:
        """Write one value, replacing what was there."""
        self._db.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?)", (kind, key, json.dumps(value)))

    def put_all(self, kind: str, values: dict[str, Any]) -> None:
        """Write many values in one transaction: all of them or, after a crash, none."""
        self._db.execute("BEGIN")
        for key, value in values.items():
            self.put(kind, key, value)
        self._db.execute("COMMIT")

    def delete(self, kind: str, key: str) -> None:
        """Remove one value; it is no error when there is none."""
        self._db.execute("DELETE FROM items WHERE kind = ? AND id = ?", (kind, key))

    def close(self) -> None:
        """Close the file."""
        self._db.close()
