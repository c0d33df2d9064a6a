"""From a request's Authorization header to its claims, or to a refusal in the words of RFC 6750: what every middleware here does.

Framework-free. A token is taken from the Authorization header only: RFC 6750 §2.2 and §2.3 (form body, query string) are not
offered, because what stands there ends in logs and histories.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, TypedDict

from kiwi_id.verify.errors import TokenError

if TYPE_CHECKING:
    from kiwi_id.verify.claims import Claims
    from kiwi_id.verify.verifier import Verifier

REALM = "Kiwi ID"

# RFC 6750 §2.1: credentials = "Bearer" 1*SP b64token; a scheme is case-insensitive (RFC 9110 §11.1).
_CREDENTIALS = re.compile(r"(?i:bearer) +([A-Za-z0-9._~+/-]+=*)")
_IS_BEARER = re.compile(r"(?i:bearer)(?![A-Za-z0-9!#$%&'*+.^_`|~-])")
# One set of credentials with commas in it (RFC 9110 §11.4): parameters of one scheme, and no second scheme behind them. Values are
# taken more widely than there, as some schemes have them.
_PARAMETER = r"""[A-Za-z0-9!#$%&'*+.^_`|~-]+[ \t]*=[ \t]*(?:[^\s",=][^\s",]*|"(?:[^"\\]|\\.)*")"""
_WITH_COMMAS = re.compile(rf"[A-Za-z0-9!#$%&'*+.^_`|~-]+ +{_PARAMETER}(?:[ \t]*,[ \t]*{_PARAMETER})*")
# RFC 6749 §3.3: what a scope may be made of; it goes into a quoted string as it is.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_PLAIN = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]*")
# "..", also as other servers behind an application may read it.
_CLIMBS = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\;]|$)")


class Demands(TypedDict, total=False):
    """What a middleware asks of requests; each is optional.

    ``required_scopes``, ``required_groups``: all of them must be in the token. ``optional_paths``: a request without a token
    passes, with None for claims; one that brings a token is held to everything. ``anonymous_paths``: no token is looked at.
    ``realm``: of the challenges.

    A path is matched exactly, without the prefix that the application is mounted at; ``/public/*`` means all paths below
    ``/public/``, but not one with ``.`` or ``..`` in it, which somebody behind the application may read as another path.
    """

    required_scopes: Collection[str]
    required_groups: Collection[str]
    optional_paths: Collection[str]
    anonymous_paths: Collection[str]
    realm: str


class Refused(Exception):
    """A request that is refused: ``status``, ``challenge`` (WWW-Authenticate, RFC 6750 §3), ``headers`` and a JSON ``body``.

    ``error`` is the RFC's code, empty when no token came. The token itself is nowhere in it.
    """

    def __init__(self, status: int, error: str, description: str, *, realm: str = REALM, scope: str = "") -> None:
        super().__init__(description)
        self.status, self.error, self.description = status, error, _shown(description)
        # Without a token no error: there was none, and §3.1 wants nothing else told.
        told = {"realm": realm} | ({"error": error, "error_description": self.description} if error else {})
        told |= {"scope": scope} if scope else {}
        self.challenge = "Bearer " + ", ".join(f'{name}="{value}"' for name, value in told.items())
        content = {"error": error, "error_description": self.description} if error else {"message": self.description}
        self.body = json.dumps(content).encode()

    @property
    def headers(self) -> list[tuple[str, str]]:
        """All headers of the answer, with the length of ``body``."""
        return [
            ("content-type", "application/json"),
            ("content-length", str(len(self.body))),
            ("cache-control", "no-store"),
            ("www-authenticate", self.challenge),
        ]


