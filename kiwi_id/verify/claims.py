"""What a checked token says, typed and frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kiwi_id.verify import jose
from kiwi_id.verify.errors import MalformedToken, quoted

# The last second of the year 9999, beyond which Python has no datetime: RFC 7519 §2 sets no bound of its own.
_LAST_SECOND = 253402300799
_TEXTS = frozenset({"sub", "iss", "name", "email", "client_id", "jti", "scope"})
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

    if not TYPE_CHECKING:  # where it would hide misspelt names

        def __getattr__(self, name: str) -> Any:
            """Make a field of claims_of() when it is first read: each costs as much as all that is checked of it, and few are."""
            make = _FIELDS.get(name)
            if make is None or "raw" not in self.__dict__:
                raise AttributeError(f"claims have no field {name!r}")
            value = self.__dict__[name] = make(self.raw)
            return value


def claims_of(payload: bytes) -> Claims:
    """Return the claims of a payload whose signature was checked.

    ``iss``, ``sub``, ``aud``, ``exp`` and ``iat`` must be there (RFC 9068 §2.2, OIDC Core §2). Raises MalformedToken for one that
    is missing, for any claim of :class:`Claims` that is of another type, and for what :func:`kiwi_id.verify.jose.parse` refuses.
    """
    raw, others = jose.members(payload)
    audience, groups = raw.get("aud"), raw.get("groups", ())
    if type(audience) is str and audience:
        audience = (audience,)
    elif not (audience and _strings(audience)) or "" in audience:
        raise MalformedToken(_what_is_wrong(raw))
    if not (raw.get("sub") and raw.get("iss") and _TEXTS.isdisjoint(others) and _strings(groups)):
        raise MalformedToken(_what_is_wrong(raw))
    seconds(raw, "exp")
    seconds(raw, "iat")
    claims = object.__new__(Claims)
    fields = claims.__dict__  # a frozen dataclass lets itself be filled only here
    fields["audience"] = audience
    fields["raw"] = MappingProxyType(raw)
    return claims


def _or_none(name: str) -> Callable[[Mapping[str, Any]], str | None]:
    return lambda raw: raw.get(name) or None


def _time(name: str) -> Callable[[Mapping[str, Any]], datetime]:
    return lambda raw: datetime.fromtimestamp(raw[name], UTC)


# How the fields come from what claims_of() has checked.
_FIELDS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "subject": itemgetter("sub"),
    "name": _or_none("name"),
    "email": _or_none("email"),
    "groups": lambda raw: frozenset(raw.get("groups", ())),
    "scopes": lambda raw: frozenset(filter(None, raw.get("scope", "").split(" "))),  # no other white space: RFC 6749 §3.3
    "client_id": _or_none("client_id"),
    "issuer": itemgetter("iss"),
    "expires": _time("exp"),
    "issued_at": _time("iat"),
    "token_id": _or_none("jti"),
}


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
    return type(value) is tuple and _STRINGS.issuperset(map(type, value))
