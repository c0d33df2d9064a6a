"""Bringing an instance back: everything is checked first, nothing is written over, and nothing may run meanwhile.

The archive is read to its end into a directory of its own before the first file of the instance is touched. Each file that is
replaced stays beside the new one, under its name and the time. config.toml is written last: what was interrupted is done again.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import trio

from kiwi_id import compatibility, lock
from kiwi_id.backup import BackupError, state
from kiwi_id.backup.archive import Reader
from kiwi_id.backup.collect import ASIDE, CONFIG, DATABASE, SERVER, STATE
from kiwi_id.backup.giving import Directories, Giver
from kiwi_id.backup.manifest import Manifest, Member
from kiwi_id.backup.relocate import Plan, plan
from kiwi_id.backup.scratch import RESTORE, require_room, scratch, sweep, told
from kiwi_id.errors import ConfigError, Problem
from kiwi_id.instance import owners
from kiwi_id.instance.files import sync_directory, write_atomic
from kiwi_id.privileges import acting_as, find_account, owner_of


@dataclass
class Restored:
    """What a restore did: the files written, those set aside, and what somebody should know."""

    manifest: Manifest
    config: Path
    written: list[Path] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def restore(reader: Reader, *, root: Path | None, binary: Path | None, now: datetime) -> Restored:
    """Restore a backup to where it came from, or into the tree under ``root``; ``binary`` is another kanidmd to use.

    Raises BackupError, ConfigError (also for a kanidmd of another version) and Locked (an instance runs on that database): then
    no file was changed.
    """
    manifest = reader.manifest
    roles = [member.role for member in manifest.members]
    if any(roles.count(role) != 1 for role in (DATABASE, CONFIG, SERVER)):
        raise BackupError("this backup has no database, config.toml or server.toml: it is none of a whole instance")
    database = _database(manifest, root)
    # Near where the files go: /tmp may be small, or a memory; and the database is then only renamed.
    near = next(parent for parent in database.parents if parent.is_dir())
    sweep(database.parents)
    try:
        require_room(near, sum(member.size for member in manifest.members))
        with scratch(near, RESTORE) as work:
            staged = {member.path: work / str(number) for number, member in enumerate(manifest.members)}
            reader.read(lambda member: _private_file(staged[member.path]))
            texts = {m.role: staged[m.path].read_text("utf-8") for m in manifest.members if m.role in (CONFIG, SERVER)}
            planned = plan(manifest, texts, root, binary)
            _check_version(manifest, planned)
            written = {CONFIG: planned.config_text.encode(), SERVER: planned.server_text.encode()}
            changed = {member.path: written[member.role] for member in manifest.members if member.role in written}
            for member in (member for member in manifest.members if member.role == STATE):
                changed[member.path] = state.moved(staged[member.path].read_bytes(), Path(member.path), planned.places)
            writer = _Writer(manifest, planned, staged, changed, now)
            with _database_at_rest(planned, writer.directories):
                return writer.write()
    except UnicodeDecodeError:
        raise BackupError("config.toml or server.toml in this backup is not UTF-8") from None
    except OSError as error:
        raise told(error, near) from None


def _database(manifest: Manifest, root: Path | None) -> Path:
    """Return where the database goes."""
    database = Path(next(member.path for member in manifest.members if member.role == DATABASE))
    if root is not None and manifest.root and database.is_relative_to(manifest.root):
        database = root / database.relative_to(manifest.root)
    return database


def _private_file(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _check_version(manifest: Manifest, planned: Plan) -> None:
    """Refuse a kanidmd that cannot have this database. Raises ConfigError.

    Kanidm upgrades a database one minor version at a time and never goes back; within a minor version only forwards is promised.
    """
    path = planned.config.upstream_bin
    wanted = f"Kanidm {manifest.kanidm}, with which the backup was made"
    fix = f"Install kanidmd {manifest.kanidm} there, or name it by --upstream-bin; restore, start, and upgrade afterwards."
    if not path.exists():
        raise ConfigError([Problem(str(path), "", "no kanidmd", wanted, fix)])
    found = compatibility.identify(path).version
    if not _fits(found, manifest.kanidm):
        raise ConfigError([Problem(str(path), "", f"Kanidm {found}", wanted, fix)])


def _fits(found: str, made: str) -> bool:
    there, then = (version.split("-")[0].split("+")[0].split(".") for version in (found, made))
    return found == made or (there[:2] == then[:2] and int(there[2]) > int(then[2]))


@contextmanager
def _database_at_rest(planned: Plan, directories: Directories) -> Iterator[None]:
    """Hold the database's lock, against a Kiwi ID; and see that no kanidmd by itself has it. Raises Locked and BackupError."""
    database, settings = planned.server.db_path, planned.config
    account = find_account(settings.upstream_user, settings.upstream_group, settings.path)
    directories.make(database.parent, (account.uid, account.gid) if account else None)
    account = account or owner_of(database.parent)
    descriptor = trio.run(partial(lock.acquire, database, acting=lambda: acting_as(account)))
    try:
        with acting_as(account):
            if os.path.lexists(database):
                _fold_in_log(database)
        yield
    finally:
        os.close(descriptor)


