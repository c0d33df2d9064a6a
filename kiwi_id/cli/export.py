"""``kiwi-id export``: write the state file of a running instance, without secrets."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kiwi_id import config
from kiwi_id.cli import add_config_option, plan
from kiwi_id.errors import ConfigError, ConfigMissing, Exit, Problem

HEADER = """Made by 'kiwi-id export': the persons, groups, service accounts and OAuth2 clients of a Kanidm; see docs/identities.md.
Not in here, because Kanidm shows it to nobody: passwords, passkeys, client secrets, API tokens. Of chosen secrets, which the state
file of this instance knows, the names of the files are here: take those along, too.
To an empty instance: kiwi-id apply. To the one it comes from, to keep it by this file from now on: kiwi-id apply --adopt-all"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_option(parser)
    plan.add_session_options(parser)
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="where to; a file that is there stays (default: standard output)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the file; return 0, or 1 when something of Kanidm's cannot be in a state file and is a comment in it.

    Raises ConfigError when it is there already or cannot be written.
    """
    import trio  # noqa: PLC0415

    from kiwi_id.identities import export, service  # noqa: PLC0415
    from kiwi_id.identities.load import load  # noqa: PLC0415
    from kiwi_id.identities.observe import observe  # noqa: PLC0415
    from kiwi_id.kanidm import server_toml  # noqa: PLC0415

    instance = config.load(config.config_path(args.config))
    server = server_toml.load(instance.upstream_config)

    try:
        known = load(instance.identities_file).clients
    except ConfigMissing:
        known = {}
    except ConfigError as error:
        known = {}
        sys.stderr.write(f"Without the names of secret files: {error.diagnostics()}\n")

    async def read() -> export.Exported:
        async with service.session(instance, server, recover=args.recover) as kanidm:
            return export.export(export.of_instance(await observe(kanidm), known), header=HEADER)

    made = trio.run(read)
    if args.recover:
        sys.stderr.write(plan.RECOVERED)
    for words in made.left_out:
        sys.stderr.write(f"Only as a comment: {words}\n")
    code = Exit.FAILURE if made.left_out else Exit.OK
    if args.output is None:
        sys.stdout.write(made.text)
        return code
    try:
        with args.output.open("x", encoding="utf-8") as file:
            file.write(made.text)
    except OSError as error:
        found = error.strerror or str(error)
        raise ConfigError([Problem(str(args.output), "", found, "a new file", "Name another, or remove this one.")]) from None
    return code
