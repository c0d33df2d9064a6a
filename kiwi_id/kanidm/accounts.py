"""Kanidm's service accounts and their API tokens, and whether an account has ever been given a credential: for bootstrap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kiwi_id.kanidm.rest import Kanidm, KanidmRefused

NEVER_USED = "invalid credential state"
"""What Kanidm says at the first step of a login to an account that has no credential at all (server/lib/src/idm/authsession.rs)."""


@dataclass(frozen=True, slots=True)
class ApiToken:
    """What Kanidm tells of an API token that exists; the token itself is shown once, when it is made."""

    token_id: str
    label: str


async def is_never_used(kanidm: Kanidm, name: str) -> bool:
    """Return whether the account ``name`` has no credential, so that nobody can be using it. Needs no session."""
    step = {"init2": {"username": name, "issue": "token", "privileged": False}}
    answer = await kanidm.call("POST", "/v1/auth", {"step": step})
    return bool(answer["state"].get("denied") == NEVER_USED)


async def create_service_account(kanidm: Kanidm, name: str, displayname: str, *, managed_by: str) -> bool:
    """Create a service account if absent; return whether it was created. ``managed_by`` may make and revoke its tokens."""
    if await kanidm.get("service_account", name) is not None:
        return False
    for kind in ("person", "group", "oauth2"):
        if await kanidm.get(kind, name) is not None:
            raise KanidmRefused(f"Kanidm has an entry '{name}' already, and it is no service account ({kind}).", 409)
    attrs = {"name": [name], "displayname": [displayname], "entry_managed_by": [managed_by]}
    await kanidm.call("POST", "/v1/service_account", {"attrs": attrs})
    return True


async def groups_of_self(kanidm: Kanidm) -> frozenset[str]:
    """Return the short names of all groups that the signed-in account is in."""
    entry = (await kanidm.call("GET", "/v1/self"))["youare"]["attrs"]
    return frozenset(spn.partition("@")[0] for spn in entry.get("memberof", ()))


async def make_api_token(kanidm: Kanidm, account: str, label: str) -> str:
    """Make an API token that may write and does not expire; it cannot be shown again."""
    body: dict[str, Any] = {"label": label, "expiry": None, "read_write": True}
    token: str = await kanidm.call("POST", f"/v1/service_account/{account}/_api_token", body)
    return token


async def api_tokens(kanidm: Kanidm, account: str) -> list[ApiToken]:
    """Return the API tokens of a service account, in Kanidm's order."""
    answer = await kanidm.call("GET", f"/v1/service_account/{account}/_api_token")
    return [ApiToken(found["token_id"], found["label"]) for found in answer]


async def revoke_api_token(kanidm: Kanidm, account: str, token_id: str) -> None:
    """Revoke an API token. Kanidm goes on to honour one that is younger than five minutes (server/lib/src/idm/server.rs)."""
    await kanidm.call("DELETE", f"/v1/service_account/{account}/_api_token/{token_id}")
