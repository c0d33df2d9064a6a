"""``kiwi-id bootstrap``: Kiwi ID's own account in Kanidm, with which all other commands work."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from kiwi_id import config
from kiwi_id.cli import add_config_option, streams
from kiwi_id.cli.shared import UsageError, run_async
from kiwi_id.errors import Exit

if TYPE_CHECKING:
    from kiwi_id.bootstrap import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_option(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--ask-password", action="store_true", help="sign in as idm_admin: ask for its password, or read it from stdin"
    )
    how.add_argument("--recover", action="store_true", help="reset idm_admin, whoever uses it; what it signs in with now ends")
    parser.add_argument("--revoke-others", action="store_true", help="revoke all older tokens of the account: for a stolen one")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run(args: argparse.Namespace) -> int:
    """Make the account, or find it; return 0. 78 when it would take a reset that nobody has agreed to, 69 without kanidmd."""
    if args.revoke_others and not (args.recover or args.ask_password):
        raise UsageError("--revoke-others needs an administrator: --ask-password or --recover beside it")
    settings = config.load(config.config_path(args.config))
    from kiwi_id.bootstrap import bootstrap  # noqa: PLC0415 - heavy: Trio and httpx
    from kiwi_id.kanidm import server_toml  # noqa: PLC0415

    server = server_toml.load(settings.upstream_config)
    password = _ask() if args.ask_password else None

    async def main() -> Outcome:
        return await bootstrap(settings, server, recover=args.recover, password=password, revoke_others=args.revoke_others)

    outcome = run_async(main)
    print(json.dumps(outcome.as_dict()) if args.json else "\n".join(_lines(outcome)))
    return Exit.OK


def _ask() -> str:
    if sys.stdin.isatty():
        return streams.ask_secret("Password of idm_admin: ")
    password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise UsageError("--ask-password: no password on standard input")
    return password


def _lines(outcome: Outcome) -> list[str]:
    where = f"Its token is in {outcome.token_file}, for root and Kiwi ID's user only."
    if outcome.action == "kept":
        lines = [f"Kiwi ID has its account in this Kanidm ({outcome.account}) already. {where}"]
    else:
        lines = [f"Made Kiwi ID's account in this Kanidm ({outcome.account}). {where}"]
    if outcome.recovered:
        lines.append("idm_admin has a password now that nobody knows. For one of your own: kiwi-id admin recover idm_admin")
    if outcome.missing:
        missing = ", ".join(outcome.missing)
        lines.append(f"It is not in {missing}, so some commands are refused. To put it there: kiwi-id bootstrap --ask-password")
    if outcome.others:
        lines.append(
            f"Older tokens of it still work: {outcome.others}. To end them: --revoke-others with --ask-password or --recover"
        )
    return lines