def _fold_in_log(database: Path) -> None:
    """Make one file of a database and its write-ahead log, as it will be set aside. Raises BackupError when others have it open."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=rw", uri=True, timeout=1)) as held:
            # Every other connection holds a shared lock, also when it is idle: a kanidmd that nobody supervises is seen so.
            held.execute("PRAGMA locking_mode = EXCLUSIVE")
            held.execute("BEGIN EXCLUSIVE")
            held.execute("COMMIT")
        with closing(sqlite3.connect(database)) as last:  # whoever closes last removes the log
            last.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise BackupError(f"the database {database} is in use: stop the kanidmd that runs on it first") from None
    except sqlite3.DatabaseError:  # a damaged one may be why there is a restore; its log is set aside as it is
        pass


class _Writer:
    """Puts the files in their places."""

    def __init__(
        self, manifest: Manifest, planned: Plan, staged: dict[str, Path], changed: dict[str, bytes], now: datetime
    ) -> None:
        self.manifest, self.plan, self.staged, self.changed = manifest, planned, staged, changed
        self.suffix = f"{ASIDE}{now:%Y%m%dT%H%M%SZ}"
        self.result = Restored(manifest, planned.config.path)
        self.giver = Giver()
        self.directories = Directories(manifest, planned, self.giver)

    def write(self) -> Restored:
        """Write everything; return what was done. Raises OSError."""
        settings = self.plan.config
        database = next(member for member in self.manifest.members if member.role == DATABASE)
        for file in (self.plan.server.db_path.with_name(self.plan.server.db_path.name + end) for end in ("-wal", "-shm")):
            self._set_aside(file, move=True)
        if settings.keys_dir.is_dir():  # whole: a key that the backup does not know must not be published, or sign
            self._set_aside(settings.keys_dir, move=True)
        for member in sorted(self.manifest.members, key=lambda member: member.role == CONFIG):
            path = self.plan.places[member.path]
            self.directories.make(path.parent)
            self._set_aside(path)
            if member is database:
                self._put_database(path, member)
            else:
                data = self.changed.get(member.path)
                data = self.staged[member.path].read_bytes() if data is None else data
                write_atomic(path, data, int(member.mode, 8), self.giver.owner(member))
            self.result.written.append(path)
        if settings.log_file is not None:
            settings.log_file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._add_notes()
        return self.result

    def _put_database(self, path: Path, member: Member) -> None:
        file = self.staged[member.path]
        with file.open("rb") as staged:
            owners.give(staged.fileno(), self.giver.owner(member))
            os.fchmod(staged.fileno(), int(member.mode, 8))
            os.fsync(staged.fileno())
        file.replace(path)
        sync_directory(path.parent)

    def _set_aside(self, path: Path, *, move: bool = False) -> None:
        """Keep what is at ``path`` under another name; unless ``move``, it stays in its place until it is replaced."""
        if not os.path.lexists(path):
            return
        aside = path.with_name(path.name + self.suffix)
        while os.path.lexists(aside):  # of another restore within the same second
            aside = aside.with_name(aside.name + "+")
        linked = False
        if not move and not path.is_symlink():
            with suppress(OSError):  # a file system without hard links
                aside.hardlink_to(path)
                linked = True
        if not linked:
            path.rename(aside)
        self.result.aside.append(aside)

    def _add_notes(self) -> None:
        if self.giver.strangers:
            names = ", ".join(sorted(self.giver.strangers))
            self.result.notes.append(f"This machine does not know {names}, to whom files belonged; they belong to you now.")
        try:
            compatibility.inspect(self.plan.config, allow_untested=True)
        except ConfigError as error:
            self.result.notes.append(f"{error.diagnostics()}")
