"""The keys of a state file, one row each: parser and default. The limits are Kanidm's own (server/lib/src/value.rs)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from kiwi_id import values
from kiwi_id.identities.model import RESERVED, Claim, Kind, Policy, Posix
from kiwi_id.values import Refused, shown

T = TypeVar("T")

# INAME_RE and DISALLOWED_NAMES; names that mean somebody else to a Linux host are refused by Kanidm, too.
_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_MAIL = re.compile(
    r"[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*"
)
_SSH = re.compile(r"([a-z][a-z0-9@.-]+) ([A-Za-z0-9+/]{16,}={0,3})(?: .*)?")
# Kanidm shows label and key as one text, and what follows ": " in a label must not look like a key.
_LABEL = re.compile(r"(?!.*: [a-z][a-z0-9@.-]+ )[^\x00-\x1f\x7f-\x9f]{1,128}")
_SCOPE = re.compile(r"[0-9a-zA-Z_]+")
# OAUTH_CLAIMNAME_RE of 1.10; 1.5.0 has only letters, digits and the underscore, and says so itself.
_CLAIM_VALUE = re.compile(r"[0-9a-zA-Z_]+(?:[:-][0-9a-zA-Z_]+)*")
_SHELL = re.compile(r"/[\x21-\x7e]{1,255}")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Field:
    """One key: how to parse it, and what it is when it is not there."""

    parse: Callable[[Any], Any]
    default: Any


def entry_name(value: Any) -> str:
    """Check the name of an entry of the file's own. Raises Refused."""
    name = reference(value)
    if name in RESERVED:
        raise Refused(shown(value), "any other name", "Kiwi ID keeps this one for itself.")
    return name


def reference(value: Any) -> str:
    """Check the name of an entry, which may be Kanidm's own. Raises Refused."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Refused(shown(value), "a name of up to 64 of a-z, 0-9, '-', '_' and '.', beginning with a letter")
    return value


def text(value: Any, *, most: int = 8192, empty: bool = True) -> str:
    """Check one line of text without control characters. Raises Refused."""
    if not isinstance(value, str) or len(value) > most or not (value or empty) or re.search(r"[\x00-\x1f\x7f-\x9f]", value):
        raise Refused(shown(value), f"a string on one line of {0 if empty else 1} to {most} characters")
    return value


def many(value: Any, parse: Callable[[Any], T], example: str) -> tuple[T, ...]:
    """Check an array with each value once. Raises Refused."""
    if not isinstance(value, list):
        raise Refused(shown(value), f"an array, such as {example}")
    found = tuple(parse(item) for item in value)
    if twice := next((item for index, item in enumerate(found) if item in found[:index]), None):
        raise Refused(f"{shown(twice)} twice", "each once")
    return found


def table(value: Any, key: Callable[[Any], str], parse: Callable[[Any], T], example: str) -> dict[str, T]:
    """Check a table whose keys are free; the result is sorted by them. Raises Refused, which names the key."""
    if not isinstance(value, dict):
        raise Refused(shown(value), f"a table, such as {example}")
    found: dict[str, T] = {}
    for name in sorted(value):
        try:
            found[key(name)] = parse(value[name])
        except Refused as refused:
            raise Refused(f"'{name}' with {refused.found}", refused.allowed, refused.fix) from None
    return found


def record(value: Any, fields: Mapping[str, Field], what: str) -> dict[str, Any]:
    """Check a table whose keys are known. Raises Refused, which names the key."""
    if not isinstance(value, dict):
        raise Refused(shown(value), f"a table of {what}: {', '.join(fields)}")
    for name in value:
        if name not in fields:
            raise Refused(f"an unknown key '{name}'", f"in {what}: {', '.join(fields)}")
    found: dict[str, Any] = {}
    for name, row in fields.items():
        try:
            found[name] = row.parse(value[name]) if name in value else row.default
        except Refused as refused:
            raise Refused(f"'{name}' with {refused.found}", refused.allowed, refused.fix) from None
    return found


def _mail(value: Any) -> str:
    if not isinstance(value, str) or not _MAIL.fullmatch(value):
        raise Refused(shown(value), "a mail address")
    return value


def _person_mail(value: Any) -> tuple[str, ...]:
    """The first is the primary one; Kanidm keeps no order among the others."""
    found = many(value, _mail, '["alice@example.com"]')
    return (*found[:1], *sorted(found[1:]))


def ssh_key(value: Any) -> str:
    """Return type and key without the comment, which 1.5.0 and 1.10 store differently. Raises Refused."""
    match = _SSH.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise Refused(shown(value), 'a public key as in authorized_keys, such as "ssh-ed25519 AAAA…"')
    return f"{match[1]} {match[2]}"


def _matching(pattern: re.Pattern[str], allowed: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise Refused(shown(value), allowed)
        return value

    return parse


_label = _matching(_LABEL, "a label of up to 128 characters on one line, without a key after ': ' in it")
scope = _matching(_SCOPE, "a scope of letters, digits and '_'")
_claim = _matching(_SCOPE, "a claim's name of letters, digits and '_'")
_value = _matching(_CLAIM_VALUE, "a value of letters, digits and '_', from Kanidm 1.10 on with '-' and ':' between them")
_shell = _matching(_SHELL, 'the absolute path of a shell, such as "/bin/bash"')


def moment(value: Any) -> datetime:
    """Return a TOML date-time with an offset, in UTC and whole seconds. Raises Refused."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise Refused(shown(value), "a date and time with an offset, without quotes, such as 2027-01-31T18:00:00Z")
    return value.astimezone(UTC).replace(microsecond=0)


