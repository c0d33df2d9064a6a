"""What the tests of this directory share: state files as text, sessions, applies that crash."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kiwi_id.bootstrap import ACCOUNT, GROUPS
from kiwi_id.identities.apply import Done, apply
from kiwi_id.identities.diff import Difference, diff
from kiwi_id.identities.load import parse
from kiwi_id.identities.model import Identities
from kiwi_id.identities.observe import observe
from kiwi_id.kanidm import accounts
from kiwi_id.kanidm.admin import recover_account
from kiwi_id.kanidm.pin import client_context
from kiwi_id.kanidm.rest import Kanidm
from tests.devserver.servers import Server

KEYS = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAeGXQdUwUvBNlEZKMYpDWDyKHNvlBmVHIWdCHhiuOkk",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6HVc5zrVS4Q8oOU6V3gA8dyKUbJWxYPoxDL6Wns0ur",
)

EVERYTHING = f"""
[persons.alice]
display_name = "Alice Example"
legal_name = "Alice E."
mail = ["alice@example.com", "z@example.com", "b@example.com"]
groups = ["staff"]
ssh_keys = {{ laptop = "{KEYS[0]} alice@laptop", "old: one" = "{KEYS[1]}" }}
posix = {{ gid = 70100, shell = "/bin/bash" }}
expires = 2030-01-01T00:00:00Z

[persons.bob]
mail = ["bob@example.com"]

[groups.staff]
description = "All who work \\"here\\""
members = ["bob", "inner", "backup", "wiki"]
managed_by = "inner"
mail = ["staff@example.com"]
posix = {{ gid = 70200 }}
policy = {{ credential_minimum = "mfa", session_expiry = "8h", privilege_expiry = "10m", password_minimum_length = 14 }}

[groups.inner]
managed_by = "staff"

[groups.idm_all_persons]
adopt = true
policy = {{ credential_minimum = "passkey" }}

[service_accounts.backup]
managed_by = "staff"

[clients.wiki]
display_name = "Wiki"
landing = "https://wiki.example.com"
redirect_uris = ["https://wiki.example.com/callback", "https://Wiki.example.com:443/second?x=1"]
scopes = {{ staff = ["openid", "email"], idm_all_persons = ["openid"] }}
supplementary_scopes = {{ inner = ["extra"] }}
claims = {{ role = {{ join = "csv", values = {{ staff = ["writer", "reader"], inner = ["admin"] }} }} }}
pkce = false
short_username = true
legacy_crypto = true

[clients.phone]
type = "public"
landing = "app.example:/callback"
localhost_redirect = true
""".replace('"old: one"', '"old one"')


class Crash(Exception):
    """The process is gone."""


class Crashing(Kanidm):
    """A session that ends with the process: at the write number ``at``, before Kanidm has it or after."""

    at: int | None = None
    after = False
    writes = 0

    async def call(self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None) -> Any:
        """Make one call, or crash."""
        answer = None
        writes = method != "GET" and path != "/v1/auth"
        self.writes += writes
        crash = writes and self.writes == self.at
        if not crash or self.after:
            answer = await super().call(method, path, body, headers=headers)
        if crash:
            raise Crash
        return answer


@asynccontextmanager
async def signed_in(server: Server) -> AsyncIterator[Crashing]:
    """Open a session of Kiwi ID's own account, which has the rights that a bootstrap gives it, and no more."""
    async with Crashing(server.url, client_context(server.directory / "chain.pem")) as kanidm:
        await kanidm.login("idm_admin", await recover_account(server.socket, "idm_admin"))
        await accounts.create_service_account(kanidm, ACCOUNT, "Kiwi ID", managed_by="idm_admins")
        for group in GROUPS:
            await kanidm.add_members(group, ACCOUNT)
        token = await accounts.make_api_token(kanidm, ACCOUNT, "test")
    async with Crashing(server.url, client_context(server.directory / "chain.pem")) as kanidm:
        kanidm.use_token(token)
        yield kanidm


def state(text: str) -> Identities:
    """Return what a state file says."""
    return parse([(Path("/etc/kiwi/identities.toml"), text)])


async def difference(kanidm: Kanidm, wanted: Identities, **options: Any) -> Difference:
    """Return what would be done."""
    return diff(wanted, await observe(kanidm), **options)


async def make(
    kanidm: Kanidm, wanted: Identities, *, between: Callable[[], Awaitable[None]] | None = None, **options: Any
) -> list[Done]:
    """Make Kanidm so; return what was done, the refused included. ``between``: what happens after it was read."""
    done: list[Done] = []
    found = await observe(kanidm)
    if between is not None:
        await between()
    await apply(kanidm, diff(wanted, found, **options), found, done.append, remove_many=True)
    return done


def actions(plan: Difference) -> list[tuple[str, str]]:
    """Return the steps in two words each."""
    return [(step.action, step.name) for step in plan.steps]
