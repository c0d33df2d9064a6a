"""Chosen client secrets: the files that a state file names, read and checked. What is kept of a secret is its digest alone.

A plain SHA-256, and no slow hash: it is checked at each token request, and what a machine has made at random cannot be guessed from
it. What somebody has thought up can, so a secret must be long, and the documentation says how to make one.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from kiwi_id.errors import ConfigError, ConfigMissing, Problem
from kiwi_id.identities.load import load
from kiwi_id.identities.model import Client, Identities
from kiwi_id.identities.salvage import salvage
from kiwi_id.instance.files import read_file

SHORTEST, LONGEST = 20, 512
_FEWEST = 8
# RFC 6749, appendix A.2, without the space: a line of words in the wrong file is no secret.
_SECRET = re.compile(rf"[\x21-\x7e]{{{SHORTEST},{LONGEST}}}")
_HASHED = "sha256:"
_HASH = re.compile(rf"{_HASHED}([0-9a-fA-F]{{64}})")
_ALLOWED = f"a secret of {SHORTEST} to {LONGEST} printable ASCII characters without spaces, or {_HASHED} and 64 hex digits"
_MAKE = "openssl rand -base64 32"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A secret that a client may show, by its SHA-256; ``until`` (Unix seconds) it counts, None: for as long as it is there."""

    digest: bytes = field(repr=False)
    until: float | None = None


Chosen = Mapping[str, tuple[Candidate, ...]]
"""Candidates by ``client_id``. No candidate: the client has chosen a secret that cannot be read, and nobody can be that client."""


@dataclass(frozen=True, slots=True)
class Read:
    """What was read: ``chosen``, None when there is no state file; ``broken`` clients, of which a file cannot be used.

    ``partial``: the state file has mistakes, so that this is what can be read of it (:mod:`kiwi_id.identities.salvage`).
    """

    chosen: Chosen | None
    broken: frozenset[str] = frozenset()
    problems: list[Problem] = field(default_factory=list)
    partial: bool = False


def digest(secret: str) -> bytes:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def files_of(client: Client, now: datetime) -> list[tuple[str, Path]]:
    """Return key and path of each file of a client that counts now, the current one first."""
    found = [("secret_file", client.secret_file), ("previous_secret_file", client.previous_secret_file)]
    if client.previous_secret_until is not None and client.previous_secret_until <= now:
        found.pop()  # it may be gone already
    return [(key, path) for key, path in found if path is not None]


def of_state_file(path: Path, now: datetime, *, wanted: bool) -> Read:
    """Read the chosen secrets of the state file at ``path``; ``wanted``: that there is none is a mistake. Raises nothing."""
    try:
        return of_identities(load(path), now)
    except ConfigMissing as error:
        return Read(None, problems=error.problems) if wanted else Read({})
    except ConfigError as error:
        found = salvage(path)
        some = of_identities(Identities(clients=found.clients, places=dict.fromkeys(found.clients, str(path))), now)
        chosen = {**(some.chosen or {}), **dict.fromkeys(found.lost, ())}
        return Read(chosen, some.broken | found.lost, [*error.problems, *some.problems], partial=True)


def of_identities(identities: Identities, now: datetime) -> Read:
    """Read the chosen secrets of all clients, as far as they can be used."""
    chosen: dict[str, tuple[Candidate, ...]] = {}
    problems: list[Problem] = []
    broken: set[str] = set()
    for name, client in identities.clients.items():
        files = files_of(client, now)
        candidates: list[Candidate] = []
        for key, path in files:
            until = client.previous_secret_until if key == "previous_secret_file" else None
            try:
                candidates.append(Candidate(_digest_of(read(path)), until.timestamp() if until else None))
            except ConfigError as error:
                where, inner = identities.places.get(name, ""), error.problems[0]
                found = f"{path} with {inner.found}"
                problems.append(Problem(where, f"clients.{name}.{key}", found, inner.allowed, inner.fix))
                broken.add(name)
        if files:
            chosen[name] = tuple(candidates)
    return Read(chosen, frozenset(broken), problems)


def read(path: Path) -> str:
    """Return what a secret file says: a secret, or ``sha256:`` and its digest. Raises ConfigError with one problem."""

    def refuse(found: str, allowed: str, fix: str) -> ConfigError:
        return ConfigError([Problem(str(path), "", found, allowed, fix)])

    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            fix = f"chmod 0600 {path}; and choose another secret, for this one may be known."
            raise refuse(f"mode {mode:04o}", "0600 or 0400: nobody but the owner", fix)
        text = read_file(path).decode("ascii").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise refuse("bytes that are no ASCII", _ALLOWED, f"Make one: {_MAKE}") from None
    except OSError as error:
        found = (error.strerror or str(error)).lower()
        fix = "Make it readable for the user that Kiwi ID runs as, and for nobody else."
        if isinstance(error, FileNotFoundError):
            fix = f"Make one: (umask 077; {_MAKE} > {path}), for the user that Kiwi ID runs as."
        raise refuse(found, "a file with the client's secret", fix) from None
    # The words never say what was there: it may be most of the secret.
    if text.startswith(_HASHED):
        if not _HASH.fullmatch(text):
            raise refuse(f"'{_HASHED}' and no 64 hex digits after it", _ALLOWED, "Make it: printf %s SECRET | sha256sum")
    elif not _SECRET.fullmatch(text):
        raise refuse(_what(text), _ALLOWED, f"Make one: {_MAKE}")
    elif len(set(text)) < _FEWEST:
        raise refuse(f"a secret of {len(set(text))} different characters", f"{_FEWEST} or more", f"Make one: {_MAKE}")
    return text


def is_hash(text: str) -> bool:
    """Tell whether a secret file holds no secret, but its digest."""
    return text.startswith(_HASHED)


def _digest_of(text: str) -> bytes:
    match = _HASH.fullmatch(text)
    return bytes.fromhex(match[1]) if match else digest(text)


def _what(text: str) -> str:
    if not text:
        return "an empty file"
    if "\n" in text:
        return "more than one line"
    if not re.fullmatch(r"[\x21-\x7e]*", text):
        return "a space or a control character"
    return f"{len(text)} characters"
