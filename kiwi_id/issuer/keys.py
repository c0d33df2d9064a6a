"""The key set: which key signs, which keys are published, and their life from *next* over *current* to *retired*.

The pair named in config.toml is the current key. A directory beside it holds the others, one file each:
``<time>-<kid>.next.pem`` is published before it signs, so that every cache knows it in time; ``<time>-<kid>.retired.pem`` stays
published until the last token that it signed has ended. Files are the only state; rotation is a pure function of them and a clock.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt

from kiwi_id.errors import ConfigError, Problem
from kiwi_id.verify import jose
from kiwi_id.verify.errors import MalformedToken
from kiwi_id.verify.keys import Key as PublicKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

# A relying party may keep the key set for JWKS_MAX_AGE seconds; a next key is published for longer than that before it signs.
JWKS_MAX_AGE = 300
PUBLISH_AHEAD = timedelta(hours=24)
# Kanidm's refresh tokens live 16 h and slide; our sealed boxes open with the key that was current when they were made. A session
# that was refreshed at all moved to the new key meanwhile, so this covers every token that can still be good.
RETIRED_LIFETIME = timedelta(days=7)

# What the clocks of two machines with the same keys may differ by, seconds.
LEEWAY = 5

_FILE = re.compile(r"(?P<time>\d{8}T\d{6}Z)-(?P<kid>[A-Za-z0-9_-]{43})\.(?P<state>next|retired)\.pem")
_STAMP = "%Y%m%dT%H%M%SZ"


class KeyState(Enum):
    """Where a key is in its life."""

    NEXT = "next"
    CURRENT = "current"
    RETIRED = "retired"


@dataclass(frozen=True)
class Key:
    """One key: ``kid`` is the RFC 7638 thumbprint, ``alg`` the JWS algorithm that its type fixes, ``jwk`` the public half.

    ``since`` is when it came into its ``state``. ``private`` and ``seed`` never leave the process: ``seed`` is what sealed boxes
    are keyed with (see :mod:`kiwi_id.issuer.box`).
    """

    kid: str
    alg: str
    state: KeyState
    since: datetime
    path: Path
    jwk: dict[str, str] = field(repr=False)
    private: Any = field(repr=False)
    seed: bytes = field(repr=False)

    def sign(self, claims: dict[str, Any], typ: str) -> str:
        """Return ``claims`` as a compact JWS with this key's ``kid`` and the given ``typ`` (RFC 7515)."""
        return jwt.encode(claims, self.private, algorithm=self.alg, headers={"kid": self.kid, "typ": typ})


class KeySet:
    """The keys of an instance: ``current`` signs; all are published and verify."""

    def __init__(self, current: Key, others: list[Key]) -> None:
        self.current = current
        self.keys = [current, *others]
        self._public = {key.kid: PublicKey(key.kid, key.alg, key.private.public_key()) for key in self.keys}
        document = {"keys": [key.jwk for key in sorted(self.keys, key=lambda key: key.since, reverse=True)]}
        self.jwks = json.dumps(document, separators=(",", ":")).encode()
        self.etag = '"' + hashlib.sha256(self.jwks).hexdigest()[:32] + '"'

    @property
    def algorithms(self) -> list[str]:
        """The algorithms in use, the current key's first."""
        return list(dict.fromkeys(key.alg for key in self.keys))

    def changes_from(self, before: KeySet) -> list[str]:
        """Return, in words for a person, what is other than in an earlier set: the key that signs, those that are published."""
        told = [] if self.current.kid == before.current.kid else [f"the signing key, now {self.current.kid}"]
        old, new = ({key.kid for key in keys} for keys in (before.keys, self.keys))
        told += [f"a key more, {kid}" for kid in sorted(new - old - {self.current.kid})]
        return told + [f"a key less, {kid}" for kid in sorted(old - new)]

    def verify(self, token: str, typ: str, *, issuer: str, expired_ok: bool = False) -> dict[str, Any]:
        """Return the claims of a token of our own; ``typ`` must match exactly. Raises jwt.InvalidTokenError.

        The algorithm is the key's, never the token's (RFC 8725 §3.1); ``aud`` is the caller's to check. Read by
        :mod:`kiwi_id.verify.jose` as in services, which is stricter than PyJWT and takes a quarter of its time.
        """
        try:
            signed, head, body, signature = jose.split(token.encode("ascii"))
            header = jose.header(head)
            public = self._public.get(header.kid or "")
            if public is None or header.typ != typ or header.alg != public.alg:
                raise jwt.InvalidTokenError("not a token of this issuer, or not of this type")
            if not public.verifies(signed, jose.decode(signature)):
                raise jwt.InvalidSignatureError("the signature is not by this key")
            claims = dict(jose.parse(jose.decode(body)))
        except (MalformedToken, UnicodeEncodeError) as error:
            raise jwt.DecodeError(str(error)) from None
        times = [claims.get(name) for name in ("iat", "exp")]
        if claims.get("iss") != issuer or any(type(at) is not int for at in times):
            raise jwt.InvalidTokenError("not a token of this issuer, or without its times")
        now = time.time()
        if claims["iat"] > now + LEEWAY or (claims["exp"] <= now - LEEWAY and not expired_ok):
            raise jwt.InvalidTokenError("a token that has expired, or of another day")
        return claims


