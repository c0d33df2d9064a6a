"""What an archive says of itself: written by :func:`Manifest.encode`, and checked to the last value before anything is believed.

An archive may have been made to do harm: whatever a restore does with a value must be possible, and no word may move a terminal.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from kiwi_id.backup import BackupError

FORMAT = 1
MANIFEST = "manifest.json"

T = TypeVar("T")
# What may stand where: a few words, the time, a version of Kanidm as kanidmd says it, a user or group by name or number.
_WORDS = re.compile(r"[^\s/](?:.{0,254}[^\s])?")
_TIME = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z")
_VERSION = re.compile(r"[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}(?:[-+][0-9A-Za-z.+-]{1,64})?")
_DIGEST = re.compile("[0-9a-f]{64}")
_MODE = re.compile("0[0-7]{3}")
_NOBODY = 2**32 - 1  # chown(2): "leave it as it is"


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

    def is_sound(self) -> bool:
        """Tell whether every value can be what it says."""
        numbers = self.size >= 0 and _MODE.fullmatch(self.mode) and _DIGEST.fullmatch(self.sha256)
        return bool(numbers) and _is_path(self.path) and _is_owner(self.owner) and _is_owner(self.group)


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory that held such files, or was above it: ``path``, ``mode`` as octal digits, ``owner`` and ``group`` by name."""

    path: str
    mode: str
    owner: str
    group: str

    def is_sound(self) -> bool:
        """Tell whether every value can be what it says."""
        return bool(_MODE.fullmatch(self.mode)) and _is_path(self.path) and _is_owner(self.owner) and _is_owner(self.group)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive says of itself.

    ``made`` is the time (RFC 3339, UTC); ``kiwi_id``, ``kanidm`` and ``kanidm_sha256`` what it was made with. ``root`` is the
    directory of the instance's tree, empty when its files lie in no tree that ``kiwi-id init`` makes. ``directories`` are those of
    the members; none in a backup that an older Kiwi ID has made.
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
    directories: tuple[Directory, ...] = ()

    def encode(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Check what JSON says. Raises BackupError."""
        try:
            table = json.loads(data)
            form = table["format"]
            if isinstance(form, int) and form != FORMAT:
                raise BackupError(f"a backup of the format {form!r}; this Kiwi ID reads {FORMAT}: use a newer one")
            members = tuple(_typed(Member, entry) for entry in table["members"])
            directories = tuple(_typed(Directory, entry) for entry in table.get("directories", []))
            manifest = _typed(cls, {**table, "members": members, "directories": directories})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BackupError(f"{MANIFEST} is not what Kiwi ID writes: the backup is damaged") from None
        manifest.require()
        return manifest

    def require(self) -> None:
        """Raise BackupError for what Kiwi ID does not write."""
        words = (self.kiwi_id, self.domain, *(member.role for member in self.members))
        fine = all(map(_is_words, words)) and self.origin.isprintable() and len(self.origin) < 2048
        known = _TIME.fullmatch(self.made) and _VERSION.fullmatch(self.kanidm) and _DIGEST.fullmatch(self.kanidm_sha256)
        if not (fine and known and (not self.root or self.root == "/" or _is_path(self.root))):
            raise BackupError(f"{MANIFEST} says what Kiwi ID does not write: do not trust this file")
        entries: list[Member | Directory] = [*self.members, *self.directories]
        for one in entries:
            if not one.is_sound():
                raise BackupError(f"{MANIFEST} has an entry that Kiwi ID does not write ({one.path!r}): do not trust this file")
        paths = {member.path for member in self.members}
        if len(paths) != len(self.members):
            raise BackupError(f"{MANIFEST} names a file twice: do not trust this backup")
        if any(str(parent) in paths for path in paths for parent in Path(path).parents):
            raise BackupError(f"{MANIFEST} has a file that is a directory, too: do not trust this backup")


def _is_path(path: str) -> bool:
    """Tell whether a path is absolute, in its plain form, and of a length that leaves room for a suffix on every file system."""
    try:
        data = path.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say
        return False
    parts = data.split(b"/")[1:]
    plain = path.startswith("/") and path[1:2] not in ("", "/") and os.path.normpath(path) == path and "\0" not in path
    return plain and len(data) < 3500 and all(len(part) <= 220 for part in parts)


def _is_words(text: str) -> bool:
    return text.isprintable() and _WORDS.fullmatch(text) is not None


def _is_owner(text: str) -> bool:
    if text.isdecimal():
        return text.isascii() and len(text) <= 10 and int(text) < _NOBODY
    return _is_words(text) and ":" not in text


def _typed(kind: type[T], table: dict[str, Any]) -> T:
    for name, wanted in get_type_hints(kind).items():
        value = table[name]
        if not isinstance(value, tuple if get_args(wanted) else wanted) or isinstance(value, bool):
            raise TypeError(name)
    return kind(**{name: table[name] for name in get_type_hints(kind)})
