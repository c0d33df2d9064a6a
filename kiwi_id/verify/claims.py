"""What a checked token says, typed and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from kiwi_id.verify.errors import MalformedToken, quoted

# The last second of the year 9999, beyond which Python has no datetime: RFC 7519 §2 sets no bound of its own.
_LAST_SECOND = 253402300799


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of a token that was checked. It may be kept and shared between threads: nothing in it can be changed.

    ``subject`` is the user's UUID (for a client's own token its name), which never changes and is never given to another; ``name``
    is for people. ``groups`` are as config.toml's ``groups_claim`` says; ``scopes`` what the user allowed the client; ``client_id``
    the client that the token was issued to, ``audience`` whom it was made for. ``raw`` has all claims, as they came but with
    lists as tuples and objects as read-only mappings.
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


def claims_of(payload: dict[str, Any]) -> Claims:
    """Return the claims of a payload whose signature was checked. Raises MalformedToken for one missing or of a wrong type.

    ``iss``, ``sub``, ``aud``, ``exp`` and ``iat`` must be there (RFC 9068 §2.2, OIDC Core §2).
    """
    raw = frozen(payload)
    get = raw.get
    audience = get("aud")
    if type(audience) is str:
        audience = (audience,)
    elif type(audience) is not tuple or not audience:
        raise MalformedToken("the claim 'aud' is neither a string nor a list of strings" if "aud" in raw else _missing("aud"))
    groups = get("groups", ())
    if type(groups) is not tuple:
        raise MalformedToken("the claim 'groups' is not a list of strings")
    scope = get("scope", "")
    for name, value in (*((("aud", item)) for item in audience), *((("groups", item)) for item in groups), ("scope", scope)):
        if type(value) is not str:
            raise MalformedToken(f"the claim '{name}' holds {_kind(value)} where a string belongs")
    scopes = frozenset(scope.split(" ")) if scope else frozenset()
    return Claims(
        _text(raw, "sub"),
        _optional(raw, "name"),
        _optional(raw, "email"),
        frozenset(groups),
        scopes - {""} if "" in scopes else scopes,
        _optional(raw, "client_id"),
        _text(raw, "iss"),
        audience,
        datetime.fromtimestamp(seconds(raw, "exp"), UTC),
        datetime.fromtimestamp(seconds(raw, "iat"), UTC),
        _optional(raw, "jti"),
        raw,
    )


def seconds(raw: Mapping[str, Any], name: str) -> float:
    """Return a NumericDate (RFC 7519 §2): seconds since 1970, possibly with a fraction. Raises MalformedToken."""
    value = raw.get(name)
    if type(value) is not int and type(value) is not float:  # a bool is an int to isinstance()
        raise MalformedToken(f"the claim '{name}' is {_kind(value)}, not a number of seconds" if name in raw else _missing(name))
    if not 0 <= value <= _LAST_SECOND:
        raise MalformedToken(f"the claim '{name}' is {quoted(value)}, no time between 1970 and 9999")
    return value


def frozen(members: dict[str, Any]) -> Mapping[str, Any]:
    """Return a read-only view of a JSON object, deep: what is cached is shared, and no caller may change it for the next one."""
    for name, value in members.items():
        if type(value) is list or type(value) is dict:
            members[name] = _frozen(value)
    return MappingProxyType(members)


def _frozen(value: Any) -> Any:
    if type(value) is list:
        return tuple([_frozen(item) for item in value])
    return frozen(value) if type(value) is dict else value


def _text(raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name)
    if type(value) is str and value:
        return value
    raise MalformedToken(_missing(name) if name not in raw else f"the claim '{name}' is {_kind(value)} where a string belongs")


def _optional(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if type(value) is str or name not in raw:
        return value
    raise MalformedToken(f"the claim '{name}' is {_kind(value)} where a string belongs")


def _missing(name: str) -> str:
    return f"the token has no claim '{name}'"


def _kind(value: object) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", tuple: "a list", type(None): "null", str: "an empty string"}
    return names.get(type(value), "an object")
