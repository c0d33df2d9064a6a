"""Fixtures: an instance that does not run, with a database that holds something, and its backup."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from kiwi_id import devserver
from kiwi_id.errors import Exit
from kiwi_id.instance import layout
from kiwi_id.instance.layout import Places
from tests.backup.running import kiwi_id


@dataclass(frozen=True)
class Kept:
    """An instance under ``places.root`` and a ``backup`` of it; ``kanidmd`` is the stand-in that it is for."""

    places: Places
    backup: Path
    kanidmd: Path

    def content(self, database: Path | None = None) -> str:
        """What the one row of a database says (by default, of this instance's)."""
        with closing(sqlite3.connect(database or self.places.database)) as opened:
            return str(opened.execute("SELECT value FROM items").fetchone()[0])

    def change(self) -> None:
        """Write something else into the database."""
        with closing(sqlite3.connect(self.places.database, isolation_level=None)) as database:
            database.execute("UPDATE items SET value = 'after'")


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template")
    devserver.install(directory / "kanidmd")
    layout.create(directory / "i", layout.Options(upstream_bin=directory / "kanidmd", key_type="eddsa"))
    return directory


@pytest.fixture
def kept(_template: Path, tmp_path: Path) -> Kept:
    """A stopped instance with the word 'before' in its database, and a plain backup of it."""
    shutil.copytree(_template, tmp_path, dirs_exist_ok=True)
    places = Places.under(tmp_path / "i")
    for file in (places.config, places.upstream_config):
        file.write_text(file.read_text().replace(str(_template), str(tmp_path)))
    with closing(sqlite3.connect(places.database, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE items (value TEXT)")
        database.execute("INSERT INTO items VALUES ('before')")
    backup = tmp_path / "backup.tar.gz"
    done = kiwi_id("backup", backup, "--config", places.config)
    assert done.returncode == Exit.OK, done.stderr
    return Kept(places, backup, tmp_path / "kanidmd")
