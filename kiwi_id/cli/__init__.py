"""The ``kiwi-id`` command: one module per subcommand, imported only when it is the one asked for.

Each command module exports ``add_arguments(parser)`` and ``run(args) -> int`` (an exit code, see :class:`kiwi_id.errors.Exit`).
Lazy imports keep ``kiwi-id health`` and ``kiwi-id --version`` fast: container engines call them every few seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from importlib import import_module
from types import ModuleType

from kiwi_id import __version__
from kiwi_id.cli import streams
from kiwi_id.errors import Exit, KiwiError

COMMANDS = {
    "run": "run Kiwi ID: supervise kanidmd and serve the front (init of a container, or a service)",
    "dev": "run a temporary instance with demo users, ready to log in; needs nothing",
    "init": "write a working instance: configuration, certificates, keys, pin",
    "check": "tell everything that would stop a start",
    "pin": "record the version and checksum of the kanidmd found here",
    "keys": "list, generate, rotate and retire signing keys",
    "token": "check or look at an access token; get one of a demo user",
    "bootstrap": "make Kiwi ID's own account in Kanidm, with which user, group, client and the like work",
    "admin": "recover an account of Kanidm over its admin socket",
    "user": "add, list, show, disable, enable and remove users; links to set their passwords and passkeys",
    "group": "add, list, show and remove groups, and their members",
    "client": "add, list, show and remove OAuth2 clients; their secrets",
    "plan": "show what 'apply' would change in Kanidm, by the state file",
    "apply": "make persons, groups, service accounts and OAuth2 clients as the state file says",
    "export": "write the state file of a running instance, without secrets",
    "completion": "print what makes a shell complete kiwi-id's commands and options",
    "backup": "put the whole instance, running or not, into one archive: database, keys, certificates, settings",
    "restore": "bring an instance back from a backup, or check one",
    "reload": "ask a running Kiwi ID to reload its configuration",
    "restart-upstream": "restart kanidmd without losing a request, and wait until the next one serves",
    "status": "show on one screen what there is to do and how everything stands",
    "health": "probe a running Kiwi ID; for container health checks",
}


# What the extra "server" installs (pyproject.toml); services that only check tokens go without.
_SERVER_MODULES = frozenset({"trio", "httptools", "h11", "hypercorn", "quart", "quart_trio", "httpx", "jwt", "segno"})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]  # argparse exits 2; sysexits wants 64
        self.print_usage(sys.stderr)
        self.exit(Exit.USAGE, f"{self.prog}: {message}\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code. ``argv`` defaults to the process's arguments without the program's name."""
    arguments = sys.argv[1:] if argv is None else argv
    streams.prepare()
    try:
        try:
            return _main(arguments)
        finally:
            sys.stdout.flush()  # here, where a failure still has words and an exit code
    except (KeyboardInterrupt, BaseExceptionGroup) as error:
        if not streams.interrupted(error):
            raise
        streams.tell("\n")  # the terminal stands behind "^C", or behind our question
        return Exit.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - Python's own exit code for it is 1, which says something else
        missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        command = next((word for word in arguments if word in COMMANDS), "")
        if missing not in _SERVER_MODULES:
            return streams.failed(error, command)
        streams.tell(
            f"kiwi-id {command}: needs the server part of Kiwi ID, which is not installed here (no module '{missing}'). "
            "Install it: pip install 'kiwi-id[server]'\n"
        )
        return Exit.CONFIG


def build_parser(wanted: Collection[str]) -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    """Return the parser of ``kiwi-id`` with the options of the commands ``wanted``, and their modules; others have names only."""
    parser = _Parser(prog="kiwi-id", description="Kiwi ID: the identity front of KiwiStack, over an unmodified Kanidm.")
    parser.add_argument("--version", action="version", version=f"kiwi-id {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    modules: dict[str, ModuleType] = {}
    for name, help_text in COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
        if name in wanted:
            modules[name] = import_module(f"kiwi_id.cli.{name.replace('-', '_')}")
            modules[name].add_arguments(command)
    return parser, modules


def _main(arguments: list[str]) -> int:
    wanted = next((word for word in arguments if not word.startswith("-")), "")
    parser, modules = build_parser([wanted])
    args = parser.parse_args(arguments)
    if wanted not in modules:  # argparse has refused every other command
        raise SystemExit(Exit.USAGE)
    try:
        code: int = modules[wanted].run(args)
    except KiwiError as error:
        streams.tell(f"kiwi-id {args.command}: {streams.plain(error.diagnostics())}\n")
        return error.exit_code
    return code


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--config FILE``, which every command that reads config.toml takes."""
    parser.add_argument("--config", metavar="FILE", help="config file (default: $KIWI_CONFIG, else /etc/kiwi/config.toml)")
