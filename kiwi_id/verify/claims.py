"""What a checked token says, typed and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kiwi_id.verify.errors import MalformedToken, quoted

# The last second of the year 9999, beyond which Python has no datetime: RFC 7519 §2 sets no bound of its own.
_LAST_SECOND = 253402300799
_TEXTS = ("sub", "iss", "name", "email", "client_id", "jti", "scope")
_ABSENT = ("",) * len(_TEXTS)
_STRINGS = frozenset([str])


@dataclass(frozen=True)
class Claims:
    """The claims of a token that was checked. It may be kept and shared between threads: nothing in it can be changed.

    ``subject`` is the user's UUID (for a client's own token its name), which never changes and is never given to another; ``name``
    is for people. ``groups`` are as config.toml's ``groups_claim`` says; ``scopes`` what the user allowed the client; ``client_id``
    the client that the token was issued to, ``token_id`` the token's own name, both never None for an access token; ``audience``
    whom it was made for. ``raw`` has all claims, as they came but with lists as tuples and objects as read-only mappings.
    """

    subject: str
    name: str | None
    email: str | None
    groups: frozenset[str]
    scopes: frozenset[str]
    client_id: str | None
    issuer: str
    audience: tuple[str, ...]
    expires: datetime
    issued_at: datetime
    token_id: str | None
    raw: Mapping[str, Any] = field(repr=False, hash=False)


def claims_of(raw: Mapping[str, Any]) -> Claims:
    """Return the claims of a payload (see :func:`kiwi_id.verify.jose.parse`) whose signature was checked.

    ``iss``, ``sub``, ``aud``, ``exp`` and ``iat`` must be there (RFC 9068 §2.2, OIDC Core §2). Raises MalformedToken for one that
    is missing, and for any claim of :class:`Claims` that is of another type.
    """
    subject, issuer, name, email, client_id, token_id, scope = texts = tuple(map(raw.get, _TEXTS, _ABSENT))
    groups, audience = raw.get("groups", ()), raw.get("aud", ())
    if type(audience) is str:
        audience = (audience,)
    lists = type(groups) is tuple and type(audience) is tuple and audience and "" not in audience
    if not lists or not subject or not issuer or {*map(type, (*texts, *groups, *audience))} != _STRINGS:
        raise MalformedToken(_what_is_wrong(raw))
    scopes = frozenset(scope.split(" "))  # no other white space separates: RFC 6749 §3.3
    # Into a frozen dataclass's __dict__ at once: its own constructor goes through object.__setattr__ twelve times.
    claims = object.__new__(Claims)
    claims.__dict__.update(
        subject=subject,
        name=name or None,
        email=email or None,
        groups=frozenset(groups),
        scopes=scopes - {""} if "" in scopes else scopes,
        client_id=client_id or None,
        issuer=issuer,
        audience=audience,
        expires=datetime.fromtimestamp(seconds(raw, "exp"), UTC),
        issued_at=datetime.fromtimestamp(seconds(raw, "iat"), UTC),
        token_id=token_id or None,
        raw=raw,
    )
    return claims


def seconds(raw: Mapping[str, Any], name: str) -> float:
    """Return a NumericDate (RFC 7519 §2): seconds since 1970, possibly with a fraction. Raises MalformedToken."""
    value = raw.get(name)
    if type(value) is not int and type(value) is not float:  # a bool is an int to isinstance()
        raise MalformedToken(f"the claim '{name}' is no number of seconds" if name in raw else f"the token has no claim '{name}'")
    if not 0 <= value <= _LAST_SECOND:
        raise MalformedToken(f"the claim '{name}' is {quoted(value)}, no time between 1970 and 9999")
    return value


def _what_is_wrong(raw: Mapping[str, Any]) -> str:
    for name in ("iss", "sub", "aud"):
        if not raw.get(name):
            return f"the claim '{name}' is empty" if name in raw else f"the token has no claim '{name}'"
    for name in _TEXTS:
        if type(raw.get(name, "")) is not str:
            return f"the claim '{name}' is not a string"
    if type(raw["aud"]) is tuple and "" in raw["aud"]:
        return "the claim 'aud' has an empty name in it"
    wrong = "aud" if type(raw["aud"]) is not str and not _strings(raw["aud"]) else "groups"
    return f"the claim '{wrong}' is not a list of strings"


def _strings(value: Any) -> bool:
    return type(value) is tuple and all(type(item) is str for item in value)
