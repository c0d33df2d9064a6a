"""Kanidm's entries in bulk: many created in one transaction, one changed in one transaction, and the maps of OAuth2 clients.

``/v1/raw/…`` takes the attributes that the other paths take, under the same access rules, and one call is one transaction
(server/core/src/https/v1.rs, ``raw_create``, ``raw_modify``; alike from 1.5.0 to 1.10.5). Kanidm writes one transaction at a
time: fifty persons in one call take a tenth of the time of fifty calls, however many of those are in flight.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal
from urllib.parse import quote

from kiwi_id.kanidm.rest import Entry, Kanidm, KanidmRefused

RestKind = Literal["person", "group", "service_account", "oauth2"]
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
Mod = dict[str, str | list[str]]
"""One change of an attribute: ``present`` or ``removed`` with name and value, or ``purged`` with the name."""


class TooManyEntries(KanidmRefused):
    """Kanidm returns no more than 1,024 entries to a person's session; API tokens have no such limit."""


async def list_entries(kanidm: Kanidm, kind: RestKind) -> list[Entry]:
    """Return the attributes of all entries of a kind. Raises TooManyEntries."""
    try:
        return [entry["attrs"] for entry in await kanidm.call("GET", f"/v1/{kind}")]
    except KanidmRefused as refused:
        if refused.status == 500 and '"backend"' in str(refused):  # OperationError::Backend: limit_search_max_results
            raise TooManyEntries(
                f"Kanidm shows no more than 1,024 entries of the kind {kind} to an administrator's session. Kiwi ID's own account "
                "has no such limit: kiwi-id bootstrap",
                refused.status,
            ) from None
        raise


async def create_many(kanidm: Kanidm, entries: Sequence[Entry]) -> None:
    """Create all these entries, classes and UUIDs included, or none. Raises KanidmRefused."""
    await kanidm.call("POST", "/v1/raw/create", {"entries": [{"attrs": entry} for entry in entries]})


async def modify(kanidm: Kanidm, key: str, mods: Sequence[Mod]) -> None:
    """Carry out all these changes of the entry whose UUID or name is ``key``, in order, or none. Raises KanidmRefused."""
    body = {"filter": {"eq": ["uuid" if _UUID.fullmatch(key) else "name", key]}, "modlist": {"mods": list(mods)}}
    await kanidm.call("POST", "/v1/raw/modify", body)


def replace(attr: str, values: Sequence[str]) -> list[Mod]:
    """Return the changes that leave an attribute with exactly these values, the first of them first."""
    mods: list[Mod] = [{"purged": attr}]
    return mods + [{"present": [attr, value]} for value in values]


async def delete(kanidm: Kanidm, kind: RestKind, key: str) -> None:
    """Delete the entry of that UUID, or of that name (clients); one that is gone is no error. Raises KanidmRefused.

    Kanidm keeps it in its recycle bin for a while.
    """
    try:
        await kanidm.call("DELETE", f"/v1/{kind}/{key}")
    except KanidmRefused as refused:
        if refused.status != 404:
            raise


async def set_ssh_key(kanidm: Kanidm, person: str, label: str, key: str) -> None:
    """Give a person a public key under a new label; under one that is there Kanidm keeps the old key."""
    await kanidm.call("POST", f"/v1/person/{person}/_ssh_pubkeys", [label, key])


async def remove_ssh_key(kanidm: Kanidm, person: str, label: str) -> None:
    """Take the public key of that label from a person; none there is no error."""
    await kanidm.call("DELETE", f"/v1/person/{person}/_ssh_pubkeys/{quote(label, safe='')}")


async def set_scopes(kanidm: Kanidm, client: str, group: str, scopes: Sequence[str], *, supplementary: bool = False) -> None:
    """Map scopes to a group, instead of those mapped before; none removes the map."""
    path = f"/v1/oauth2/{client}/{'_sup_scopemap' if supplementary else '_scopemap'}/{group}"
    await kanidm.call(*(("POST", path, list(scopes)) if scopes else ("DELETE", path)))


async def set_claim(kanidm: Kanidm, client: str, claim: str, group: str, values: Sequence[str]) -> None:
    """Map values of a claim to a group, instead of those mapped before; none removes the map."""
    path = f"/v1/oauth2/{client}/_claimmap/{claim}/{group}"
    await kanidm.call(*(("POST", path, list(values)) if values else ("DELETE", path)))


async def set_claim_join(kanidm: Kanidm, client: str, claim: str, join: str) -> None:
    """Say how a claim's values are joined; it must have values already."""
    await kanidm.call("POST", f"/v1/oauth2/{client}/_claimmap/{claim}", join)
