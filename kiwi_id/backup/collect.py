"""What belongs to an instance: the database as it is at one moment, and every file that cannot be made again.

Not kanidmd itself, the log and what is in ``runtime_dir``. The database is read by SQLite's own online backup, in one read
transaction beside the running kanidmd, which commits each change as one transaction: the copy is what a restart at that moment
would have found. ``kanidmd database backup`` was rejected: it opens the live database for writing, its restore has to index
everything anew, and its JSON is bound to the version just the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from kiwi_id.backup import BackupError, state
from kiwi_id.backup.manifest import Directory, Member
from kiwi_id.backup.scratch import require_room
from kiwi_id.config import Config
from kiwi_id.identities import load as identities
from kiwi_id.instance.access import group_name, user_name
from kiwi_id.instance.files import read_file
from kiwi_id.instance.layout import Places
from kiwi_id.kanidm.server_toml import ServerToml
from kiwi_id.privileges import Account, acting_as

DATABASE, CONFIG, SERVER, KEYS, STATE = "database", "config", "server", "keys", "state file"
"""Roles that a restore treats in a way of their own: the database, config.toml, server.toml, files of ``jwt_keys_dir``, and state
files."""

ASIDE = ".before-restore-"
"""What a restore puts, with the time, behind the name of each file that it replaces; such files are in no backup."""

_BUSY_SECONDS = 30.0
_LOCK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Source:
    """A file to be put into a backup: what the manifest says of it, and its bytes (those of the database are in a file)."""

    member: Member
    data: bytes | Path


def root_of(config: Config) -> Path | None:
    """Return the directory under which ``kiwi-id init`` has made this instance; None when config.toml lies elsewhere."""
    root = config.path.parent.parent.parent
    return root if Places.under(root).config == config.path else None


def files(config: Config, server: ServerToml) -> list[tuple[str, Path]]:
    """Return role and path of each file but the database, config.toml last: whoever finds it finds the rest."""
    found: dict[Path, str] = {
        config.upstream_config: SERVER,
        config.compatibility_file: "pin",
        config.jwt_private_key: "signing key",
        config.jwt_public_key: "public key",
    }
    found |= dict.fromkeys((server.tls_chain, server.tls_key), "kanidmd's certificate")
    optional = {
        config.kanidm_token: "token",
        config.forward_auth_secret_file: "secret",
        config.tls_cert: "certificate",
        config.tls_key: "certificate",
    }
    for path, role in optional.items():
        if path is not None and _exists(path):
            found.setdefault(path, role)
    if not _exists(config.compatibility_file):
        del found[config.compatibility_file]
    for path in _plain_files(config.keys_dir):
        found[path] = KEYS
    for file in identities.files_of(config.identities_file, missing_ok=True):
        found[file] = STATE
        for path in state.named_in(_read(file), file):
            if _exists(path):
                found.setdefault(path, "secret")
    if root_of(config) is not None:  # a directory of our own: what else lies there belongs to it as well
        for path in _plain_files(config.path.parent):
            found.setdefault(path, "settings")
    found.pop(config.path, None)
    return [*((role, path) for path, role in found.items()), (CONFIG, config.path)]


def _plain_files(directory: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(directory):  # which passes over what is not there, and does not follow links
        for name in sorted(names):
            path = Path(parent) / name
            if not name.startswith(".") and not name.endswith(".bak") and ASIDE not in str(path) and path.is_file():
                yield path


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def collect(config: Config, server: ServerToml, account: Account | None, copy: Path) -> list[Source]:
    """Read everything; the database is copied to ``copy``. Raises BackupError."""
    snapshot(server.db_path, copy, account)
    with copy.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with acting_as(account):
        status = server.db_path.stat()
    sources = [Source(_member(DATABASE, server.db_path, copy.stat().st_size, status, digest), copy)]
    with _keys_at_rest(config.keys_dir):
        for role, path in files(config, server):
            data, status = _read(path), path.stat()
            sources.append(Source(_member(role, path, len(data), status, hashlib.sha256(data).hexdigest()), data))
    return sources


def directories(sources: Iterable[Source]) -> tuple[Directory, ...]:
    """Return the directories in which these files lie, and those above them: a restore makes those that are missing."""
    found = []
    for path in sorted({parent for source in sources for parent in Path(source.member.path).parents} - {Path("/")}):
        status = path.stat()
        mode = f"{stat.S_IMODE(status.st_mode) & 0o777:04o}"
        found.append(Directory(str(path), mode, user_name(status.st_uid), group_name(status.st_gid)))
    return tuple(found)


def _member(role: str, path: Path, size: int, status: os.stat_result, digest: str) -> Member:
    mode = f"{stat.S_IMODE(status.st_mode) & 0o777:04o}"
    return Member(role, os.path.normpath(path), size, mode, user_name(status.st_uid), group_name(status.st_gid), digest)


@contextmanager
def _keys_at_rest(directory: Path) -> Iterator[None]:
    """Keep a rotation from moving keys while they are read, by the lock that it takes (:mod:`kiwi_id.issuer.rotation`)."""
    if not directory.is_dir():
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ends = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > ends:
                    raise BackupError(f"another process is changing the keys in {directory}; try again") from None
            time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def snapshot(database: Path, copy: Path, account: Account | None) -> None:
    """Copy a database that may be in use to ``copy``, as it is at one moment, and check the copy. Raises BackupError.

    It is opened as ``account``, kanidmd's user: SQLite may have to make the files beside it, which kanidmd must be able to use.
    kanidmd goes on reading and writing meanwhile (write-ahead mode).
    """
    try:
        with acting_as(account):
            size = database.stat().st_size
        require_room(copy.parent, size)
        with acting_as(account):
            # Not mode=ro, which leaves files behind when nobody else has the database open; and never made when it is missing.
            source = sqlite3.connect(f"file:{quote(str(database))}?mode=rw", uri=True, timeout=_BUSY_SECONDS)
        try:
            with acting_as(account):
                source.execute("PRAGMA query_only = ON")
                source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens the files of the write-ahead log
            with closing(sqlite3.connect(copy)) as target:
                source.backup(target)
                verdict = target.execute("PRAGMA quick_check").fetchone()[0]
        finally:
            with acting_as(account):
                source.close()
    except (sqlite3.Error, OSError) as error:
        if isinstance(error, sqlite3.Error) and copy.exists():  # SQLite says "disk I/O error" of a full disk, too
            require_room(copy.parent, max(size - copy.stat().st_size, 1 << 20))
        raise BackupError(f"the database {database} cannot be copied: {error}") from None
    if verdict != "ok":
        raise BackupError(f"the database {database} is damaged ({verdict.splitlines()[-1]}): keep the last good backup")
