"""``kiwi-id group``: the groups of this Kanidm and who is in them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kiwi_id.cli import shared
from kiwi_id.cli.shared import Job, confirm, facts, table, tell
from kiwi_id.identities.fields import FIELDS, entry_name
from kiwi_id.kanidm.everyday import (
    describe,
    entries,
    first,
    is_builtin,
    remove,
    remove_members,
    require,
    require_free,
    require_members,
    short,
    whole,
)

if TYPE_CHECKING:
    from kiwi_id.kanidm.rest import Entry

_ACTIONS = {
    "add": "add a group",
    "list": "list groups and their members",
    "show": "show one group",
    "add-member": "put users, or other groups, into a group",
    "remove-member": "take users, or other groups, out of a group",
    "remove": "remove a group; its members stay",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = shared.add_actions(parser, _ACTIONS)
    for action, options in actions.items():
        if action != "list":
            options.add_argument("name", type=shared.name, metavar="NAME", help="name of the group")
    actions["add"].add_argument("--description", metavar="TEXT", help="what it is for")
    actions["add"].add_argument("--member", action="append", default=[], type=shared.name, metavar="NAME", help="(repeatable)")
    for action in ("add-member", "remove-member"):
        actions[action].add_argument("member", nargs="+", type=shared.name, metavar="MEMBER", help="name of a user or group")
    actions["list"].add_argument("--all", action="store_true", help="with Kanidm's own groups")
    actions["remove"].add_argument("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    """Carry the action out; return 0. 1 when Kanidm refuses it or there is no such group, 69 without kanidmd."""
    if args.action == "add":
        shared.checked(entry_name, args.name, "NAME")
        args.description = shared.checked(FIELDS["group"]["description"].parse, args.description or "", "--description")
    if args.action == "remove":
        confirm(args, f"Remove the group {args.name}? Who may do something because of it may not any more.")
    return shared.run(args, _WORK[args.action])


async def _add(job: Job) -> int:
    name, kanidm = job.args.name, job.kanidm
    await require_free(kanidm, "group", name)
    await require_members(kanidm, job.args.member)
    await kanidm.create_group(name)
    async with whole(kanidm, "group", name):
        if job.args.description:
            await describe(kanidm, "group", name, job.args.description)
        if job.args.member:
            await kanidm.add_members(name, *job.args.member)
    return await _changed(job, f"Added the group {name}.")


async def _list(job: Job) -> int:
    groups = [_as_dict(entry) for entry in await entries(job.kanidm, "group") if job.args.all or not is_builtin(entry)]
    rows = [(group["name"], str(len(group["members"])), _few(group["members"]), group["description"]) for group in groups]
    return tell(job.args, groups, table(("NAME", "SIZE", "MEMBERS", "DESCRIPTION"), rows))


async def _show(job: Job) -> int:
    group = _as_dict(await require(job.kanidm, "group", job.args.name))
    rows = {
        "name": group["name"],
        "description": group["description"],
        "members": group["members"],
        "member of": group["groups"],
        "id": group["id"],
    }
    return tell(job.args, group, facts(rows))


async def _add_member(job: Job) -> int:
    await require(job.kanidm, "group", job.args.name)
    await require_members(job.kanidm, job.args.member)
    await job.kanidm.add_members(job.args.name, *job.args.member)
    return await _changed(job, f"In {job.args.name}: {', '.join(job.args.member)}.")


async def _remove_member(job: Job) -> int:
    await require(job.kanidm, "group", job.args.name)
    await require_members(job.kanidm, job.args.member)
    await remove_members(job.kanidm, job.args.name, job.args.member)
    return await _changed(job, f"Not in {job.args.name} any more: {', '.join(job.args.member)}.")


async def _remove(job: Job) -> int:
    await remove(job.kanidm, "group", job.args.name)
    return tell(job.args, {"name": job.args.name, "removed": True}, [f"Removed the group {job.args.name}."])


async def _changed(job: Job, line: str) -> int:
    return tell(job.args, _as_dict(await require(job.kanidm, "group", job.args.name)), [line])


def _few(members: list[str]) -> str:
    return ", ".join(members) if len(members) <= 5 else f"{', '.join(members[:4])}, … "


def _as_dict(entry: Entry) -> dict[str, Any]:
    return {
        "name": first(entry, "name"),
        "description": first(entry, "description"),
        "members": sorted({short(spn) for attr in ("member", "dynmember") for spn in entry.get(attr, ())}),
        "groups": sorted(short(spn) for spn in entry.get("directmemberof", ())),
        "id": first(entry, "uuid"),
    }


_WORK = {
    "add": _add,
    "list": _list,
    "show": _show,
    "add-member": _add_member,
    "remove-member": _remove_member,
    "remove": _remove,
}
