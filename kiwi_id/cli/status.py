"""``kiwi-id status``: what a running Kiwi ID is doing, from its control socket."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from kiwi_id import config, control
from kiwi_id.cli import add_config_option
from kiwi_id.errors import Exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--socket", metavar="PATH", help="control socket (default: the one in runtime_dir)")


def run(args: argparse.Namespace) -> int:
    """Print the status; return 0, or 69 when none is running."""
    path, word = (Path(args.socket), "") if args.socket else config.control_socket_of(config.config_path(args.config))
    answer = control.call(path, "status", timeout=10, word=word)
    if args.json:
        sys.stdout.write(json.dumps(answer) + "\n")
        return Exit.OK
    upstream = answer["upstream"]
    untested = "" if upstream["tested"] else " (untested with this Kiwi ID)"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(upstream["since"]))
    lines = [
        f"Kiwi ID     {answer['version']}, process {answer['pid']}{', draining' if answer['draining'] else ''}",
        f"kanidmd     {upstream['version']}{untested}, process {upstream['pid'] or '-'}",
        f"            {upstream['state']} since {since}, restarted {upstream['restarts']} times",
        f"listening   {', '.join(answer['listening'])}",
        f"clients     {answer['connections']} connected, {answer['waiting']} waiting for kanidmd",
        f"config      {answer['config']}",
    ]
    if refused := answer["refused"]:
        lines.insert(-1, "refused     " + ", ".join(f"{kind} {count}" for kind, count in refused.items()))
    if answer["last_reload"] is not None:
        lines.append(f"last reload {'worked' if answer['last_reload']['ok'] else 'failed: see the log'}")
    sys.stdout.write("\n".join(lines) + "\n")
    return Exit.OK