def _whole_seconds(value: Any, *, low: float, high: float) -> int:
    return int(values.duration(value, low=low, high=high))


def uri(value: Any, *, fragment: bool = False) -> str:
    """Return a URI in the form that Kanidm stores (WHATWG URL): lower-case scheme and host, no default port.

    A redirect URI has no fragment (RFC 6749 §3.1.2); the address that people open may have one. Raises Refused.
    """
    checked = values.uri(value, fragment=fragment)
    scheme, _, rest = checked.partition(":")
    # Kanidm would store these otherwise, and whoever compares URIs by hand would look in vain for what is different.
    path, mark, query = rest.partition("?")
    if (
        re.search(r"""["<>\\^`{}]|/(?:\.|%2e){1,2}(?:[/?#]|$)""", path + mark, re.IGNORECASE)
        or re.search(r"""["'<>\\`]""", query)
        or ("'" in path and scheme.lower() not in _PORTS)
    ):
        raise Refused(
            shown(value),
            "a URI without dot segments and without quotes, <, >, \\, ^ and `; before the ? without { and }",
            "Write them as %XX.",
        )
    parts = urlsplit(checked)
    if parts.scheme not in _PORTS:
        return f"{scheme.lower()}:{rest}"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    if parts.port not in (None, _PORTS[parts.scheme]):
        host += f":{parts.port}"
    return parts._replace(netloc=host, path=parts.path or "/").geturl()


def _scopes(value: Any) -> dict[str, frozenset[str]]:
    example = '{ staff = ["openid", "email"] }'
    found = table(value, reference, lambda scopes: frozenset(many(scopes, scope, '["openid"]')), example)
    return {group: scopes for group, scopes in found.items() if scopes}


def _claims(value: Any) -> dict[str, Claim]:
    def claim(found: Any) -> Claim:
        return Claim(**record(found, _CLAIM, "a claim"))

    found = table(value, _claim, claim, '{ role = { values = { staff = ["writer"] } } }')
    return {name: one for name, one in found.items() if one.values}  # Kanidm keeps no claim without values


