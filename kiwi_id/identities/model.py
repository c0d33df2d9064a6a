"""What a state file says and what Kanidm holds, in one form: frozen, and normalised so that equal means equal in Kanidm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

Kind = Literal["person", "group", "service_account", "client"]
KINDS: tuple[Kind, ...] = ("person", "group", "service_account", "client")
Join = Literal["array", "csv", "ssv"]

MARK_GROUP = "kiwi_managed"
"""The group that holds, in its description, which entries were adopted; it has no members (see :mod:`kiwi_id.identities.marks`)."""
OWN_ACCOUNT = "kiwi_id"
"""Kiwi ID's own service account, which no state file has and no apply takes out of a group."""
RESERVED = frozenset({MARK_GROUP, OWN_ACCOUNT})
OUR_FIELDS = ("secret_file", "previous_secret_file", "previous_secret_until")
"""Fields of a client that Kanidm does not know."""


@dataclass(frozen=True, slots=True)
class Posix:
    """POSIX account or group: ``gid`` None lets Kanidm choose (and equals any); ``shell`` is of accounts only."""

    gid: int | None = None
    shell: str = ""


@dataclass(frozen=True, slots=True)
class Person:
    """A person. The first of ``mail`` is the primary address; ``ssh_keys`` by label, without their comments.

    ``expires`` and ``valid_from`` None mean: not this file's business, so that ``kiwi-id user disable`` lasts.
    """

    name: str
    display_name: str = ""
    legal_name: str = ""
    mail: tuple[str, ...] = ()
    ssh_keys: Mapping[str, str] = field(default_factory=dict)
    posix: Posix | None = None
    expires: datetime | None = None
    valid_from: datetime | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Account policy of a group's members; None: this group says nothing of it. Times in seconds."""

    credential_minimum: str | None = None
    session_expiry: int | None = None
    privilege_expiry: int | None = None
    password_minimum_length: int | None = None
    search_max_results: int | None = None
    search_max_filter_test: int | None = None
    unix_password_fallback: bool | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A group; ``members`` and ``managed_by`` are names of persons, groups, service accounts or clients."""

    name: str
    description: str = ""
    members: frozenset[str] = frozenset()
    managed_by: str = ""
    mail: frozenset[str] = frozenset()
    posix: Posix | None = None
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A service account; its tokens are no part of a state file. ``display_name`` is empty where Kanidm does not show it."""

    name: str
    display_name: str = ""
    managed_by: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim of an OAuth2 client: values by group, joined as an array or as one string."""

    join: Join = "array"
    values: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Client:
    """An OAuth2 client; ``name`` is its ``client_id``. ``pkce`` False and ``localhost_redirect`` exist for one type each.

    The three last are Kiwi ID's, not Kanidm's (:mod:`kiwi_id.identities.secret_files`): no change in Kanidm comes of them.
    """

    name: str
    display_name: str = ""
    type: Literal["basic", "public"] = "basic"
    landing: str = ""
    redirect_uris: frozenset[str] = frozenset()
    strict_redirect_uris: bool = True
    localhost_redirect: bool = False
    scopes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    supplementary_scopes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    claims: Mapping[str, Claim] = field(default_factory=dict)
    pkce: bool = True
    consent_prompt: bool = True
    short_username: bool = False
    legacy_crypto: bool = False
    secret_file: Path | None = None
    previous_secret_file: Path | None = None
    previous_secret_until: datetime | None = None


Entry = Person | Group | ServiceAccount | Client


@dataclass(frozen=True, slots=True)
class Identities:
    """Everything of a state file, by name; names are unique over all kinds, as they are in Kanidm.

    ``adopt`` names entries that may be taken over, ``places`` says where each entry is written (``file:line``), ``lines`` the same
    of each key by its whole name (``groups.staff.members``).
    """

    persons: Mapping[str, Person] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    service_accounts: Mapping[str, ServiceAccount] = field(default_factory=dict)
    clients: Mapping[str, Client] = field(default_factory=dict)
    prune: bool = False
    adopt: frozenset[str] = frozenset()
    places: Mapping[str, str] = field(default_factory=dict)
    lines: Mapping[str, str] = field(default_factory=dict)

    def of(self, kind: Kind) -> Mapping[str, Entry]:
        """Return the entries of one kind, by name."""
        tables: dict[Kind, Mapping[str, Entry]] = {
            "person": self.persons,
            "group": self.groups,
            "service_account": self.service_accounts,
            "client": self.clients,
        }
        return tables[kind]

    def kind_of(self, name: str) -> Kind | None:
        """Return what ``name`` is here, None when it is nothing."""
        return next((kind for kind in KINDS if name in self.of(kind)), None)
