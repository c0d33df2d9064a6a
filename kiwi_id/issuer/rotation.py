"""Rotation: the acts that move keys from *next* to *current* to *retired*, each safe to be interrupted at any point.

Every act is a sequence of atomic file operations that leaves a readable key set between any two of them, or one that
:meth:`Keyring.finish_interrupted` mends: the old key is written down as retired before the new one takes its place, and duplicates
are ignored by :func:`kiwi_id.issuer.keys.load`. A lock on the directory keeps a command and a running Kiwi ID apart.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, Self

from kiwi_id.config_keys import Config
from kiwi_id.errors import ConfigError, Exit, KiwiError, Problem
from kiwi_id.instance import owners
from kiwi_id.instance.files import read_file, write_atomic
from kiwi_id.issuer import keys
from kiwi_id.issuer.keys import PUBLISH_AHEAD, RETIRED_LIFETIME, Key, KeySet, KeyState
from kiwi_id.logs import Log

log = Log("keys")

Kind = Literal["rs256", "es256", "eddsa"]
LOCK_SECONDS = 10.0
_KINDS: dict[str, Kind] = {"RS256": "rs256", "ES256": "es256", "EdDSA": "eddsa"}


class TooEarly(KiwiError):
    """The act would break relying parties that have cached the key set. Exit code 1; ``--force`` does it all the same."""

    exit_code = Exit.FAILURE


class NoSuchKey(KiwiError):
    """The name given is not that of exactly one key that can be removed. Exit code 1."""

    exit_code = Exit.FAILURE


class Keyring:
    """The files of a key set: the pair of config.toml, and the directory beside it. For one thread."""

    def __init__(self, private: Path, public: Path, directory: Path) -> None:
        self.private, self.public, self.directory = private, public, directory
        self._held = False

    @classmethod
    def of(cls, config: Config) -> Self:
        """Return the key ring that a config names."""
        return cls(config.jwt_private_key, config.jwt_public_key, config.keys_dir)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from changing the keys meanwhile; the directory is made when missing. Raises ConfigError."""
        if self._held:
            yield
            return
        try:
            if not self.directory.is_dir():
                self.directory.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileExistsError):  # another command, at the same time
                    owners.make_directory(self.directory, 0o700, owners.of(self.private))
            descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            found = error.strerror or str(error)
            raise ConfigError(
                [Problem(str(self.directory), "jwt_keys_dir", found, "a directory that we can write to", "")]
            ) from None
        try:
            self._wait_for_lock(descriptor)
            self._held = True
            yield
        finally:
            self._held = False
            os.close(descriptor)

    def _wait_for_lock(self, descriptor: int) -> None:
        ends = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > ends:
                    found = "a lock of another process that is changing the keys"
                    fix = "Look for another 'kiwi-id keys' (lsof shows it) and try again."
                    raise ConfigError([Problem(str(self.directory), "", found, "none, or a short one", fix)]) from None
            time.sleep(0.02)

    def _remove(self, kid: str) -> None:
        """Remove every file of a key in the directory: an interrupted act may have left more than one."""
        for path in self.directory.glob(f"*-{kid}.*.pem"):
            path.unlink(missing_ok=True)

    def load(self) -> KeySet:
        """Read the key set. Raises ConfigError."""
        return keys.load(self.private, self.public, self.directory)

    def tell_strangers(self) -> None:
        """Log a warning for each file of the directory that is left out for its name. Raises ConfigError."""
        for problem in keys.strangers(self.directory):
            log.warn("a file in the keys directory is not used", **problem.as_dict())

    def generate(self, now: datetime, kind: Kind | None = None) -> Key:
        """Make the next key (of the current one's kind, unless told) and return it; an existing next key is returned as it is."""
        from kiwi_id.instance.keys import new_private, private_pem  # noqa: PLC0415 - cryptography, late

        with self._locked():
            present = self.load()
            following = [key for key in present.keys if key.state is KeyState.NEXT]
            for key in following:
                if kind is None or _KINDS[key.alg] == kind:
                    return key
            private = new_private(kind or _KINDS[present.current.alg])
            kid = keys.make_key(private, KeyState.NEXT, now, self.directory).kid
            path = self.directory / keys.file_name(kid, KeyState.NEXT, now)
            write_atomic(path, private_pem(private), 0o600)
            for key in following:  # of another kind: it has never signed
                self._remove(key.kid)
            return keys.make_key(private, KeyState.NEXT, now, path)

    def rotate(self, now: datetime, *, force: bool = False) -> Key:
        """Make the next key current and the current one retired; return the new current key.

        Raises TooEarly when the next key has been published for less than PUBLISH_AHEAD (or there is none), unless ``force``.
        """
        with self._locked():
            return self._rotate(now, force=force)

    def _rotate(self, now: datetime, *, force: bool) -> Key:
        from kiwi_id.instance.keys import private_pem, public_pem  # noqa: PLC0415

        self.finish_interrupted()
        present = self.load()
        following = upcoming(present)
        if following is None and not force:
            raise TooEarly("there is no next key: run 'kiwi-id keys generate', and rotate a day later")
        if following is None:
            following = self.generate(now)
        if now - following.since < PUBLISH_AHEAD and not force:
            wait = PUBLISH_AHEAD - (now - following.since)
            raise TooEarly(
                f"the next key has been published since {following.since:%Y-%m-%d %H:%M} UTC only; relying parties may not know "
                f"it yet. Rotate in {_hours(wait)}, or use --force when the current key is compromised"
            )
        old = present.current
        retired = self.directory / keys.file_name(old.kid, KeyState.RETIRED, now)
        write_atomic(retired, private_pem(old.private), 0o600)
        # The public half first: a service that reads it learns the new key before it signs. If we are interrupted between the
        # two, the pair does not match, and finish_interrupted() sees by the next key that this was a rotation.
        write_atomic(self.public, public_pem(following.private), 0o644)
        write_atomic(self.private, private_pem(following.private), 0o600)
        # The time of the file is since when the key is current.
        os.utime(self.private, (now.timestamp(), now.timestamp()), follow_symlinks=False)
        self._remove(following.kid)
        return self.load().current

    def finish_interrupted(self) -> bool:
        """Finish a rotation that was cut off at any point; return whether the pair had to be mended.

        Safe to call at any time: it acts only when the public half is not the private one's but a next key's, or when the current
        key is in the directory as well.
        """
        if not self._has_directory():
            return False
        with self._locked(), suppress(OSError, ValueError):  # whatever is wrong with the files, load() tells in words
            return self._finish_interrupted()
        return False

    def _finish_interrupted(self) -> bool:
        from kiwi_id.instance.certs import load_private  # noqa: PLC0415
        from kiwi_id.instance.keys import private_pem, public_pem  # noqa: PLC0415

        published = read_file(self.public)
        private = load_private(self.private, prove=False)
        mended = published != public_pem(private)
        if mended:
            halves = (load_private(path, prove=False) for path in sorted(self.directory.glob("*.next.pem")))
            following = next((key for key in halves if public_pem(key) == published), None)
            if following is None:
                return False
            private = following
            write_atomic(self.private, private_pem(private), 0o600)
        self._remove(keys.make_key(private, KeyState.CURRENT, datetime.now(UTC), self.private).kid)
        return mended

    def _has_directory(self) -> bool:
        try:
            return self.directory.is_dir()
        except OSError:  # one that cannot be entered, which load() tells in words
            return False

    def retire(self, kid: str, now: datetime, *, force: bool = False) -> Key:
        """Remove a key at once and return it: tokens that it signed are not accepted any more.

        ``kid`` is its name or the beginning of it. Raises NoSuchKey, and TooEarly when tokens of a retired key can still be good.
        """
        with self._locked():
            chosen = [key for key in self.load().keys if kid and key.kid.startswith(kid)]
            if len(chosen) != 1:
                raise NoSuchKey(f"{len(chosen) or 'no'} keys begin with '{kid}'; 'kiwi-id keys list' shows them")
            (key,) = chosen
            if key.state is KeyState.CURRENT:
                raise NoSuchKey("the current key cannot be removed: rotate first (with --force when it is compromised)")
            ends = key.since + RETIRED_LIFETIME
            if key.state is KeyState.RETIRED and now < ends and not force:
                raise TooEarly(
                    f"tokens and sessions of this key can be good until {ends:%Y-%m-%d %H:%M} UTC; it goes by itself then. "
                    "Use --force to end them now, when the key is compromised"
                )
            self._remove(key.kid)
            return key

    def expire(self, now: datetime) -> list[Key]:
        """Remove retired keys that no token can need any more; return them."""
        if not self._has_directory():
            return []
        with self._locked():
            gone = [key for key in self.load().keys if key.state is KeyState.RETIRED and now - key.since > RETIRED_LIFETIME]
            for key in gone:
                self._remove(key.kid)
            return gone

    def keep(self, now: datetime, period: timedelta) -> bool:
        """Do what is due of a rotation every ``period``: make the next key a day ahead, rotate, expire. Return whether changed."""
        with self._locked():
            return self._keep(now, period)

    def _keep(self, now: datetime, period: timedelta) -> bool:
        self.finish_interrupted()
        changed = bool(self.expire(now))
        present = self.load()
        age = now - present.current.since
        if age >= period - PUBLISH_AHEAD and upcoming(present) is None:
            self.generate(now)
            changed = True
        following = upcoming(self.load())
        if age >= period and following is not None and now - following.since >= PUBLISH_AHEAD:
            self.rotate(now)
            changed = True
        return changed


def upcoming(key_set: KeySet) -> Key | None:
    """Return the next key of a set, if there is one."""
    return next((key for key in key_set.keys if key.state is KeyState.NEXT), None)


def _hours(wait: timedelta) -> str:
    minutes = int(wait.total_seconds() // 60) + 1
    return f"{minutes // 60} h {minutes % 60} min"
