"""The archive: a gzipped tar whose first member, ``manifest.json``, tells the size and SHA-256 of every other one.

It can be looked at, and in need restored, by ``tar`` and ``sha256sum`` alone. Members are called ``files/`` and the path that the
file had. Read and written as a stream, so that it may be encrypted on the way (:mod:`kiwi_id.backup.crypt`).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast, get_args, get_type_hints

from kiwi_id.backup import BackupError

FORMAT = 1
_MANIFEST = "manifest.json"
_MOST_MANIFEST = 16 << 20
_BLOCK = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Member:
    """One file: ``role`` in the instance, ``path`` where it lay, ``mode`` as octal digits, ``owner`` and ``group`` by name."""

    role: str
    path: str
    size: int
    mode: str
    owner: str
    group: str
    sha256: str

    @property
    def name(self) -> str:
        """What the member is called in the archive."""
        return "files" + self.path


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive says of itself.

    ``made`` is the time (RFC 3339, UTC); ``kiwi_id``, ``kanidm`` and ``kanidm_sha256`` what it was made with. ``root`` is the
    directory of the instance's tree, empty when its files lie in no tree that ``kiwi-id init`` makes.
    """

    format: int
    made: str
    kiwi_id: str
    kanidm: str
    kanidm_sha256: str
    domain: str
    origin: str
    root: str
    members: tuple[Member, ...]

    def encode(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Check what JSON says. Raises BackupError."""
        try:
            table = json.loads(data)
            form = table["format"]
            if form != FORMAT:
                raise BackupError(f"a backup of the format {form!r}; this Kiwi ID reads {FORMAT}: use a newer one")
            members = tuple(_typed(Member, entry) for entry in table["members"])
            manifest = _typed(cls, {**table, "members": members})
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BackupError(f"{_MANIFEST} is not what Kiwi ID writes: the backup is damaged") from None
        for member in members:
            if not _is_plain(member.path) or not re.fullmatch("0[0-7]{3}", member.mode) or member.size < 0:
                raise BackupError(f"{_MANIFEST} has an entry that Kiwi ID does not write ({member.path!r}): do not trust this file")
        if len({member.path for member in members}) != len(members):
            raise BackupError(f"{_MANIFEST} names a file twice: do not trust this backup")
        return manifest


def _is_plain(path: str) -> bool:
    return path.startswith("/") and ".." not in path.split("/") and str(Path(path)) == path and "\0" not in path


def _typed(kind: type[T], table: dict[str, Any]) -> T:
    for name, wanted in get_type_hints(kind).items():
        value = table[name]
        if not isinstance(value, tuple if get_args(wanted) else wanted) or isinstance(value, bool):
            raise TypeError(name)
    return kind(**{name: table[name] for name in get_type_hints(kind)})


@contextmanager
def _told_in_words() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise BackupError(f"no whole backup of Kiwi ID: {str(error) or 'it was cut off'}") from None


def write(target: BinaryIO, manifest: Manifest, contents: Callable[[Member], BinaryIO]) -> None:
    """Write the archive; ``contents`` opens what each member holds. Raises OSError, and BackupError when a file has changed."""
    # No time in gzip's header: it would be the only thing that differs between two backups of the same.
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=target, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        head = manifest.encode()
        tar.addfile(_entry(_MANIFEST, len(head), 0o600), io.BytesIO(head))
        for member in manifest.members:
            with contents(member) as file:
                tar.addfile(_entry(member.name, member.size, int(member.mode, 8)), file)


def _entry(name: str, size: int, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, mode
    return entry


class Reader:
    """An archive that is being read: the manifest at once, the rest by :meth:`read`."""

    def __init__(self, source: BinaryIO) -> None:
        """Read the manifest. Raises BackupError."""
        with _told_in_words():
            self._packed = gzip.GzipFile(fileobj=source, mode="rb")
            self._tar = tarfile.open(fileobj=self._packed, mode="r|")  # noqa: SIM115 - closed in read(), or with its source
            entry = self._tar.next()
            if entry is None or entry.name != _MANIFEST or not entry.isreg() or entry.size > _MOST_MANIFEST:
                raise BackupError(f"no backup of Kiwi ID: it does not begin with {_MANIFEST}")
            self.manifest = Manifest.decode(cast("BinaryIO", self._tar.extractfile(entry)).read())

    def read(self, take: Callable[[Member], BinaryIO] | None = None) -> None:
        """Read all members to the very end, each into the file that ``take`` opens, and compare them with the manifest.

        Raises BackupError when one is missing, differs or was added: nothing that ``take`` has got may then be used.
        """
        with _told_in_words():
            for member in self.manifest.members:
                entry = self._tar.next()
                if entry is None or entry.name != member.name or not entry.isreg() or entry.size != member.size:
                    raise BackupError(f"{member.path} is not where the manifest says: the backup is damaged")
                file = cast("BinaryIO", self._tar.extractfile(entry))  # None for what is no file, which was looked at
                digest = hashlib.sha256()
                with take(member) if take else io.BytesIO() as target:
                    while block := file.read(_BLOCK):
                        digest.update(block)
                        if take:
                            target.write(block)
                if digest.hexdigest() != member.sha256:
                    raise BackupError(f"{member.path} has another checksum than the manifest says: the backup is damaged")
            if self._tar.next() is not None:
                raise BackupError("there is more in the backup than the manifest says: do not trust it")
            self._tar.close()
            while self._packed.read(_BLOCK):  # to the end, where gzip's checksum and the last encrypted chunk are
                pass
