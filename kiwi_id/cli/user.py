"""``kiwi-id user``: the people of this Kanidm, and the links with which they set their passwords and passkeys."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kiwi_id import values
from kiwi_id.cli import shared
from kiwi_id.cli.shared import Job, UsageError, confirm, facts, shown, table, tell, when
from kiwi_id.identities.fields import FIELDS, entry_name
from kiwi_id.kanidm.everyday import (
    disable,
    enable,
    entries,
    first,
    has_credentials,
    is_disabled,
    remove,
    require,
    require_free,
    reset_token,
    short,
    whole,
)

if TYPE_CHECKING:
    from kiwi_id.kanidm.rest import Entry

_ACTIONS = {
    "add": "add a user, who sets a password or passkey by a link then",
    "list": "list all users",
    "show": "show one user",
    "disable": "let a user not sign in any more; sessions end, and nothing is lost",
    "enable": "let a disabled user sign in again",
    "reset-link": "make a link with which the user sets a password or passkey; the old ones stay until then",
    "remove": "remove a user",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = shared.add_actions(parser, _ACTIONS)
    for action, options in actions.items():
        if action != "list":
            options.add_argument("name", type=shared.name, metavar="NAME", help="name of the user")
    add = actions["add"]
    add.add_argument("--display-name", metavar="TEXT", help="as applications show it (default: NAME)")
    add.add_argument(
        "--mail", action="append", default=[], metavar="ADDRESS", help="mail address (repeatable; the first is primary)"
    )
    add.add_argument("--group", action="append", default=[], type=shared.name, metavar="GROUP", help="group to be in (repeatable)")
    add.add_argument("--reset-link", action="store_true", help="make the first reset link, too")
    for options in (add, actions["reset-link"]):
        options.add_argument("--ttl", default="1h", metavar="TIME", help='how long the link is good: "5m" to "24h" (default: 1h)')
        options.add_argument("--no-qr", action="store_true", help="without the QR code that terminals get")
    actions["remove"].add_argument("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    """Carry the action out; return 0. 1 when Kanidm refuses it or there is no such user, 69 without kanidmd."""
    if args.action == "add":
        shared.checked(entry_name, args.name, "NAME")
        args.mail = list(shared.checked(FIELDS["person"]["mail"].parse, args.mail, "--mail"))
        if args.display_name:
            args.display_name = shared.checked(FIELDS["person"]["display_name"].parse, args.display_name, "--display-name")
    if "ttl" in args:
        args.seconds = _seconds(args.ttl)
    if args.action == "remove":
        confirm(args, f"Remove the user {args.name}, with all that applications know them by?")
    return shared.run(args, _WORK[args.action])


def _seconds(text: str) -> int:
    try:
        return round(values.duration(text, low=300, high=86400))  # Kanidm's own bounds (server/lib/src/idm/credupdatesession.rs)
    except values.Refused as refused:
        raise UsageError(f"--ttl: {refused}") from None


async def _add(job: Job) -> int:
    await require_free(job.kanidm, "person", job.args.name)
    for group in job.args.group:  # before anything is made, so that a mistake leaves nothing half done
        await require(job.kanidm, "group", group)
    await job.kanidm.create_person(job.args.name, job.args.display_name or job.args.name, mail=job.args.mail)
    async with whole(job.kanidm, "person", job.args.name):
        for group in job.args.group:
            await job.kanidm.add_members(group, job.args.name)
    made = _as_dict(await require(job.kanidm, "person", job.args.name))
    lines = [f"Added the user {job.args.name}."]
    if job.args.reset_link:
        link, more = await _link(job)
        made["reset_link"] = link
        lines += more
    else:
        lines.append(f"There is no password or passkey yet: kiwi-id user reset-link {job.args.name}")
    return tell(job.args, made, lines)


async def _list(job: Job) -> int:
    users = [_as_dict(entry) for entry in await entries(job.kanidm, "person")]
    rows = [
        (user["name"], user["display_name"], ", ".join(user["mail"][:1]), "disabled" if user["disabled"] else "active")
        for user in users
    ]
    return tell(job.args, users, table(("NAME", "DISPLAY NAME", "MAIL", "STATE"), rows))


async def _show(job: Job) -> int:
    user = _as_dict(await require(job.kanidm, "person", job.args.name))
    lines = facts(
        {
            "name": user["name"],
            "display name": user["display_name"],
            "mail": user["mail"],
            "groups": user["groups"],
            "state": "disabled" if user["disabled"] else "active",
            "password": "a password or passkey is set" if user["credentials"] else "none yet: kiwi-id user reset-link",
            "id": user["id"],
        }
    )
    return tell(job.args, user, lines)


async def _disable(job: Job) -> int:
    await require(job.kanidm, "person", job.args.name)
    await disable(job.kanidm, job.args.name)
    return await _changed(job, f"Disabled {job.args.name}: no login, and no session of before is accepted.")


async def _enable(job: Job) -> int:
    await require(job.kanidm, "person", job.args.name)
    await enable(job.kanidm, job.args.name)
    return await _changed(job, f"Enabled {job.args.name}.")


async def _changed(job: Job, line: str) -> int:
    return tell(job.args, _as_dict(await require(job.kanidm, "person", job.args.name)), [line])


async def _reset_link(job: Job) -> int:
    entry = await require(job.kanidm, "person", job.args.name)
    link, lines = await _link(job)
    if is_disabled(entry, datetime.now(UTC)):
        lines.append(f"{job.args.name} is disabled and cannot sign in before: kiwi-id user enable {job.args.name}")
    return tell(job.args, {"name": job.args.name, **link}, lines)


async def _link(job: Job) -> tuple[dict[str, str], list[str]]:
    """Make a reset link; return it for JSON and as lines."""
    token = await reset_token(job.kanidm, job.args.name, job.args.seconds)
    url = f"{job.server.origin}/ui/reset?token={token.token}"
    lines = [url, f"Good for one use until {when(token.expires)}. Who has it can sign in as {shown(job.args.name)}."]
    if not job.args.no_qr and not job.args.json and sys.stdout.isatty():
        from kiwi_id.cli.qr import qr_lines  # noqa: PLC0415

        lines += ["", *qr_lines(url)]
    return {"url": url, "expires": token.expires.isoformat()}, lines


async def _remove(job: Job) -> int:
    await remove(job.kanidm, "person", job.args.name)
    return tell(job.args, {"name": job.args.name, "removed": True}, [f"Removed the user {job.args.name}."])


def _as_dict(entry: Entry) -> dict[str, Any]:
    return {
        "name": first(entry, "name"),
        "display_name": first(entry, "displayname"),
        "mail": entry.get("mail", []),
        # Those that everybody is in say nothing of this one.
        "groups": sorted({short(spn) for spn in entry.get("directmemberof", ())} - {"idm_all_persons", "idm_all_accounts"}),
        "disabled": is_disabled(entry, datetime.now(UTC)),
        "credentials": has_credentials(entry),
        "id": first(entry, "uuid"),
    }


_WORK = {
    "add": _add,
    "list": _list,
    "show": _show,
    "disable": _disable,
    "enable": _enable,
    "reset-link": _reset_link,
    "remove": _remove,
}
