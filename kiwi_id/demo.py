"""Demo people, groups and OAuth2 clients, made through Kanidm's own API: what ``kiwi-id dev`` and the tests log in with.

The passwords are printed and always the same, so this is for loopback instances only. Everything is safe to repeat: what exists
is left as it is, so that a kept instance keeps its sessions, and a person's own new password or passkey, over a restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kiwi_id.kanidm.admin import recover_account
from kiwi_id.kanidm.pin import client_context
from kiwi_id.kanidm.rest import Kanidm
from kiwi_id.kanidm.server_toml import ServerToml

GROUPS = {"kiwi_users": ("alice", "bob"), "mail_users": ("alice",)}
"""Each demo group with its members; both may use both clients, so that scopes and the groups claim have something to show."""

SCOPES = ("openid", "profile", "email", "groups")

REDIRECT_URI = "https://app.localhost/callback"
"""Where ``kiwi-demo`` may be sent back to. HTTPS, because Kanidm 1.5.0's pages forbid the browser to follow a consent to plain
HTTP, and below ``localhost``, which browsers resolve to the loopback: a demo's code never leaves the machine."""


@dataclass(frozen=True, slots=True)
class DemoUser:
    """A person of the demo and the password first given."""

    name: str
    displayname: str
    password: str


@dataclass(frozen=True, slots=True)
class DemoClient:
    """An OAuth2 client of the demo; ``secret`` is None for a public one, which may also use any ``http://localhost`` URI."""

    client_id: str
    secret: str | None
    redirect_uris: tuple[str, ...]
    discovery: str


@dataclass(frozen=True, slots=True)
class Demo:
    """All that was made."""

    users: tuple[DemoUser, ...]
    groups: tuple[str, ...]
    clients: tuple[DemoClient, ...]
    scopes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything, passwords and secret included, as a JSON-ready mapping."""
        return asdict(self)

    def text(self) -> str:
        """Return everything, passwords and secret included, as indented lines for a person."""
        lines = [f"  user    {user.name:<17} password  {user.password}" for user in self.users]
        for client in self.clients:
            kind = f"secret    {client.secret}" if client.secret else "public, with PKCE"
            lines.append(f"  client  {client.client_id:<17} {kind}")
            where = client.redirect_uris if client.secret else ("any http://localhost:PORT/…",)
            lines += [f"          {'':<17} redirect  {uri}" for uri in where]
        return "\n".join([*lines, f"  scopes  {' '.join(self.scopes)}"])


# Three words that Kanidm's quality check (zxcvbn, score 4) accepts; without the name, which it counts against a password.
USERS = (
    DemoUser("alice", "Alice Demo", "orchard-lantern-voyage-73"),
    DemoUser("bob", "Bob Demo", "granite-teapot-meadow-58"),
)


async def provision(server: ServerToml, url: str, *, redirect_uris: Sequence[str] = ()) -> Demo:
    """Make the demo data in the Kanidm that ``server`` describes and that answers on ``url``; return what there is.

    ``redirect_uris`` are allowed to ``kiwi-demo`` in addition. The password of ``idm_admin`` is reset. Raises
    AdminSocketUnavailable, KanidmUnreachable, KanidmRefused.
    """
    admin_password = await recover_account(server.admin_socket, "idm_admin")
    async with Kanidm(url, client_context(server.tls_chain)) as kanidm:
        await kanidm.login("idm_admin", admin_password)
        # Kanidm asks every person for a second factor; a password that is printed for all to see needs none.
        await kanidm.allow_password_only()
        for user in USERS:
            await kanidm.create_person(user.name, user.displayname, mail=[f"{user.name}@example.com"])
            if not await kanidm.has_credentials(user.name):
                await kanidm.set_password(user.name, user.password)
        for group, members in GROUPS.items():
            await kanidm.create_group(group)
            await kanidm.add_members(group, *members)
        clients = (
            await _confidential(kanidm, server, (REDIRECT_URI, *redirect_uris)),
            await _public(kanidm, server),
        )
    return Demo(USERS, tuple(GROUPS), clients, SCOPES)


async def _confidential(kanidm: Kanidm, server: ServerToml, redirect_uris: tuple[str, ...]) -> DemoClient:
    name = "kiwi-demo"
    await kanidm.create_client(name, "Kiwi demo", REDIRECT_URI)
    await kanidm.add_redirect_uris(name, *redirect_uris)
    await _open_to_groups(kanidm, name)
    return DemoClient(name, await kanidm.client_secret(name), redirect_uris, _discovery(server, name))


async def _public(kanidm: Kanidm, server: ServerToml) -> DemoClient:
    name, landing = "kiwi-demo-public", "http://localhost/callback"
    await kanidm.create_client(name, "Kiwi demo (public)", landing, public=True)
    await kanidm.patch_client(name, {"oauth2_allow_localhost_redirect": ["true"]})
    await _open_to_groups(kanidm, name)
    return DemoClient(name, None, (landing,), _discovery(server, name))


async def _open_to_groups(kanidm: Kanidm, client: str) -> None:
    for group in GROUPS:
        await kanidm.set_scopes(client, group, SCOPES)


def _discovery(server: ServerToml, client: str) -> str:
    """Kanidm has one issuer per client (server/lib/src/idm/oauth2.rs)."""
    return f"{server.origin}/oauth2/openid/{client}/.well-known/openid-configuration"
