"""The archive: a gzipped tar whose first member, ``manifest.json``, tells the size and SHA-256 of every other one.

It can be looked at, and in need restored, by ``tar`` and ``sha256sum`` alone. Members are called ``files/`` and the path that the
file had. Read and written as a stream, so that it may be encrypted on the way (:mod:`kiwi_id.backup.crypt`).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from kiwi_id.backup import BackupError
from kiwi_id.backup.manifest import MANIFEST, Manifest, Member

_MOST_MANIFEST = 16 << 20
# Of a member's headers, extended ones (PAX) with long names included; tarfile reads those whole, and ahead in records.
_MOST_HEADERS = 128 << 10
_BLOCK = 1 << 20


@contextmanager
def _told_in_words() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError) as error:
        raise BackupError(f"no whole backup of Kiwi ID: {str(error) or 'it was cut off'}") from None


def write(target: BinaryIO, manifest: Manifest, contents: Callable[[Member], BinaryIO]) -> None:
    """Write the archive; ``contents`` opens what each member holds. Raises OSError, and BackupError when a file has changed."""
    # No time in gzip's header: it would be the only thing that differs between two backups of the same.
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=target, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        head = manifest.encode()
        tar.addfile(_entry(MANIFEST, len(head), 0o600), io.BytesIO(head))
        for member in manifest.members:
            with contents(member) as file:
                tar.addfile(_entry(member.name, member.size, int(member.mode, 8)), file)


def _entry(name: str, size: int, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, mode
    return entry


class _Bounded:
    """What tarfile reads from: no more than was granted, and the last of it remembered, for what stands behind the tar's end."""

    def __init__(self, source: gzip.GzipFile) -> None:
        self._source, self._left, self._total, self._last = source, 0, 0, b""

    def grant(self, size: int) -> None:
        self._left = size + tarfile.RECORDSIZE

    def read(self, size: int = -1, /) -> bytes:
        if size < 0 or size > self._left:
            raise BackupError("it has headers larger than Kiwi ID writes: do not trust this file")
        data = self._source.read(size)
        self._left -= len(data)
        self._total += len(data)
        self._last = (self._last + data)[-2 * tarfile.RECORDSIZE :]
        return data

    def behind(self, offset: int) -> bytes:
        """Return what was read beyond ``offset``."""
        return self._last[max(len(self._last) - (self._total - offset), 0) :]


class Reader:
    """An archive that is being read: the manifest at once, the rest by :meth:`read`."""

    def __init__(self, source: BinaryIO) -> None:
        """Read the manifest. Raises BackupError."""
        with _told_in_words():
            self._packed = gzip.GzipFile(fileobj=source, mode="rb")
            self._bounded = _Bounded(self._packed)
            self._bounded.grant(_MOST_HEADERS)
            # Closed in read(), or with its source.
            self._tar = tarfile.open(fileobj=cast("Any", self._bounded), mode="r|", bufsize=tarfile.RECORDSIZE)  # noqa: SIM115
            entry = self._next()
            if entry is None or entry.name != MANIFEST or not _is_plain(entry) or entry.size > _MOST_MANIFEST:
                raise BackupError(f"no backup of Kiwi ID: it does not begin with {MANIFEST}")
            self.manifest = Manifest.decode(cast("BinaryIO", self._tar.extractfile(entry)).read())

    def _next(self) -> tarfile.TarInfo | None:
        self._bounded.grant(_MOST_HEADERS)
        entry = self._tar.next()
        self._bounded.grant(entry.size if entry else 0)
        return entry

    def read(self, take: Callable[[Member], BinaryIO] | None = None) -> None:
        """Read all members to the very end, each into the file that ``take`` opens, and compare them with the manifest.

        Raises BackupError when one is missing, differs or was added: nothing that ``take`` has got may then be used.
        """
        with _told_in_words():
            for member in self.manifest.members:
                entry = self._next()
                if entry is None or entry.name != member.name or not _is_plain(entry) or entry.size != member.size:
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
            if self._next() is not None:
                raise BackupError("there is more in the backup than the manifest says: do not trust it")
            # To the end, where gzip's checksum and the last encrypted chunk are. A tar ends with two blocks of zeros, of which
            # tarfile reads the first, and with more that fill the record; the first may be the last block of one.
            rest = self._bounded.behind(self._tar.offset) + self._packed.read(tarfile.RECORDSIZE)
            if rest.strip(b"\0") or self._packed.read(1):
                raise BackupError("there is something behind the end of the backup: do not trust it")
            self._tar.close()


def _is_plain(entry: tarfile.TarInfo) -> bool:
    return entry.type == tarfile.REGTYPE and entry.sparse is None
