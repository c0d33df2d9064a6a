"""``kiwi-id client``: the OAuth2 clients of this Kanidm, which Kiwi ID serves as one issuer."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kiwi_id.cli import shared
from kiwi_id.cli.shared import Job, UsageError, confirm, facts, table, tell
from kiwi_id.errors import ConfigError, ConfigMissing, Exit, KiwiError
from kiwi_id.identities.fields import FIELDS, entry_name, many, scope, uri
from kiwi_id.identities.load import load
from kiwi_id.identities.secret_files import files_of, is_hash, read
from kiwi_id.kanidm.everyday import entries, first, new_client_secret, remove, require, require_free, short, whole

if TYPE_CHECKING:
    from kiwi_id.kanidm.rest import Entry

_ACTIONS = {
    "add": "add a client; its secret is generated",
    "list": "list all clients",
    "show": "show one client",
    "secret": "print the secret of a client",
    "remove": "remove a client; its users' sessions there end",
}
_SCOPES = "openid profile email groups"
# As Kanidm prints a scope map: kiwi_users@id.example.com: {"email", "openid"}
_SCOPE_MAP = re.compile(r'([^:]+): \{("[^"]*"(?:, "[^"]*")*)?\}')


class NoSecret(KiwiError):
    """The secret is known to nobody. Exit code 1."""

    exit_code = Exit.FAILURE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = shared.add_actions(parser, _ACTIONS)
    for action, options in actions.items():
        if action != "list":
            options.add_argument("name", type=shared.name, metavar="NAME", help="its client_id")
    add = actions["add"]
    add.add_argument(
        "--redirect-uri", action="append", required=True, metavar="URI", help="where logins may return to, exactly (repeatable)"
    )
    add.add_argument(
        "--group", action="append", required=True, type=shared.name, metavar="GROUP", help="who may use it (repeatable)"
    )
    add.add_argument("--scopes", default=_SCOPES, metavar="SCOPES", help=f'scopes that they may have (default: "{_SCOPES}")')
    add.add_argument("--display-name", metavar="TEXT", help="as users see it (default: NAME)")
    add.add_argument("--landing", metavar="URL", help="its home page (default: that of the first redirect URI)")
    add.add_argument("--public", action="store_true", help="no secret, always PKCE: for programs on the users' own machines")
    secret = actions["secret"]
    secret.add_argument("--renew", action="store_true", help="have another one generated; the old one ends at once")
    text = "Kanidm's own secret of a client with a chosen one: it counts at Kanidm's own per-client paths only"
    secret.add_argument("--kanidm", action="store_true", help=text)
    actions["remove"].add_argument("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    """Carry the action out; return 0. 1 when Kanidm refuses it or there is no such client, 69 without kanidmd."""
    if args.action == "add":
        shared.checked(entry_name, args.name, "NAME")
        args.redirect_uri = shared.checked(partial(many, parse=uri, example=""), args.redirect_uri, "--redirect-uri")
        args.scopes = shared.checked(partial(many, parse=scope, example=""), args.scopes.split(), "--scopes")
        if not args.scopes:
            raise UsageError(f'--scopes: found none; allowed: one or more, such as "{_SCOPES}"')
        if args.display_name:
            args.display_name = shared.checked(FIELDS["client"]["display_name"].parse, args.display_name, "--display-name")
        args.landing = shared.checked(FIELDS["client"]["landing"].parse, args.landing or _home(args.redirect_uri[0]), "--landing")
    if args.action == "remove":
        confirm(args, f"Remove the client {args.name}? Nobody can log in to it any more, and its secret is lost.")
    return shared.run(args, _WORK[args.action])


def _home(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"--redirect-uri {uri} has no home page to go to from Kanidm's list of applications: give it by --landing")
    return f"{parts.scheme}://{parts.netloc}/"


async def _add(job: Job) -> int:
    args, kanidm = job.args, job.kanidm
    await require_free(kanidm, "oauth2", args.name)
    for group in args.group:  # before anything is made, so that a mistake leaves nothing half done
        await require(kanidm, "group", group)
    await kanidm.create_client(args.name, args.display_name or args.name, args.landing, public=args.public)
    async with whole(kanidm, "oauth2", args.name):
        await kanidm.add_redirect_uris(args.name, *args.redirect_uri)
        for group in args.group:
            await kanidm.set_scopes(args.name, group, args.scopes)
    lines = [
        f"Added the client {args.name}.",
        f"Discovery: {_issuer(job)}/.well-known/openid-configuration",
        "No secret: it is public, with PKCE." if args.public else f"Its secret: kiwi-id client secret {args.name}",
    ]
    return tell(args, _as_dict(job, await require(kanidm, "oauth2", args.name), {}), lines)


async def _list(job: Job) -> int:
    chosen = _chosen_secrets(job)
    clients = [_as_dict(job, entry, chosen) for entry in await entries(job.kanidm, "oauth2")]
    rows = [
        (client["client_id"], "public" if client["public"] else "confidential", client["display_name"], ", ".join(client["scopes"]))
        for client in clients
    ]
    return tell(job.args, clients, table(("NAME", "KIND", "DISPLAY NAME", "GROUPS"), rows))


async def _show(job: Job) -> int:
    client = _as_dict(job, await require(job.kanidm, "oauth2", job.args.name), _chosen_secrets(job))
    rows = {
        "client_id": client["client_id"],
        "display name": client["display_name"],
        "kind": _kind(client),
        "landing": client["landing"],
        "redirect uris": client["redirect_uris"],
        "scopes": [f"{group}: {' '.join(scopes)}" for group, scopes in client["scopes"].items()],
        "pkce": "required" if client["pkce_required"] else "not required",
        "issuer": client["issuer"],
        "id": client["id"],
    }
    return tell(job.args, client, facts(rows))


def _kind(client: dict[str, Any]) -> list[str]:
    chosen = client["chosen_secret"]
    if client["public"]:
        return ["public: no secret"]
    if chosen is None:
        return ["confidential: kiwi-id client secret"]
    lines = [f"confidential: a chosen secret, in {chosen['file']}"]
    if chosen["previous_file"]:
        ends = f", until {chosen['previous_until']}" if chosen["previous_until"] else ""
        lines.append(f"the one before it, in {chosen['previous_file']}{ends}")
    return lines


async def _secret(job: Job) -> int:
    await require(job.kanidm, "oauth2", job.args.name)
    chosen = _chosen_secrets(job).get(job.args.name)
    if chosen is not None and not job.args.kanidm:
        return _tell_chosen(job, chosen)
    secret = await job.kanidm.client_secret(job.args.name)  # refused for a public one, before anything is renewed
    if job.args.renew:
        await new_client_secret(job.kanidm, job.args.name)
        secret = await job.kanidm.client_secret(job.args.name)
    return tell(job.args, {"client_id": job.args.name, "client_secret": secret}, [secret])


def _tell_chosen(job: Job, chosen: dict[str, str | None]) -> int:
    file = Path(chosen["file"] or "")
    if job.args.renew:
        raise UsageError(f"its secret is a chosen one: write another into {file} and reload (docs/identities.md)")
    secret = read(file)
    if is_hash(secret):
        raise NoSecret(f"Its secret is a chosen one, and {file} holds its hash only: nobody can tell it.")
    sys.stderr.write(f"A chosen secret, from {file}. Kanidm's own counts at its per-client paths only: --kanidm\n")
    answer = {"client_id": job.args.name, "client_secret": secret, "chosen_secret": chosen}
    return tell(job.args, answer, [secret])


def _chosen_secrets(job: Job) -> dict[str, dict[str, str | None]]:
    """Return where the chosen secrets are by the state file, of each client that has one."""
    try:
        clients = load(job.config.identities_file).clients
    except ConfigMissing:
        return {}
    except ConfigError as error:
        sys.stderr.write(f"Not known which clients have a chosen secret: {error.diagnostics()}\n")
        return {}
    found: dict[str, dict[str, str | None]] = {}
    for name, client in clients.items():
        files = {key: str(path) for key, path in files_of(client, datetime.now(UTC))}
        if files:
            until = client.previous_secret_until
            previous = files.get("previous_secret_file")
            ends = f"{until:%Y-%m-%dT%H:%M:%SZ}" if until and previous else None
            found[name] = {"file": files["secret_file"], "previous_file": previous, "previous_until": ends}
    return found


async def _remove(job: Job) -> int:
    await remove(job.kanidm, "oauth2", job.args.name)
    return tell(job.args, {"client_id": job.args.name, "removed": True}, [f"Removed the client {job.args.name}."])


def _issuer(job: Job) -> str:
    return job.config.issuer or job.server.origin


def _as_dict(job: Job, entry: Entry, chosen: dict[str, dict[str, str | None]]) -> dict[str, Any]:
    public = "oauth2_resource_server_public" in entry.get("class", ())
    maps = filter(None, map(_SCOPE_MAP.fullmatch, entry.get("oauth2_rs_scope_map", ())))
    return {
        "client_id": first(entry, "name"),
        "display_name": first(entry, "displayname"),
        "public": public,
        "landing": first(entry, "oauth2_rs_origin_landing"),
        "redirect_uris": sorted(entry.get("oauth2_rs_origin", [])),
        "scopes": {short(found[1]): re.findall('"([^"]*)"', found[2] or "") for found in maps},
        "chosen_secret": chosen.get(first(entry, "name")),
        "pkce_required": public or first(entry, "oauth2_allow_insecure_client_disable_pkce") != "true",
        "issuer": _issuer(job),
        "id": first(entry, "uuid"),
    }


_WORK = {"add": _add, "list": _list, "show": _show, "secret": _secret, "remove": _remove}