def _by_group(value: Any) -> dict[str, frozenset[str]]:
    def some(found: Any) -> frozenset[str]:
        if found == []:
            raise Refused("an empty array", "one value or more", "Leave the group out.")
        return frozenset(many(found, _value, '["writer"]'))

    return table(value, reference, some, '{ staff = ["writer"] }')


_CLAIM = {"join": Field(values.one_of("array", "csv", "ssv"), "array"), "values": Field(_by_group, {})}
# Kanidm takes some of these ranges only (server/lib/src/plugins/gidnumber.rs) and says which.
_GID = Field(partial(values.integer, low=1000, high=(1 << 31) - 1), None)
_MOST = (1 << 32) - 1  # of Kanidm's numbers
_COUNT = partial(values.integer, low=1, high=_MOST)
_TIME = partial(_whole_seconds, low=0, high=_MOST)
_POLICY = {
    "credential_minimum": Field(values.one_of("any", "mfa", "passkey", "attested_passkey"), None),
    "session_expiry": Field(_TIME, None),
    "privilege_expiry": Field(_TIME, None),
    "password_minimum_length": Field(partial(values.integer, low=1, high=1024), None),
    "search_max_results": Field(_COUNT, None),
    "search_max_filter_test": Field(_COUNT, None),
    "unix_password_fallback": Field(values.boolean, None),
}


def _posix(fields: Mapping[str, Field]) -> Callable[[Any], Posix]:
    return lambda value: Posix(**record(value, fields, "posix"))


def _policy(value: Any) -> Policy | None:
    return Policy(**record(value, _POLICY, "policy")) if value != {} else None


_references = partial(many, parse=reference, example='["alice"]')
_ADOPT = Field(values.boolean, False)

FIELDS: dict[Kind, dict[str, Field]] = {
    "person": {
        "display_name": Field(partial(text, empty=False), ""),
        "legal_name": Field(text, ""),
        "mail": Field(_person_mail, ()),
        "groups": Field(_references, ()),
        "ssh_keys": Field(partial(table, key=_label, parse=ssh_key, example='{ laptop = "ssh-ed25519 AAAA…" }'), {}),
        "posix": Field(_posix({"gid": _GID, "shell": Field(_shell, "")}), None),
        "expires": Field(moment, None),
        "valid_from": Field(moment, None),
        "adopt": _ADOPT,
    },
    "group": {
        "description": Field(text, ""),
        "members": Field(lambda value: frozenset(_references(value)), frozenset()),
        "managed_by": Field(reference, ""),
        "mail": Field(lambda value: frozenset(many(value, _mail, '["staff@example.com"]')), frozenset()),
        "posix": Field(_posix({"gid": _GID}), None),
        "policy": Field(_policy, None),
        "adopt": _ADOPT,
    },
    "service_account": {
        "display_name": Field(partial(text, empty=False), ""),
        "managed_by": Field(reference, "idm_admins"),
        "groups": Field(_references, ()),
        "adopt": _ADOPT,
    },
    "client": {
        "display_name": Field(partial(text, empty=False), ""),
        "type": Field(values.one_of("basic", "public"), "basic"),
        "landing": Field(partial(uri, fragment=True), ""),
        "redirect_uris": Field(lambda value: frozenset(many(value, uri, '["https://mail.example.com/callback"]')), frozenset()),
        "strict_redirect_uris": Field(values.boolean, True),
        "localhost_redirect": Field(values.boolean, False),
        "scopes": Field(_scopes, {}),
        "supplementary_scopes": Field(_scopes, {}),
        "claims": Field(_claims, {}),
        "pkce": Field(values.boolean, True),
        "consent_prompt": Field(values.boolean, True),
        "short_username": Field(values.boolean, False),
        "legacy_crypto": Field(values.boolean, False),
        "secret_file": Field(values.path, None),
        "previous_secret_file": Field(values.path, None),
        "previous_secret_until": Field(moment, None),
        "adopt": _ADOPT,
    },
}