class Guard:
    """Decides about requests, by their path and the values of their Authorization headers. Safe to share between threads."""

    def __init__(
        self,
        verifier: Verifier,
        *,
        required_scopes: Collection[str] = (),
        required_groups: Collection[str] = (),
        optional_paths: Collection[str] = (),
        anonymous_paths: Collection[str] = (),
        realm: str = REALM,
    ) -> None:
        """Take what is asked for, see :class:`Demands`. Raises ValueError for what can never be right."""
        self._verifier, self._realm = verifier, realm
        self._scopes, self._groups = scope_names(required_scopes), group_names(required_groups)
        self._optional, self._anonymous = _Paths("optional_paths", optional_paths), _Paths("anonymous_paths", anonymous_paths)
        if not _PLAIN.fullmatch(realm):
            raise ValueError("realm: printable ASCII without quotes and backslashes")

    def check(self, path: str, authorization: Sequence[str]) -> Claims | None:
        """Return the claims of the caller; None where the path lets callers in without. Raises Refused.

        ``path`` is percent-decoded; ``authorization`` holds the value of each Authorization header, as Latin-1.
        """
        if self._anonymous.match(path):
            return None
        return self.claims(authorization, optional=self._optional.match(path))

    def claims(
        self,
        authorization: Sequence[str],
        *,
        scopes: frozenset[str] = frozenset(),
        groups: frozenset[str] = frozenset(),
        optional: bool = False,
    ) -> Claims | None:
        """Return the claims of the caller, on any path, who must have these scopes and groups, too. Raises Refused.

        None only with ``optional``, when there is no token.
        """
        token = self._token(authorization)
        if token is None:
            if optional:
                return None
            raise Refused(401, "", "A bearer token is needed in the Authorization header.", realm=self._realm)
        try:
            claims = self._verifier.verify(token)
        except TokenError as error:
            raise Refused(401, "invalid_token", str(error), realm=self._realm) from None
        self._demand(claims, self._scopes | scopes, self._groups | groups)
        return claims

    def _demand(self, claims: Claims, scopes: frozenset[str], groups: frozenset[str]) -> None:
        if not scopes <= claims.scopes:
            text = "The token lacks a scope that is needed here."
            raise Refused(403, "insufficient_scope", text, realm=self._realm, scope=" ".join(sorted(scopes)))
        if not groups <= claims.groups:
            # No scope is named: asking for another token would not help, and which groups there are is nobody's business.
            text = "The user is not a member of a group that is needed here."
            raise Refused(403, "insufficient_scope", text, realm=self._realm)

    def _token(self, authorization: Sequence[str]) -> str | None:
        """Return the bearer token; None when there is none, or credentials of another scheme only."""
        if len(authorization) > 1:
            # Whoever reads the other one, in front of us or behind, would see another caller.
            raise Refused(400, "invalid_request", "The Authorization header is there more than once.", realm=self._realm)
        value = authorization[0].strip(" \t") if authorization else ""
        if "," in value and not _WITH_COMMAS.fullmatch(value):
            # Two headers that a server has joined (RFC 9110 §5.3), as every WSGI server does.
            raise Refused(
                400, "invalid_request", "The Authorization header has more than one set of credentials.", realm=self._realm
            )
        if not _IS_BEARER.match(value):
            return None
        found = _CREDENTIALS.fullmatch(value)
        if found is None:
            raise Refused(400, "invalid_request", "The Authorization header is not one bearer token.", realm=self._realm)
        return found[1]


def scope_names(names: Collection[str]) -> frozenset[str]:
    """Check names of scopes. Raises ValueError."""
    return _names("required_scopes", names, _SCOPE)


def group_names(names: Collection[str]) -> frozenset[str]:
    """Check names of groups. Raises ValueError."""
    return _names("required_groups", names, re.compile(r".+", re.DOTALL))


def _names(what: str, names: Collection[str], form: re.Pattern[str]) -> frozenset[str]:
    if isinstance(names, str):  # a collection of letters, which no token has
        raise ValueError(f"{what}: found one text, {names!r}; allowed: a list of names, such as [{names!r}]")
    for name in names:
        if not isinstance(name, str) or not form.fullmatch(name):
            raise ValueError(f"{what}: found {name!r}; allowed: names, one by one")
    return frozenset(names)


class _Paths:
    """Paths and, by a ``/*`` at the end, all that is below a path."""

    def __init__(self, what: str, patterns: Collection[str]) -> None:
        if isinstance(patterns, str):
            raise ValueError(f"{what}: found one text, {patterns!r}; allowed: a list of paths, such as [{patterns!r}]")
        for pattern in patterns:
            bare = pattern.removesuffix("/*")
            if not pattern.startswith("/") or "*" in bare or _CLIMBS.search(bare):
                raise ValueError(f"{what}: found {pattern!r}; allowed: a path from '/' on, or '/path/*' for all below it")
        self._exact = frozenset(pattern for pattern in patterns if not pattern.endswith("/*"))
        self._below = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("/*"))

    def match(self, path: str) -> bool:
        return path in self._exact or (path.startswith(self._below) and not _CLIMBS.search(path))


def _shown(text: str) -> str:
    """Return ``text`` as a quoted string may hold it (RFC 6750 §3), with '?' for the rest."""
    return re.sub(r"[^\x20\x21\x23-\x5b\x5d-\x7e]", "?", text)[:200]
