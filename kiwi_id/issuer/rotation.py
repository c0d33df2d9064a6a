"""Rotation: the acts that move keys from *next* to *current* to *retired*, each safe to be interrupted at any point.

Every act is a sequence of atomic file operations that leaves a readable key set between any two of them: the old key is written
down as retired before the new one takes its place, and a duplicate is ignored by :func:`kiwi_id.issuer.keys.load`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from kiwi_id.errors import Exit, KiwiError
from kiwi_id.instance.files import write_atomic
from kiwi_id.issuer import keys
from kiwi_id.issuer.keys import PUBLISH_AHEAD, RETIRED_LIFETIME, Key, KeySet, KeyState

Kind = Literal["rs256", "es256", "eddsa"]
_KINDS: dict[str, Kind] = {"RS256": "rs256", "ES256": "es256", "EdDSA": "eddsa"}


class TooEarly(KiwiError):
    """The act would break relying parties that have cached the key set. Exit code 1; ``--force`` does it all the same."""

    exit_code = Exit.FAILURE


class Keyring:
    """The files of a key set: the pair of config.toml, and the directory beside it."""

    def __init__(self, private: Path, public: Path, directory: Path) -> None:
        self.private, self.public, self.directory = private, public, directory

    def load(self) -> KeySet:
        """Read the key set. Raises ConfigError."""
        return keys.load(self.private, self.public, self.directory)

    def generate(self, now: datetime, kind: Kind | None = None) -> Key:
        """Make the next key (of the current one's kind, unless told) and return it; an existing next key is returned as it is."""
        from kiwi_id.instance.keys import new_private, private_pem  # noqa: PLC0415 - cryptography, late

        present = self.load()
        following = upcoming(present)
        if following is not None and (kind is None or _KINDS[following.alg] == kind):
            return following
        private = new_private(kind or _KINDS[present.current.alg])
        key = keys.make_key(private, KeyState.NEXT, now, self.directory)
        path = self.directory / keys.file_name(key.kid, KeyState.NEXT, now)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, private_pem(private), 0o600)
        if following is not None:
            following.path.unlink(missing_ok=True)
        return keys.make_key(private, KeyState.NEXT, now, path)

    def rotate(self, now: datetime, *, force: bool = False) -> Key:
        """Make the next key current and the current one retired; return the new current key.

        Raises TooEarly when the next key has been published for less than PUBLISH_AHEAD (or there is none), unless ``force``.
        """
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
        following.path.unlink(missing_ok=True)
        return self.load().current

    def finish_interrupted(self) -> bool:
        """Finish a rotation that was cut off between the two halves of the pair; return whether there was one.

        Safe to call at any time: it acts only when the public half is not the private one's but a next key's.
        """
        from kiwi_id.instance.certs import load_private  # noqa: PLC0415
        from kiwi_id.instance.keys import private_pem, public_pem  # noqa: PLC0415

        try:
            published = self.public.read_bytes()
            if published == public_pem(load_private(self.private, prove=False)):
                return False
            for path in sorted(self.directory.glob("*.next.pem")):
                private = load_private(path, prove=False)
                if public_pem(private) == published:
                    write_atomic(self.private, private_pem(private), 0o600)
                    path.unlink()
                    return True
        except (OSError, ValueError):
            pass  # whatever is wrong with the files, load() tells in words
        return False

    def retire(self, kid: str) -> None:
        """Remove a retired or next key at once: tokens that it signed are not accepted any more. Raises KiwiError."""
        present = self.load()
        chosen = [key for key in present.keys if key.kid.startswith(kid)]
        if len(chosen) != 1:
            raise KiwiError(f"{len(chosen)} keys begin with '{kid}'; 'kiwi-id keys list' shows them")
        if chosen[0].state is KeyState.CURRENT:
            raise KiwiError("the current key cannot be removed: rotate first (--force when it is compromised)")
        chosen[0].path.unlink()

    def expire(self, now: datetime) -> list[Key]:
        """Remove retired keys that no token can need any more; return them."""
        gone = [key for key in self.load().keys if key.state is KeyState.RETIRED and now - key.since > RETIRED_LIFETIME]
        for key in gone:
            key.path.unlink(missing_ok=True)
        return gone

    def keep(self, now: datetime, period: timedelta) -> bool:
        """Do what is due of a rotation every ``period``: make the next key a day ahead, rotate, expire. Return whether changed."""
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
