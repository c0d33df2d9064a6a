"""``kiwi-id status``: how an instance is, on one screen or as JSON; what there is to do first."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from kiwi_id import config, control
from kiwi_id.cli import add_config_option, streams
from kiwi_id.errors import Exit

WARNINGS = 2
"""Exit code with ``--check`` when all is served and something is to be done."""
WIDTH = 80
WIDEST = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="print everything as JSON (docs/status.md)")
    parser.add_argument("--check", action="store_true", help="exit 2 when there are warnings, for monitoring")
    parser.add_argument("--socket", metavar="PATH", help="control socket (default: the one in runtime_dir)")


def run(args: argparse.Namespace) -> int:
    """Print the status; return 0 when kanidmd serves, 1 when not, 69 when no Kiwi ID runs; with ``--check`` 2 for warnings."""
    file = config.config_path(args.config)
    path, word = (Path(args.socket), "") if args.socket else config.control_socket_of(file)
    answer: dict[str, Any] | None = None
    denied = False
    try:
        answer = control.call(path, "status", timeout=10, word=word)
    except control.NotRunning as error:
        denied = isinstance(error.__context__, PermissionError)
        streams.tell(f"kiwi-id status: {error}\n")
    else:
        file = Path(answer["config"])
    from kiwi_id.status.document import make  # noqa: PLC0415 - cryptography and all that reads files

    document = make(file, answer, denied=denied)
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        from kiwi_id.status.screen import Screen  # noqa: PLC0415

        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        width = min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDEST) if sys.stdout.isatty() else WIDTH
        print("\n".join(Screen(document, width=width, colour=colour).lines()))
    if answer is None:
        return Exit.UNAVAILABLE
    if not document["serving"]:
        return Exit.FAILURE
    return WARNINGS if args.check and document["warnings"] else Exit.OK
