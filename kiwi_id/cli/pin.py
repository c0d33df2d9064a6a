"""``kiwi-id pin``: record version and checksum of the kanidmd found here."""

from __future__ import annotations

import argparse
import json
import sys

from kiwi_id import compatibility, config
from kiwi_id.cli import add_config_option
from kiwi_id.errors import Exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``kiwi-id pin``."""
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Write the pin and print it. Raises ConfigError when there is no kanidmd, or the pin cannot be written."""
    instance = config.load(config.config_path(args.config))
    binary = compatibility.write_pin(instance)
    file = instance.compatibility_file
    if args.json:
        answer = {"version": binary.version, "sha256": binary.sha256, "tested": binary.tested, "binary": str(binary.path)}
        print(json.dumps({"ok": True, "file": str(file), **answer}, indent=2))
    else:
        print(f"pinned kanidmd {binary.version} ({binary.path}), sha256:{binary.sha256}, in {file}")
    if not binary.tested:
        tested = ", ".join(compatibility.tested_versions())
        sys.stderr.write(
            f"kiwi-id pin: kanidmd {binary.version} is an untested version (tested: {tested}); starting it needs"
            " --allow-untested, or allow_untested = true in config.toml\n"
        )
    return Exit.OK
