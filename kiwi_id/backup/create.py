"""Making a backup: collect, write, read back, and only then give it its name; afterwards remove what is older than wanted."""

from __future__ import annotations

import fcntl
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, cast

from kiwi_id import __version__, compatibility
from kiwi_id.backup import BackupError, archive, record
from kiwi_id.backup.archive import Reader
from kiwi_id.backup.collect import Source, collect, directories, root_of
from kiwi_id.backup.crypt import MAGIC, Decryptor, Encryptor, is_encrypted
from kiwi_id.backup.manifest import FORMAT, Manifest, Member
from kiwi_id.backup.record import Record
from kiwi_id.backup.scratch import BACKUP, scratch, sweep, told
from kiwi_id.config import Config
from kiwi_id.instance import owners
from kiwi_id.instance.files import sync_directory
from kiwi_id.kanidm import server_toml
from kiwi_id.privileges import find_account

_LOCK = ".kiwi-id-backup.lock"
"""Not the directory itself: whoever may list that could hold its lock for ever."""


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made: where, its size in bytes, what it says of itself, and the older ones that were removed."""

    path: Path
    size: int
    manifest: Manifest
    removed: tuple[Path, ...]


def create(config: Config, target: Path, *, passphrase: bytes | None, keep: int | None, now: datetime) -> Made:
    """Back the instance up to ``target``, running or not: a new file, or a directory that gets one named after ``now``.

    ``target`` is a directory when there is one, or with ``keep``, which leaves so many of this domain's backups there. Raises
    BackupError and ConfigError; then nothing was written, and nothing removed.
    """
    server = server_toml.load(config.upstream_config)
    account = find_account(config.upstream_user, config.upstream_group, config.path)
    # The pin must hold: the version is what a restore goes by.
    binary = compatibility.inspect(config, allow_untested=True)
    as_directory = keep is not None or target.is_dir()
    directory = target if as_directory else target.parent
    suffix = ".tar.gz.enc" if passphrase is not None else ".tar.gz"
    path = directory / f"kiwi-id-{server.domain}-{now:%Y%m%dT%H%M%SZ}{suffix}" if as_directory else target
    try:
        if as_directory:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(directory), scratch(directory, BACKUP) as work:
            sweep(server.db_path.parents)  # of a restore
            sources = collect(config, server, account, work / "database")
            manifest = Manifest(
                format=FORMAT,
                made=f"{now:%Y-%m-%dT%H:%M:%SZ}",
                kiwi_id=__version__,
                kanidm=binary.version,
                kanidm_sha256=binary.sha256,
                domain=server.domain,
                origin=server.origin,
                root=str(root_of(config) or ""),
                members=tuple(source.member for source in sources),
                directories=directories(sources),
            )
            draft = work / "archive"
            _write(draft, manifest, sources, passphrase)
            (work / "database").unlink()
            verify(draft, passphrase)
            _name(draft, path)
            removed = _prune(directory, server.domain, keep) if keep is not None else ()
            size = path.stat().st_size
            record.write(server.db_path, account, Record(manifest.made, str(path), size, passphrase is not None))
            return Made(path, size, manifest, removed)
    except OSError as error:
        raise told(error, directory) from None


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the directory for this backup alone, and remove what an interrupted one has left there."""
    descriptor = owners.open_lock(directory / _LOCK)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink == 0:  # of one that has ended just now
                raise BlockingIOError
        except BlockingIOError:
            raise BackupError(f"another backup is being made in {directory}") from None
        sweep([directory])
        try:
            yield
        finally:
            (directory / _LOCK).unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _write(draft: Path, manifest: Manifest, sources: list[Source], passphrase: bytes | None) -> None:
    by_path = {source.member.path: source.data for source in sources}

    def contents(member: Member) -> BinaryIO:
        data = by_path[member.path]
        return io.BytesIO(data) if isinstance(data, bytes) else data.open("rb")

    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if passphrase is None:
            archive.write(file, manifest, contents)
        else:
            with Encryptor(file, passphrase) as sealed:
                archive.write(cast("BinaryIO", sealed), manifest, contents)
        file.flush()
        os.fsync(file.fileno())


def _name(draft: Path, path: Path) -> None:
    """Give the draft its name; a file that is there already is somebody's backup and stays."""
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        raise BackupError(f"{path} exists already; name another file, or a directory") from None
    except OSError:  # no hard links on this file system (CIFS, some FUSE)
        if os.path.lexists(path):
            raise BackupError(f"{path} exists already; name another file, or a directory") from None
        draft.rename(path)
    sync_directory(path.parent)


@contextmanager
def opened(path: Path, passphrase: bytes | None) -> Iterator[Reader]:
    """Open a backup, encrypted or not, with its manifest read. Raises BackupError, also when a passphrase is needed."""
    try:
        with path.open("rb") as file:
            if not is_encrypted(file.peek(len(MAGIC))):
                yield Reader(file)
            elif passphrase is None:
                raise BackupError(f"{path} is encrypted: name a file with the passphrase, or run this on a terminal")
            else:
                yield Reader(cast("BinaryIO", Decryptor(file, passphrase)))
    except OSError as error:
        raise BackupError(f"{error.filename or path}: {(error.strerror or str(error)).lower()}") from None


def needs_passphrase(path: Path) -> bool:
    """Tell whether a backup is encrypted. Raises BackupError."""
    try:
        with path.open("rb") as file:
            return is_encrypted(file.read(len(MAGIC)))
    except OSError as error:
        raise BackupError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def verify(path: Path, passphrase: bytes | None) -> Manifest:
    """Read a backup to its end and compare it with its manifest, which is returned. Raises BackupError."""
    with opened(path, passphrase) as reader:
        reader.read()
        return reader.manifest


def _prune(directory: Path, domain: str, keep: int) -> tuple[Path, ...]:
    """Remove all but the ``keep`` newest backups of ``domain``, by the time in the name: files may have been copied here."""
    ours = re.compile(rf"kiwi-id-{re.escape(domain)}-(\d{{8}}T\d{{6}}Z)\.tar\.gz(?:\.enc)?")
    dated = sorted((match[1], path) for path in directory.iterdir() if (match := ours.fullmatch(path.name)))
    old = tuple(path for _, path in dated[:-keep])
    for path in old:
        path.unlink()
    return old
