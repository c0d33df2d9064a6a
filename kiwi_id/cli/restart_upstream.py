"""``kiwi-id restart-upstream``: another kanidmd in place of the running one, without losing a request."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from kiwi_id import config, control
from kiwi_id.cli import add_config_option
from kiwi_id.errors import Exit, Problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="how long to wait (default: 120)")
    parser.add_argument("--socket", metavar="PATH", help="control socket (default: the one in runtime_dir)")


def run(args: argparse.Namespace) -> int:
    """Restart kanidmd; return 0 when the next one serves, 78 when the files were refused, 69 when it does not come."""
    path, word = (Path(args.socket), "") if args.socket else config.control_socket_of(config.config_path(args.config))
    outcome = control.call(path, "restart_upstream", timeout=args.timeout, word=word)
    if args.json:
        sys.stdout.write(json.dumps(outcome) + "\n")
    elif outcome["problems"]:
        sys.stderr.write("Not restarted: kanidmd serves on as before. To mend:\n")
        for problem in outcome["problems"]:
            sys.stderr.write(f"  {Problem(**problem)}\n")
    else:
        _tell(outcome["restart"])
    if outcome["problems"]:
        return Exit.CONFIG
    return Exit.OK if outcome["ok"] else Exit.UNAVAILABLE


def _tell(restart: dict[str, object]) -> None:
    if not restart["ok"]:
        sys.stderr.write(f"{restart['error']}\n")
        return
    sys.stdout.write(f"Restarted: kanidmd is process {restart['pid']}. Requests waited for {restart['held_ms']} ms at most.\n")
    if restart["cut"]:
        sys.stdout.write(f"{restart['cut']} requests did not end in time and were cut.\n")
