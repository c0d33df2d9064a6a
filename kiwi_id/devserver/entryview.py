"""How an entry looks in a REST answer, to an administrator, to itself and to others."""

from typing import Any

from kiwi_id.devserver.directory import ALL_PERSONS, Directory, Entry

__all__ = ["show"]

_REFERENCES = ("member", "entry_managed_by")
# What accounts without rights see of others, measured on 1.5.0.
_PUBLIC = frozenset({"class", "directmemberof", "displayname", "dynmember", "memberof", "name", "spn", "uuid"})
_JOINS = {"csv": ",", "ssv": " ", "array": ";"}


def show(directory: Directory, entry: Entry, viewer: Entry) -> dict[str, Any]:
    """The answer's `{"attrs": {...}}`, attributes sorted by name, as `viewer` may see it."""
    attrs = {key: list(values) for key, values in entry.attrs.items()}
    for attr in _REFERENCES:
        if attr in attrs:
            attrs[attr] = sorted(directory.spn(found) for found in map(directory.get, attrs[attr]) if found)
    attrs["uuid"] = [entry.uuid]
    attrs["spn"] = [directory.spn(entry)]
    every = directory.groups(entry)
    if every:
        attrs["class"] = sorted({*attrs["class"], "memberof"})
        attrs["directmemberof"] = [directory.spn(group) for group in directory.direct_groups(entry)]
        attrs["memberof"] = [directory.spn(group) for group in every]
    if entry.uuid == ALL_PERSONS:
        persons = [directory.spn(person) for person in directory.of_class("person")]
        if persons:
            attrs["dynmember"] = persons
    admin = directory.may_write(viewer)
    if ((admin and entry.is_a("person")) or viewer.uuid == entry.uuid) and entry.private.get("password"):
        attrs["primary_credential"] = ["primary"]
    if not admin and viewer.uuid != entry.uuid:
        attrs = {key: value for key, value in attrs.items() if key in _PUBLIC}
    elif entry.is_a("oauth2_resource_server"):
        attrs |= _client(directory, entry)
    return {"attrs": dict(sorted(attrs.items()))}


def _client(directory: Directory, entry: Entry) -> dict[str, list[str]]:
    shown = {"oauth2_rs_token_key": ["hidden"]}
    if entry.flag("oauth2_jwt_legacy_crypto_enable"):
        shown["rs256_private_key_der"] = ["private_binary"]
    else:
        shown["es256_private_key_der"] = ["private_binary"]
    if entry.is_a("oauth2_resource_server_basic"):
        shown["oauth2_rs_basic_secret"] = ["hidden"]
    for attr, kind in (("oauth2_rs_scope_map", "scopes"), ("oauth2_rs_sup_scope_map", "sup")):
        lines = []
        for key, scopes in entry.private[kind].items():
            group = directory.get(key)
            if group:
                quoted = ", ".join(f'"{scope}"' for scope in sorted(scopes))
                lines.append(f"{directory.spn(group)}: {{{quoted}}}")
        if lines:
            shown[attr] = lines
    claims = []
    for claim, data in entry.private["claims"].items():
        for key, values in data["groups"].items():
            group = directory.get(key)
            if group:
                claims.append(f'{claim}:{directory.spn(group)}:{_JOINS[data["join"]]}:"{",".join(values)}"')
    if claims:
        shown["oauth2_rs_claim_map"] = claims
    return shown
