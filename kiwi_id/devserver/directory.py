"""Accounts, groups and clients: Kanidm's entries, with the built-in ones that our flows meet.

An entry has public attributes (lists of strings, as the REST answers show them) and private data (credentials, sessions,
keys). References between entries are kept as UUIDs and shown as `name@domain`.
"""

import time
import uuid
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography.fernet import Fernet

from kiwi_id.devserver import schema
from kiwi_id.devserver.crypto import SigningKey, new_secret
from kiwi_id.devserver.http import ApiError
from kiwi_id.devserver.store import Store

__all__ = ["ALL_PERSONS", "ANONYMOUS", "Directory", "Entry"]

ALL_PERSONS = "00000000-0000-0000-0000-000000000035"
ANONYMOUS = "00000000-0000-0000-0000-ffffffffffff"
_ALL_ACCOUNTS = "00000000-0000-0000-0000-000000000036"
_ADMIN = "00000000-0000-0000-0000-000000000000"
_IDM_ADMIN = "00000000-0000-0000-0000-000000000018"
_IDM_ADMINS = "00000000-0000-0000-0000-000000000001"
_SYSTEM_ADMINS = "00000000-0000-0000-0000-000000000019"
# name, uuid, members. UUIDs from server/lib/src/constants/uuids.rs.
_GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("idm_admins", _IDM_ADMINS, (_IDM_ADMIN,)),
    ("idm_people_admins", "00000000-0000-0000-0000-000000000013", (_IDM_ADMINS,)),
    ("idm_group_admins", "00000000-0000-0000-0000-000000000015", (_IDM_ADMINS,)),
    ("system_admins", _SYSTEM_ADMINS, (_ADMIN,)),
    ("domain_admins", "00000000-0000-0000-0000-000000000020", (_ADMIN,)),
    ("idm_oauth2_admins", "00000000-0000-0000-0000-000000000027", (_IDM_ADMINS,)),
    ("idm_all_persons", ALL_PERSONS, ()),
    ("idm_all_accounts", _ALL_ACCOUNTS, ()),
    ("idm_service_desk", "00000000-0000-0000-0000-000000000041", (_IDM_ADMINS,)),
    ("idm_service_account_admins", "00000000-0000-0000-0000-000000000046", (_IDM_ADMINS,)),
    ("idm_account_policy_admins", "00000000-0000-0000-0000-000000000047", (_IDM_ADMINS,)),
    ("idm_unix_admins", "00000000-0000-0000-0000-000000000044", (_IDM_ADMINS,)),
    ("idm_people_self_name_write", "00000000-0000-0000-0000-000000000048", (ALL_PERSONS,)),
)
# The real server splits writing into many access profiles; here whoever is in one of the groups that have them may write all.
_WRITERS = frozenset(key for name, key, _ in _GROUPS if name.endswith("_admins"))
_UNIQUE = ("name", "mail", "gidnumber")
_REFERENCES = frozenset({"member", "entry_managed_by"})


@dataclass(slots=True)
class Entry:
    """One entry. `private` holds what no answer shows: credentials, sessions, keys, scope maps."""

    uuid: str
    attrs: dict[str, list[str]]
    private: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The entry's short name."""
        return self.attrs["name"][0]

    def first(self, attr: str) -> str | None:
        """The first value of an attribute, or None."""
        values = self.attrs.get(attr)
        return values[0] if values else None

    def flag(self, attr: str) -> bool:
        """Whether a boolean attribute is "true"."""
        return self.first(attr) == "true"

    @property
    def expired(self) -> bool:
        """Whether the account may not be used now, by its `account_expire` (server/lib/src/idm/account.rs)."""
        ends = self.first("account_expire")
        return bool(ends) and datetime.fromisoformat(str(ends)).timestamp() <= time.time()

    def is_a(self, cls: str) -> bool:
        """Whether the entry has the class `cls`."""
        return cls in self.attrs["class"]


