"""Kanidm → :class:`Found`: what there is, in the form of a state file, and what of it is ours. Five calls, whatever the size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import trio

from kiwi_id.errors import ConfigError, Problem
from kiwi_id.identities import marks
from kiwi_id.identities.fields import ssh_key
from kiwi_id.identities.model import (
    MARK_GROUP,
    OWN_ACCOUNT,
    RESERVED,
    Claim,
    Client,
    Group,
    Identities,
    Join,
    Kind,
    Person,
    Policy,
    Posix,
    ServiceAccount,
)
from kiwi_id.kanidm.accounts import groups_of_self
from kiwi_id.kanidm.entries import RestKind, list_entries
from kiwi_id.kanidm.rest import Entry, Kanidm
from kiwi_id.values import Refused

REST_KINDS: dict[Kind, RestKind] = {
    "person": "person",
    "group": "group",
    "service_account": "service_account",
    "client": "oauth2",
}
TAKES_CLASSES = "idm_oauth2_account_admins"
"""Kanidm 1.10 lets nobody else take a class from a person. It links people to logins elsewhere, too: no right for us to have."""
_SCOPE_MAP = re.compile(r"(.+?): \{(.*)\}")
_CLAIM_MAP = re.compile(r'([^:]+):(.+):([;, ]):"(.*)"')
_JOINS: dict[str, Join] = {";": "array", ",": "csv", " ": "ssv"}
POLICY_ATTRS = {
    "credential_minimum": "credential_type_minimum",
    "session_expiry": "authsession_expiry",
    "privilege_expiry": "privilege_expiry",
    "password_minimum_length": "auth_password_minimum_length",
    "search_max_results": "limit_search_max_results",
    "search_max_filter_test": "limit_search_max_filter_test",
    "unix_password_fallback": "allow_primary_cred_fallback",
}


@dataclass(frozen=True, slots=True)
class Found:
    """What Kanidm holds: ``identities`` without Kanidm's own accounts, ``uuids`` of every entry by name.

    ``owned``: names of what we made or adopted. ``builtin``: names of Kanidm's own entries. ``described``: what the descriptions
    say that entries were made for, by name; ``adopted``: the list of :mod:`kiwi_id.identities.marks`. ``takes_posix``: whether this
    session may take POSIX attributes from a person.
    """

    identities: Identities
    uuids: Mapping[str, str]
    owned: frozenset[str]
    builtin: frozenset[str]
    described: Mapping[str, str]
    adopted: Mapping[str, str]
    takes_posix: bool = False

    def was(self, kind: Kind, current: str, name: str) -> bool:
        """Return whether the entry of ours called ``current`` was made for, or adopted as, ``name``."""
        uuid = self.uuids[current]
        # What somebody has adopted is that from then on, whatever it was made for.
        noted = self.adopted.get(uuid, self.described.get(current))
        return marks.made_for(uuid, kind, name) if noted is None else noted == name


async def observe(kanidm: Kanidm) -> Found:
    """Read everything. Raises KanidmRefused, KanidmUnreachable, ConfigError when our list of adopted entries is damaged."""
    raw: dict[Kind, list[Entry]] = {}
    groups: frozenset[str] = frozenset()

    async def read(kind: Kind, path: RestKind) -> None:
        raw[kind] = await list_entries(kanidm, path)

    async def read_self() -> None:
        nonlocal groups
        groups = await groups_of_self(kanidm)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_self)
            for kind, path in REST_KINDS.items():
                nursery.start_soon(read, kind, path)
    except BaseExceptionGroup as group:  # one reason is enough, and callers know it by its own type
        raise next(iter(group.exceptions)) from None
    return replace(read_entries(raw), takes_posix=TAKES_CLASSES in groups)


def read_entries(raw: Mapping[Kind, list[Entry]]) -> Found:
    """Return what these attributes of entries, by kind, say. Raises ConfigError."""
    every = [(kind, _one(entry, "name"), entry) for kind, entries in raw.items() for entry in entries]
    uuids = {name: _one(entry, "uuid") for _, name, entry in every}
    builtin = frozenset(name for name, uuid in uuids.items() if marks.is_builtin(uuid))
    text = next((_one(entry, "description") for kind, name, entry in every if kind == "group" and name == MARK_GROUP), "")
    try:
        adopted = marks.read_list(text)
    except ValueError:
        fix = f"Somebody has edited it. Empty it, and adopt anew: kiwi-id apply --adopt NAME. It says: {text[:200]}"
        raise ConfigError([Problem(f"group {MARK_GROUP}", "description", "no list of adopted entries", "", fix)]) from None
    described = {
        name: made
        for kind, name, entry in every
        if kind in ("service_account", "client") and (made := marks.described_name(_one(entry, "description"))) is not None
    }
    owned = frozenset(name for name, uuid in uuids.items() if marks.is_marked(uuid) or uuid in adopted) | described.keys()
    hidden = builtin | RESERVED

    def named(kind: Kind) -> dict[str, Entry]:
        found = sorted((name, entry) for of, name, entry in every if of == kind and name not in RESERVED)
        return dict(found)

    groups = {name: _group(name, entry, builtin) for name, entry in named("group").items()}
    identities = Identities(
        persons={name: _person(name, entry) for name, entry in named("person").items()},
        groups=groups,
        service_accounts={name: _service_account(name, e) for name, e in named("service_account").items() if name not in hidden},
        clients={name: _client(name, entry) for name, entry in named("client").items()},
    )
    return Found(identities, uuids, (owned & uuids.keys()) - RESERVED - builtin, builtin, described, adopted)


def _one(entry: Entry, attr: str) -> str:
    values = entry.get(attr)
    return values[0] if values else ""


def short(spn: str) -> str:
    """Return the name of ``name@domain``."""
    return spn.partition("@")[0]


def _posix(entry: Entry, cls: str) -> Posix | None:
    if cls not in entry["class"]:
        return None
    gid = _one(entry, "gidnumber")
    return Posix(int(gid) if gid else None, _one(entry, "loginshell"))


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC).replace(microsecond=0) if text else None


def _person(name: str, entry: Entry) -> Person:
    mail = entry.get("mail", [])
    keys: dict[str, str] = {}
    for line in entry.get("ssh_publickey", ()):
        label, key = _labelled(line)
        keys[label] = key
    return Person(
        name,
        _one(entry, "displayname"),
        _one(entry, "legalname"),
        (*mail[:1], *sorted(mail[1:])),
        dict(sorted(keys.items())),
        _posix(entry, "posixaccount"),
        _time(_one(entry, "account_expire")),
        _time(_one(entry, "account_valid_from")),
    )


def _labelled(line: str) -> tuple[str, str]:
    """Return label and key; the label ends at the first ": " after which there is a key, for it may hold that itself."""
    parts = line.split(": ")
    for at in range(1, len(parts)):
        try:
            return ": ".join(parts[:at]), ssh_key(": ".join(parts[at:]))
        except Refused:
            continue
    label, _, key = line.partition(": ")  # of a kind that we do not know: shown as it is
    return label, key.strip()


def _group(name: str, entry: Entry, builtin: frozenset[str]) -> Group:
    members = frozenset(map(short, entry.get("member", ()))) - {OWN_ACCOUNT}
    policy: dict[str, Any] = {
        field: _policy_value(field, entry[attr][0]) for field, attr in POLICY_ATTRS.items() if entry.get(attr)
    }
    if name in builtin:  # what Kanidm itself has put there is nobody's to write down or take away
        return Group(name, members=members - builtin, policy=Policy(**policy) if policy else None)
    return Group(
        name,
        _one(entry, "description"),
        members,
        short(_one(entry, "entry_managed_by")),
        frozenset(entry.get("mail", ())),
        _posix(entry, "posixgroup"),
        Policy(**policy) if policy else None,
    )


def _policy_value(field: str, value: str) -> str | int | bool:
    if field == "credential_minimum":
        return value
    return value == "true" if field == "unix_password_fallback" else int(value)


def policy_text(value: str | int | bool) -> str:
    """Return a value of an account policy as Kanidm writes it."""
    return str(value).lower()


def _service_account(name: str, entry: Entry) -> ServiceAccount:
    return ServiceAccount(name, _one(entry, "displayname"), short(_one(entry, "entry_managed_by")))


def _client(name: str, entry: Entry) -> Client:
    kind: Literal["basic", "public"] = "public" if "oauth2_resource_server_public" in entry["class"] else "basic"
    claims: dict[str, tuple[Join, dict[str, frozenset[str]]]] = {}
    for line in entry.get("oauth2_rs_claim_map", ()):
        if match := _CLAIM_MAP.fullmatch(line):
            claim, group, join, values = match.groups()
            claims.setdefault(claim, (_JOINS[join], {}))[1][short(group)] = frozenset(values.split(","))
    return Client(
        name,
        _one(entry, "displayname"),
        kind,
        _one(entry, "oauth2_rs_origin_landing"),
        frozenset(entry.get("oauth2_rs_origin", ())),
        strict_redirect_uris=_one(entry, "oauth2_strict_redirect_uri") == "true",
        localhost_redirect=_one(entry, "oauth2_allow_localhost_redirect") == "true",
        scopes=_scopes(entry.get("oauth2_rs_scope_map", ())),
        supplementary_scopes=_scopes(entry.get("oauth2_rs_sup_scope_map", ())),
        claims={claim: Claim(join, dict(sorted(groups.items()))) for claim, (join, groups) in sorted(claims.items())},
        pkce=_one(entry, "oauth2_allow_insecure_client_disable_pkce") != "true",
        consent_prompt=_one(entry, "oauth2_consent_prompt_enable") != "false",
        short_username=_one(entry, "oauth2_prefer_short_username") == "true",
        legacy_crypto=_one(entry, "oauth2_jwt_legacy_crypto_enable") == "true",
    )


def _scopes(lines: list[str] | tuple[()]) -> dict[str, frozenset[str]]:
    found = {}
    for line in lines:
        if match := _SCOPE_MAP.fullmatch(line):
            found[short(match[1])] = frozenset(re.findall(r'"([^"]*)"', match[2]))
    return dict(sorted(found.items()))
