"""``kiwi-id check``: tell everything that would stop a start, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
from collections import Counter

from kiwi_id import config
from kiwi_id.cli import add_config_option
from kiwi_id.errors import Exit
from kiwi_id.instance import checks
from kiwi_id.instance.checks import Finding, Status

_MARKS: dict[Status, str] = {"ok": "ok", "warning": "WARN", "wrong": "WRONG"}
_COLOURS: dict[Status, str] = {"ok": "32", "warning": "33", "wrong": "31"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``kiwi-id check``."""
    add_config_option(parser)
    parser.add_argument("--allow-untested", action="store_true", help="judge as 'kiwi-id run --allow-untested' would")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the findings; return 78 when something would stop a start, else 0."""
    file = config.config_path(args.config)
    findings = checks.check(file, allow_untested=args.allow_untested)
    ok = all(finding.status != "wrong" for finding in findings)
    if args.json:
        report = {"ok": ok, "config": str(file), "findings": [finding.as_dict() for finding in findings]}
        print(json.dumps(report, indent=2))
    else:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        print(table(findings, width=shutil.get_terminal_size((132, 24)).columns, colour=colour))
    return Exit.OK if ok else Exit.CONFIG


def table(findings: list[Finding], *, width: int, colour: bool) -> str:
    """Return the findings as aligned lines of at most ``width`` characters, ending with a sum."""
    lines: list[str] = []
    column = max((len(finding.area) for finding in findings), default=0)
    indent = " " * (column + 9)
    for finding in findings:
        mark = f"{_MARKS[finding.status]:<5}"
        mark = f"\x1b[{_COLOURS[finding.status]}m{mark}\x1b[0m" if colour else mark
        # Paths are for copying: a long one stays whole, whatever the width.
        text = textwrap.wrap(finding.message, max(width - len(indent), 40), break_long_words=False, break_on_hyphens=False)
        lines.append(f"{finding.area:<{column}}  {mark}  {text[0]}")
        lines.extend(indent + more for more in text[1:])
    count = Counter(finding.status for finding in findings)
    lines.append("")
    warnings = f"{count['warning']} warning{'' if count['warning'] == 1 else 's'}"
    if any(finding.area == "rights" for finding in findings):
        lines.append("Nothing can be said of a start.")
    elif count["wrong"]:
        lines.append(f"{count['wrong']} wrong, {warnings}: Kiwi ID would not start.")
    else:
        lines.append(f"Nothing wrong, {warnings}: Kiwi ID can start.")
    return "\n".join(lines)
