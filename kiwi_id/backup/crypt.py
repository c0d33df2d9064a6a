"""Encryption of an archive by a passphrase: scrypt (RFC 7914) for the key, AES-256-GCM in chunks for the bytes.

The chunks follow the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár, 2015), as age and Tink have it: the nonce holds the
number of the chunk and whether it is the last, so that none can be left out, moved or cut off. A backup of any size is written and
read with one chunk in memory, and no byte is given out that was not authenticated.

Header, 42 bytes: ``kiwi-id-backup`` NUL, format (1), log2 N, r, p, salt (16 bytes), nonce prefix (7 bytes). Then the chunks, each
64 KiB and a tag of 16 bytes, the last one 0 to 64 KiB and its tag. Nonce: prefix, number (4 bytes, big-endian), 1 for the last
chunk, else 0. The header is the associated data of every chunk.
"""

from __future__ import annotations

import io
import os
import struct
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from kiwi_id.backup import BackupError

MAGIC = b"kiwi-id-backup\0"
_HEADER = struct.Struct(f">{len(MAGIC)}sBBBB16s7s")
_FORMAT = 1
CHUNK = 64 << 10
_TAG = 16
# 128 MiB and about half a second for each guess at a passphrase (RFC 7914 §2: 128 · N · r bytes).
_LOG_N, _R, _P = 17, 8, 1
# More than this is no backup of ours: a file must not make us use all memory.
_MOST_LOG_N, _MOST_R, _MOST_P = 20, 16, 4


def is_encrypted(beginning: bytes) -> bool:
    """Tell by its first bytes whether a file is an encrypted backup."""
    return beginning.startswith(MAGIC)


class Encryptor(io.RawIOBase):
    """A writable file that encrypts into ``target``; closing it writes the last chunk, and leaves ``target`` open."""

    def __init__(self, target: BinaryIO, passphrase: bytes) -> None:
        salt, self._prefix = os.urandom(16), os.urandom(7)
        self._header = _HEADER.pack(MAGIC, _FORMAT, _LOG_N, _R, _P, salt, self._prefix)
        self._cipher = AESGCM(_key(passphrase, salt, _LOG_N, _R, _P))
        self._target, self._pending, self._number = target, bytearray(), 0
        target.write(self._header)

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]  # typeshed's Buffer is private
        """Take all of ``data``."""
        self._pending += data
        # A whole chunk waits for a byte after it: only then is it known not to be the last.
        while len(self._pending) > CHUNK:
            self._put(bytes(self._pending[:CHUNK]), last=False)
            del self._pending[:CHUNK]
        return len(data)

    def close(self) -> None:
        """Write the last chunk."""
        if not self.closed:
            self._put(bytes(self._pending), last=True)
        super().close()

    def _put(self, chunk: bytes, *, last: bool) -> None:
        self._target.write(self._cipher.encrypt(_nonce(self._prefix, self._number, last), chunk, self._header))
        self._number += 1


class Decryptor(io.RawIOBase):
    """A readable file with what ``source`` (at its beginning) holds encrypted. Reading raises BackupError."""

    def __init__(self, source: BinaryIO, passphrase: bytes) -> None:
        self._header = source.read(_HEADER.size)
        try:
            magic, form, log_n, r, p, salt, self._prefix = _HEADER.unpack(self._header)
        except struct.error:
            raise BackupError("the encrypted backup ends within its header: it was cut off") from None
        if magic != MAGIC or form != _FORMAT:
            raise BackupError(f"an encrypted backup of the format {form}; this Kiwi ID reads {_FORMAT}: use a newer one")
        if not (1 <= log_n <= _MOST_LOG_N and 1 <= r <= _MOST_R and 1 <= p <= _MOST_P):
            raise BackupError("the encrypted backup has a header that no Kiwi ID has written: it is damaged")
        self._cipher = AESGCM(_key(passphrase, salt, log_n, r, p))
        self._source, self._plain, self._number = source, b"", 0
        self._following: bytes | None = source.read(CHUNK + _TAG)

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to ``size`` bytes (all that are left by default), empty at the end."""
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        while not self._plain and self._following is not None:
            self._open(self._following)
        data, self._plain = self._plain[:size], self._plain[size:]
        return data

    def _open(self, chunk: bytes) -> None:
        following = self._source.read(CHUNK + _TAG)
        try:
            self._plain = self._cipher.decrypt(_nonce(self._prefix, self._number, not following), chunk, self._header)
        except InvalidTag:
            what = "the passphrase is wrong, or the backup is damaged" if self._number == 0 else "the backup is damaged or cut off"
            raise BackupError(what) from None
        self._number += 1
        self._following = following or None


def _key(passphrase: bytes, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=1 << log_n, r=r, p=p).derive(passphrase)


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:
    return prefix + struct.pack(">IB", number, last)