def load(private: Path, public: Path, directory: Path, *, prove: bool = False) -> KeySet:
    """Read the key set. Raises ConfigError with every problem of every file; see :func:`kiwi_id.instance.keys.check_pair`."""
    from kiwi_id.instance.keys import check_pair  # noqa: PLC0415 - cryptography is heavy, and wanted late

    problems = check_pair(private, public, prove=prove)
    others: list[Key] = []
    current: Key | None = None
    if not problems:
        current = _read(private, KeyState.CURRENT, _mtime(private))
    for path, match in _files(directory):
        try:
            key = _read(path, KeyState(match["state"]), datetime.strptime(match["time"], _STAMP).replace(tzinfo=UTC))
        except ConfigError as error:
            problems += error.problems
            continue
        if key.kid != match["kid"]:
            found = f"a key whose thumbprint is {key.kid}"
            problems.append(Problem(str(path), "", found, "the key that the file's name says", "Restore the file."))
        # Left behind when a rotation was interrupted: the file at jwt_private_key is the one that counts.
        elif current is None or key.kid != current.kid:
            others.append(key)
    if problems or current is None:
        raise ConfigError(problems)
    return KeySet(current, _each_once(others))


def _each_once(others: list[Key]) -> list[Key]:
    """Keep one of the files of each key: *retired* before *next*, for it must not sign again, and the latest of several."""
    found: dict[str, Key] = {}
    for key in sorted(others, key=lambda key: (key.state is KeyState.RETIRED, key.since)):
        found[key.kid] = key
    return list(found.values())


def strangers(directory: Path) -> list[Problem]:
    """Return a warning for each file of the key directory that is none of a key by its name, and so is left out.

    Hidden ones are not told: a file of another process that is being written is one.
    """
    allowed = "names as 'kiwi-id keys' gives them: <time>-<kid>.next.pem, <time>-<kid>.retired.pem"
    found = "a name that says no key, so the file is not used"
    names = [path for path in _listed(directory) if not _FILE.fullmatch(path.name) and not path.name.startswith(".")]
    return [Problem(str(path), "", found, allowed, "Give it its name back, or move it elsewhere.") for path in names]


def _files(directory: Path) -> list[tuple[Path, re.Match[str]]]:
    return [(path, match) for path in _listed(directory) if (match := _FILE.fullmatch(path.name))]


def _listed(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        found = error.strerror or str(error)
        raise ConfigError([Problem(str(directory), "", found, "a directory that can be read", "")]) from None


def _mtime(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _read(path: Path, state: KeyState, since: datetime) -> Key:
    from kiwi_id.instance.certs import load_private  # noqa: PLC0415

    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            fix = f"chmod 0600 {path}; consider the key known to who could read it."
            raise ConfigError([Problem(str(path), "", f"mode {mode:04o}", "0600 or 0400: nobody but the owner", fix)])
        private = load_private(path, prove=False)
        return make_key(private, state, since, path)
    except (OSError, ValueError) as error:
        found = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError([Problem(str(path), "", found, "an unencrypted signing key in PEM", "Restore or remove it.")]) from None


def make_key(private: PrivateKeyTypes, state: KeyState, since: datetime, path: Path) -> Key:
    """Return a Key around a private key. Raises ValueError for a kind that no supported algorithm uses."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    from kiwi_id.verify import KeysError  # noqa: PLC0415
    from kiwi_id.verify.keys import describe, thumbprint  # noqa: PLC0415 - what we sign with is what services check

    try:
        alg, jwk = describe(private.public_key(), "the key")
    except KeysError:
        raise ValueError("a key that is neither RSA of 2048 bits or more, nor P-256, nor Ed25519") from None
    kid = thumbprint(jwk)
    der = private.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Key(kid, alg, state, since, path, {**jwk, "use": "sig", "alg": alg, "kid": kid}, private, hashlib.sha256(der).digest())


def file_name(kid: str, state: KeyState, now: datetime) -> str:
    """Return the name of a key's file in the key directory."""
    return f"{now.astimezone(UTC).strftime(_STAMP)}-{kid}.{state.value}.pem"
