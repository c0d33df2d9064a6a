"""Whom the application is told of: claims become ``Remote-*`` headers that nobody can slip anything into, and meet demands."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

Header = tuple[bytes, bytes]

# Exact or nothing: what an application keys its accounts by must not be a mended version of something else.
_USER = re.compile(r"[!-+\--~]{1,256}")  # printable ASCII without space and comma
_EMAIL = re.compile(r"[!-+\--~]{1,254}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_LONGEST_NAME = 256
# Of Unicode's categories: control characters, surrogates, line and paragraph separators. All of them are shown as a space.
_UNFIT = frozenset({"Cc", "Cs", "Zl", "Zp"})


class Unusable(Exception):
    """Claims of nobody that an application could be told of: no user name, or one that fits in no header."""


class BadDemand(Exception):
    """A query at ``/auth/verify`` that is not understood, and must not be taken for no demand at all."""


@dataclass(frozen=True)
class Identity:
    """A person, as told to applications. ``user`` is the name that they know the person by."""

    subject: str
    user: str
    name: str
    email: str
    groups: tuple[str, ...]
    scopes: tuple[str, ...]

    @classmethod
    def of(cls, claims: Mapping[str, Any], scope: str) -> Identity:
        """Return the identity that claims of ours tell (an ID token's or an access token's). Raises Unusable.

        An e-mail address that Kanidm does not call verified is not told, for applications log in by it; nor is a group whose name
        would read as another's in a list that is joined by commas.
        """
        subject = str(claims.get("sub", ""))
        user = claims.get("preferred_username")
        if user is None and _UUID.fullmatch(subject):
            user = subject  # without the scope profile; and a token that a client got for itself is nobody's
        if not isinstance(user, str) or not _USER.fullmatch(user):
            raise Unusable
        email = claims.get("email")
        verified = isinstance(email, str) and claims.get("email_verified") is True and _EMAIL.fullmatch(email)
        groups = claims.get("groups")
        return cls(
            subject=subject,
            user=user,
            name=_shown(claims.get("name")),
            email=str(email) if verified else "",
            groups=tuple(group for group in groups if _fits(group)) if isinstance(groups, list | tuple) else (),
            scopes=tuple(scope.split()),
        )

    def headers(self) -> list[Header]:
        """Return all four headers, empty ones too: a proxy that copies them then overwrites whatever the client sent.

        ``Remote-Name`` is UTF-8, as it is; the others are ASCII.
        """
        return [
            (b"remote-user", self.user.encode()),
            (b"remote-name", self.name.encode()),
            (b"remote-email", self.email.encode()),
            (b"remote-groups", ",".join(self.groups).encode()),
        ]


def _shown(name: Any) -> str:
    if not isinstance(name, str):
        return ""
    fit = "".join(" " if unicodedata.category(char) in _UNFIT else char for char in name)
    return " ".join(fit.split())[:_LONGEST_NAME].rstrip()


def _fits(group: Any) -> bool:
    return isinstance(group, str) and _USER.fullmatch(group) is not None


@dataclass(frozen=True)
class Demands:
    """What ``/auth/verify`` is asked to demand: one of ``groups`` (none: nobody in particular), and all of ``scopes``."""

    groups: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()

    def lacking(self, identity: Identity) -> str:
        """Return which demand an identity does not meet, ``groups`` or ``scopes``; empty when it meets all."""
        if self.groups and self.groups.isdisjoint(identity.groups):
            return "groups"
        return "" if self.scopes.issubset(identity.scopes) else "scopes"


@lru_cache(maxsize=256)
def demands(query: bytes) -> Demands:
    """Read the query of ``/auth/verify``: ``groups`` and ``scopes``, each a list joined by commas. Raises BadDemand.

    Strict, because each mistake here would open a door: an unknown or repeated parameter, or an empty list, is refused.
    """
    if not query:
        return Demands()
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=4, errors="strict")
    except ValueError:
        raise BadDemand("The query cannot be read.") from None
    found: dict[str, frozenset[str]] = {}
    for name, value in pairs:
        if name not in ("groups", "scopes"):
            raise BadDemand("The query knows 'groups' and 'scopes' only.")
        if name in found:
            raise BadDemand(f"'{name}' is there twice; join the names by commas.")
        found[name] = _listed(name, value.split(","))
    return Demands(**found)


def _listed(name: str, items: Iterable[str]) -> frozenset[str]:
    listed = frozenset(items)
    if not all(_USER.fullmatch(item) for item in listed):
        raise BadDemand(f"'{name}' must be names joined by commas, without spaces.")
    return listed