class Directory:
    """All entries, in memory, written through to the store."""

    def __init__(self, store: Store, domain: str) -> None:
        self.domain = domain
        self._store = store
        # Of entries in the recycle bin: Kanidm gives no UUID twice.
        self._gone: set[str] = set(store.all("gone"))
        self._entries: dict[str, Entry] = {
            key: Entry(key, value["attrs"], value["private"]) for key, value in store.all("entry").items()
        }
        if not self._entries:
            self._make_builtins()
        keys = store.all("key")
        if "domain" not in keys:
            keys["domain"] = SigningKey.generate().pem()
            store.put("key", "domain", keys["domain"])
        self.session_key = SigningKey.from_pem(keys["domain"])

    def _make_builtins(self) -> None:
        entries = []
        for name, key, members in _GROUPS:
            attrs = {"class": ["builtin", "group", "object"], "name": [name], "description": [f"Builtin group {name}."]}
            if members:
                attrs["member"] = list(members)
            if key == ALL_PERSONS:
                # A fresh database asks persons for a second factor (server/lib/src/constants/groups.rs).
                attrs["class"] = ["account_policy", "builtin", "dyngroup", "group", "object", "system"]
                attrs["credential_type_minimum"] = ["mfa"]
            entries.append(Entry(key, attrs))
        for name, key, display in (
            ("admin", _ADMIN, "System Administrator"),
            ("idm_admin", _IDM_ADMIN, "IDM Administrator"),
            ("anonymous", ANONYMOUS, "Anonymous"),
        ):
            classes = ["account", "builtin", "object", "service_account"]
            entries.append(Entry(key, {"class": classes, "name": [name], "displayname": [display]}))
        self._entries = {entry.uuid: entry for entry in entries}
        self._store.put_all("entry", {e.uuid: {"attrs": e.attrs, "private": e.private} for e in entries})

    def save(self, entry: Entry) -> None:
        """Write one changed entry to the store."""
        self._entries[entry.uuid] = entry
        self._store.put("entry", entry.uuid, {"attrs": entry.attrs, "private": entry.private})

    def get(self, key: str) -> Entry | None:
        """Find by UUID, name or `name@domain`."""
        if key in self._entries:
            return self._entries[key]
        name = key.lower().removesuffix("@" + self.domain)
        return next((e for e in self._entries.values() if e.name == name), None)

    def of_class(self, cls: str) -> list[Entry]:
        """Every entry of a class, in order of creation."""
        return [e for e in self._entries.values() if e.is_a(cls)]

    def client(self, name: str) -> Entry | None:
        """The OAuth2 client with exactly this name."""
        entry = self.get(name)
        return entry if entry and entry.is_a("oauth2_resource_server") and entry.name == name else None

    def spn(self, entry: Entry) -> str:
        """`name@domain`."""
        return f"{entry.name}@{self.domain}"

    def create(self, classes: Iterable[str], attrs: dict[str, list[str]]) -> Entry:
        """Make a new entry; raises ApiError as Kanidm does for what is missing, unknown or taken."""
        if not attrs.get("name"):
            raise ApiError(500, "invalidentrystate")
        [entry] = self.create_many([{**attrs, "class": [*classes, *attrs.get("class", [])]}])
        return entry

    def create_many(self, entries: list[dict[str, list[str]]]) -> list[Entry]:
        """Make new entries, classes included, all or none; they may name each other by the UUIDs that they bring."""
        coming = {value for attrs in entries for value in attrs.get("uuid", ())}
        made: list[Entry] = []
        try:
            for attrs in entries:
                entry = self._new(attrs, coming)
                made.append(entry)
                self._entries[entry.uuid] = entry
        except ApiError:
            for entry in made:
                del self._entries[entry.uuid]
            raise
        self._store.put_all("entry", {entry.uuid: {"attrs": entry.attrs, "private": entry.private} for entry in made})
        return made

    def _new(self, attrs: dict[str, list[str]], coming: set[str]) -> Entry:
        classes = sorted({"object", *attrs.get("class", [])})
        key = attrs.get("uuid", [str(uuid.uuid4())])[0]
        if key in self._entries or key in self._gone:
            raise ApiError(500, {"plugin": {"base": "Uuid duplicate found in database"}})
        if key in coming and not {"person", "group"} & set(classes):
            # Of the profiles for creating entries only these two have the attribute (server/lib/src/constants/acp.rs).
            raise ApiError(403, "accessdenied")
        stored = {
            attr: self._refer(attr, schema.check(classes, attr, values), coming) for attr, values in attrs.items() if attr != "uuid"
        }
        stored["class"] = classes
        for cls in classes:
            missing = [attr for attr in schema.REQUIRED.get(cls, ()) if not stored.get(attr)]
            if missing:
                raise ApiError(400, {"schemaviolation": {"missingmustattribute": missing}})
        entry = Entry(key, stored)
        self._check_unique(entry)
        if entry.is_a("oauth2_resource_server"):
            entry.private = {"secret": new_secret(), "scopes": {}, "sup": {}, "claims": {}, "o2": {}}
            entry.private["key"] = SigningKey.generate().pem()
            entry.private["box"] = Fernet.generate_key().decode()
        return entry

    def change(self, entry: Entry, changes: list[tuple[str, str, str]]) -> None:
        """Carry out ``present``, ``removed`` and ``purged`` changes (kind, attribute, value) of one entry, all or none."""
        attrs = {attr: list(values) for attr, values in entry.attrs.items()}
        for kind, attr, value in changes:
            if kind == "purged":
                attrs.pop(attr, None)
                continue
            [stored] = self._refer(attr, schema.check(schema.ANY, attr, [value]))
            if kind == "present" and stored not in attrs.get(attr, ()):
                attrs.setdefault(attr, []).append(stored)
            elif kind == "removed":
                attrs[attr] = [other for other in attrs.get(attr, ()) if other != stored]
        attrs = {attr: schema.check(attrs["class"], attr, values) for attr, values in attrs.items() if values}
        attrs["class"].sort()
        for attr, values in attrs.items():
            if attr in schema.SINGLE and len(values) > 1:
                raise ApiError(400, {"schemaviolation": {"invalidattributesyntax": attr}})
        if not attrs.get("name"):
            raise ApiError(400, {"schemaviolation": {"missingmustattribute": ["name"]}})
        self._check_unique(Entry(entry.uuid, attrs))
        entry.attrs = attrs
        self.save(entry)

    def modify(self, entry: Entry, attr: str, values: list[str] | None) -> None:
        """Replace one attribute's values; None or an empty list removes it."""
        changed = dict(entry.attrs)
        kept = self._refer(attr, schema.check(entry.attrs["class"], attr, values or []))
        if kept:
            changed[attr] = list(dict.fromkeys(kept))
            if attr == "class":
                changed[attr].sort()
        else:
            changed.pop(attr, None)
        if not changed.get("name"):
            raise ApiError(400, {"schemaviolation": {"missingmustattribute": ["name"]}})
        self._check_unique(Entry(entry.uuid, changed))
        entry.attrs = changed
        self.save(entry)

    def delete(self, entry: Entry) -> None:
        """Remove an entry and every reference to it."""
        del self._entries[entry.uuid]
        self._store.delete("entry", entry.uuid)
        self._store.put("gone", entry.uuid, None)
        self._gone.add(entry.uuid)
        for other in list(self._entries.values()):
            for attr in _REFERENCES & other.attrs.keys():
                if entry.uuid in other.attrs[attr]:
                    self.modify(other, attr, [v for v in other.attrs[attr] if v != entry.uuid])
            if self._forget(other, entry.uuid):
                self.save(other)

    @staticmethod
    def _forget(other: Entry, gone: str) -> bool:
        claims = other.private.get("claims", {}).values()
        maps = [other.private.get(name, {}) for name in ("scopes", "sup", "consents")] + [c["groups"] for c in claims]
        # Every map, not just the first that names it.
        return sum(found.pop(gone, None) is not None for found in maps) > 0

    def _refer(self, attr: str, values: list[str], coming: Container[str] = ()) -> list[str]:
        if attr not in _REFERENCES:
            return values
        found = [value if value in coming else (self.get(value) or Entry("", {})).uuid for value in values]
        if "" in found:
            raise ApiError(500, {"plugin": {"referentialintegrity": "Uuid referenced not found in database"}})
        return found

    def _check_unique(self, entry: Entry) -> None:
        for other in self._entries.values():
            if other.uuid == entry.uuid:
                continue
            for attr in _UNIQUE:
                if set(entry.attrs.get(attr, ())) & set(other.attrs.get(attr, ())):
                    raise ApiError(500, {"plugin": {"attrunique": "duplicate value detected"}})

    def direct_groups(self, entry: Entry) -> list[Entry]:
        """The groups that name this entry as a member, the dynamic ones included, in order of UUID."""
        found = [
            group
            for group in self.of_class("group")
            if entry.uuid in group.attrs.get("member", ())
            or (group.uuid == ALL_PERSONS and entry.is_a("person"))
            or (group.uuid == _ALL_ACCOUNTS and entry.is_a("account"))
        ]
        return sorted(found, key=lambda group: group.uuid)

    def groups(self, entry: Entry) -> list[Entry]:
        """Every group the entry is in, through other groups too, in order of UUID."""
        found: dict[str, Entry] = {}
        todo = [entry]
        while todo:
            for group in self.direct_groups(todo.pop()):
                if group.uuid not in found:
                    found[group.uuid] = group
                    todo.append(group)
        return [found[key] for key in sorted(found)]

    def may_write(self, entry: Entry) -> bool:
        """Whether this account is an administrator, who sees and changes everything."""
        return any(group.uuid in _WRITERS for group in self.groups(entry))

    def needs_mfa(self, entry: Entry) -> bool:
        """Whether account policy asks for more than a password (`credential_type_minimum` of the entry's groups)."""
        return any(group.first("credential_type_minimum") not in (None, "any") for group in self.groups(entry))
