"""``kiwi-id admin``: what only an administrator of the machine may do, over Kanidm's admin socket."""

from __future__ import annotations

import argparse
import json
import sys

from kiwi_id import config
from kiwi_id.cli import add_config_option
from kiwi_id.cli.shared import UsageError, name
from kiwi_id.errors import Exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "give an account a new password and print it; its old password and passkeys end"
    recover = actions.add_parser("recover", help=text, description=text[0].upper() + text[1:] + ".")
    recover.add_argument("name", type=name, metavar="NAME", help="account: idm_admin (people, groups, clients), admin (system), …")
    add_config_option(recover)
    recover.add_argument("--stdout", action="store_true", help="print the password even when standard output is no terminal")
    recover.add_argument("--json", action="store_true", help="print it as JSON; with --stdout")


def run(args: argparse.Namespace) -> int:
    """Carry the action out; return 0, 1 when there is no such account, 69 without kanidmd."""
    # Asked before anything is reset: a password that nobody reads would lock out whoever has the old one.
    if not (args.stdout or sys.stdout.isatty()):
        raise UsageError("standard output is no terminal: the password would be in a file or a log. If that is meant, say --stdout")
    settings = config.load(config.config_path(args.config))
    import trio  # noqa: PLC0415 - heavy

    from kiwi_id.kanidm import server_toml  # noqa: PLC0415
    from kiwi_id.kanidm.admin import recover_account  # noqa: PLC0415

    server = server_toml.load(settings.upstream_config)
    password = trio.run(recover_account, server.admin_socket, args.name)
    if args.json:
        print(json.dumps({"name": args.name, "password": password}))
    else:
        print(password)
        if sys.stdout.isatty():
            sys.stderr.write(
                f"\nThis is the password of {args.name} from now on. It is not kept anywhere: note it, or set your own.\n"
            )
    return Exit.OK
