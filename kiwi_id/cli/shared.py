"""What ``kiwi-id user``, ``group`` and ``client`` share: working in Kanidm as our own account, tables, names, questions."""

from __future__ import annotations

import argparse
import json
import re
import sys
import unicodedata
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from kiwi_id import config
from kiwi_id.cli import add_config_option
from kiwi_id.errors import Exit, KiwiError
from kiwi_id.values import Refused

if TYPE_CHECKING:
    from kiwi_id.config import Config
    from kiwi_id.kanidm.rest import Kanidm
    from kiwi_id.kanidm.server_toml import ServerToml

_T = TypeVar("_T")
# Kanidm's names (server/lib/src/value.rs), also as name@domain or UUID; and nothing that means something in a path.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}(@[A-Za-z0-9.-]+)?")


class UsageError(KiwiError):
    """What was asked for cannot be done like this. Exit code 64."""

    exit_code = Exit.USAGE


def name(text: str) -> str:
    """Check the name of an account, group or client, for argparse."""
    if not _NAME.fullmatch(text):
        allowed = "letters, digits, '.', '-' and '_', beginning with a letter or digit"
        raise argparse.ArgumentTypeError(f"{text!r} is no name; allowed: {allowed}")
    return text.lower()


def checked(parse: Callable[[Any], _T], value: Any, option: str) -> _T:
    """Check what ``option`` gives by a parser of the state file's. Raises UsageError: what Kanidm refuses, it refuses in codes."""
    try:
        return parse(value)
    except Refused as refused:
        raise UsageError(f"{option}: {refused}") from None


def add_actions(parser: argparse.ArgumentParser, actions: Mapping[str, str]) -> dict[str, argparse.ArgumentParser]:
    """Add a subcommand for each of ``actions`` (name and help), with the options that all have; return their parsers."""
    choices = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    made: dict[str, argparse.ArgumentParser] = {}
    for action, text in actions.items():
        made[action] = choices.add_parser(action, help=text, description=text[0].upper() + text[1:] + ".")
        add_config_option(made[action])
        made[action].add_argument("--json", action="store_true", help="print the result as JSON")
    return made


@dataclass(frozen=True, slots=True)
class Job:
    """One action: what was asked for, and the Kanidm of the instance, in which we are our own account."""

    args: argparse.Namespace
    kanidm: Kanidm
    config: Config
    server: ServerToml


def run(args: argparse.Namespace, work: Callable[[Job], Awaitable[int]]) -> int:
    """Run ``work`` and return its exit code. Raises KiwiError."""
    settings = config.load(config.config_path(args.config))
    # Heavy: Trio and httpx. What is wrong with a command line or config.toml is told without them.
    from kiwi_id.bootstrap import open_kanidm  # noqa: PLC0415
    from kiwi_id.kanidm import server_toml  # noqa: PLC0415

    server = server_toml.load(settings.upstream_config)

    async def main() -> int:
        async with open_kanidm(settings, server) as kanidm:
            return await work(Job(args, kanidm, settings, server))

    return run_async(main)


def run_async(main: Callable[[], Awaitable[_T]]) -> _T:
    """Run ``main`` under Trio; to what Kanidm refuses, or when it cannot be reached, the words add what is most likely."""
    import trio  # noqa: PLC0415 - heavy, with httpx

    from kiwi_id.kanidm.rest import KanidmRefused, KanidmUnreachable  # noqa: PLC0415

    try:
        return trio.run(main)
    except KanidmUnreachable as error:
        raise KanidmUnreachable(f"{error.diagnostics()} Is Kiwi ID running? See: kiwi-id status") from None
    except KanidmRefused as refused:
        if refused.status == 409 or "attrunique" in str(refused):
            raise KanidmRefused(
                f"Something else in Kanidm has that name or mail address already. ({refused})", refused.status
            ) from None
        if refused.status != 403:
            raise
        hint = "Kiwi ID may not change Kanidm's own administrators' groups nor who is in them: sign in as idm_admin for that."
        raise KanidmRefused(f"{refused}. {hint}", refused.status) from None


def confirm(args: argparse.Namespace, question: str) -> None:
    """Ask on the terminal unless ``--yes`` was given. Raises UsageError when nobody agrees, or nobody can be asked."""
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("this is asked for on a terminal, and there is none: say --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer:  # Ctrl-D leaves the terminal behind our question
        sys.stderr.write("\n")
    if answer.strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was done")


def tell(args: argparse.Namespace, result: Any, lines: Iterable[str]) -> int:
    """Print ``result`` as JSON if that was asked for, else ``lines``; return exit code 0."""
    text = json.dumps(result, indent=2, ensure_ascii=False) if args.json else "\n".join(lines)
    if text:
        print(text)
    return Exit.OK


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table, columns as wide as their widest cell."""
    cells = [list(titles), *([shown(cell) or "-" for cell in row] for row in rows)]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(titles))]
    return [
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes (Unicode Standard Annex 11)."""
    marks = ("Mn", "Me", "Cf")
    return sum(
        0 if unicodedata.category(char) in marks else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def facts(rows: Mapping[str, str | Sequence[str]]) -> list[str]:
    """Return lines of names and values; of several values each has a line of its own."""
    width = max(map(len, rows))
    lines = []
    for title, value in rows.items():
        values = [value] if isinstance(value, str) else value
        for number, one in enumerate(values or [""]):
            lines.append(f"{'' if number else title:<{width}}  {shown(one) or '-'}")
    return lines


def shown(text: str) -> str:
    """Return ``text`` without what a terminal would obey: people choose their own names."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def when(moment: datetime) -> str:
    """Return a moment to come, and how long until then."""
    minutes = max(0, round((moment - datetime.now(UTC)).total_seconds() / 60))
    away = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    return f"{moment:%Y-%m-%d %H:%M} UTC, in {away}"
