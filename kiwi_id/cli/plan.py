"""``kiwi-id plan``: what ``kiwi-id apply`` would do, without doing it."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kiwi_id import config
from kiwi_id.cli import add_config_option
from kiwi_id.config import Config
from kiwi_id.errors import ConfigError, Exit, Problem

if TYPE_CHECKING:
    from kiwi_id.identities.diff import Difference
    from kiwi_id.identities.model import Identities
    from kiwi_id.identities.service import Wish

CHANGES = 2
"""Exit code of a plan with changes, as ``diff`` and other planners have it apart from errors."""
RECOVERED = (
    "The password of 'idm_admin' was reset to one that nobody keeps; what it signed in with before, passkeys included, is gone. "
    "'kiwi-id bootstrap' makes an account for Kiwi ID, and this is not needed again.\n"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what plan and apply have in common."""
    add_config_option(parser)
    add_session_options(parser)
    where = "state file, or a directory of them (default: 'identities' of config.toml, with its .d/*.toml)"
    parser.add_argument("--file", metavar="PATH", type=Path, help=where)
    parser.add_argument("--prune", action="store_true", help="remove what is ours and left the file, as 'prune = true' does")
    parser.add_argument(
        "--adopt",
        metavar="NAME",
        action="append",
        default=[],
        help="take over what Kanidm has and Kiwi ID did not make; repeatable",
    )
    parser.add_argument("--adopt-all", action="store_true", help="take over everything that the file names")


def add_session_options(parser: argparse.ArgumentParser) -> None:
    """Declare how to get into Kanidm."""
    text = "sign in as idm_admin, whose password is reset for that, instead of with Kiwi ID's own account ('kiwi-id bootstrap')"
    parser.add_argument("--recover", action="store_true", help=text)


def wish(args: argparse.Namespace, wanted: Identities) -> Wish:
    """Return what the command line adds to the file. Raises ConfigError for a name to adopt that the file does not have."""
    from kiwi_id.identities.service import Wish  # noqa: PLC0415

    problems = []
    for name in args.adopt:
        if wanted.kind_of(name) is None:
            close = difflib.get_close_matches(name, wanted.places, n=1)
            fix = f"Did you mean '{close[0]}'?" if close else "Write what it is to be into the file first."
            problems.append(Problem("--adopt", "", f"'{name}'", "names that the state file has", fix))
    if problems:
        raise ConfigError(problems)
    return Wish(args.prune, frozenset(args.adopt), args.adopt_all, getattr(args, "remove_many", False))


def state_file(args: argparse.Namespace, instance: Config) -> Path:
    """Return the state file that is meant."""
    return args.file.absolute() if args.file else instance.identities_file


def run(args: argparse.Namespace) -> int:
    """Print the plan; return 0 when nothing would change, 2 when something would, 1 when all that differs is left alone."""
    import trio  # noqa: PLC0415

    from kiwi_id.identities import service, show  # noqa: PLC0415
    from kiwi_id.identities.load import load  # noqa: PLC0415
    from kiwi_id.kanidm import server_toml  # noqa: PLC0415

    instance = config.load(config.config_path(args.config))
    server = server_toml.load(instance.upstream_config)
    wanted = load(state_file(args, instance))

    wished = wish(args, wanted)

    async def plan() -> Difference:
        async with service.session(instance, server, recover=args.recover) as kanidm:
            return (await service.compare(kanidm, wanted, wished))[0]

    difference = trio.run(plan)
    if args.recover:
        sys.stderr.write(RECOVERED)
    if args.json:
        print(json.dumps(show.as_dict(difference), indent=2, ensure_ascii=False))
    else:
        print("\n".join(show.lines(difference, colour=coloured())))
    if difference.steps:
        return CHANGES
    return Exit.OK if difference.whole else Exit.FAILURE


def coloured() -> bool:
    """Return whether the standard output is a terminal that may have colours."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
