"""``kiwi-id reload``: the same as SIGHUP, but it can say whether it worked."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from kiwi_id import config, control
from kiwi_id.cli import add_config_option
from kiwi_id.errors import Exit, Problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_option(parser)
    parser.add_argument("--wait", action="store_true", help="wait for the reload, tell what it did or why it failed")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON (implies --wait)")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="how long to wait (default: 120)")
    parser.add_argument("--socket", metavar="PATH", help="control socket (default: the one in runtime_dir)")


def run(args: argparse.Namespace) -> int:
    """Ask for a reload; return 0 when it worked (or was asked for), 78 when the files were refused.

    69 when a kanidmd that had to be restarted did not come back in time; 1 when it worked, but the state file, or a file of a
    chosen secret, has mistakes.
    """
    path, word = (Path(args.socket), "") if args.socket else config.control_socket_of(config.config_path(args.config))
    if not (args.wait or args.json):
        # Not a HUP to the process whose id status tells: inside a container that is 1, and outside 1 is somebody else.
        control.call(path, "request_reload", timeout=args.timeout, word=word)
        return Exit.OK
    outcome = control.call(path, "reload", timeout=args.timeout, word=word)
    if args.json:
        sys.stdout.write(json.dumps(outcome) + "\n")
    elif not outcome["problems"]:
        changed = ", ".join(outcome["changed"]) or "nothing of config.toml"
        sys.stdout.write(f"Reloaded. Changed: {changed}.\n")
        if outcome["needs_restart"]:
            sys.stdout.write(f"These need a restart of Kiwi ID to change: {', '.join(outcome['needs_restart'])}.\n")
        if restart := outcome["restart"]:
            sys.stdout.write(f"kanidmd was restarted: process {restart['pid']}.\n" if restart["ok"] else f"{restart['error']}\n")
        elif not outcome["child_reloaded"]:
            sys.stdout.write("kanidmd was not ready and was not told; it reads its files when it starts.\n")
        _tell_identities(outcome["identities"])
    else:
        sys.stderr.write("Not reloaded; the last good configuration is in force. To mend:\n")
        for problem in outcome["problems"]:
            sys.stderr.write(f"  {Problem(**problem)}\n")
    if outcome["problems"]:
        return Exit.CONFIG
    if not outcome["ok"]:
        return Exit.UNAVAILABLE
    return Exit.FAILURE if outcome["identities"]["problems"] or outcome["identities"]["secrets"] else Exit.OK


def _tell_identities(told: dict[str, Any]) -> None:
    if told["secrets"]:
        sys.stderr.write("Chosen client secrets that cannot be used; those that were in force stay so. To mend:\n")
        for problem in told["secrets"]:
            sys.stderr.write(f"  {Problem(**problem)}\n")
    if told["problems"]:
        sys.stderr.write("The state file has mistakes and is not applied; Kanidm stays as it is. To mend:\n")
        for problem in told["problems"]:
            sys.stderr.write(f"  {Problem(**problem)}\n")
    elif applied := told["applied"]:
        if applied["ok"] and not applied["absent"]:
            sys.stdout.write(f"The state file is applied: {applied['steps']} steps done.\n")
        elif not applied["ok"]:
            sys.stderr.write("The state file is not, or not wholly, in force: kiwi-id status tells why.\n")
    elif told["applying"]:
        sys.stdout.write("The state file, if there is one, is being applied: kiwi-id status tells how it goes.\n")
