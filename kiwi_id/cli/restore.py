"""``kiwi-id restore``: an instance back from a backup; ``--check`` only looks whether it could be."""

from __future__ import annotations

import argparse
import json
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiwi_id import config
from kiwi_id.cli.backup import add_passphrase_option, ask, passphrase_of
from kiwi_id.cli.shared import shown
from kiwi_id.cli.streams import plain
from kiwi_id.errors import Exit

if TYPE_CHECKING:
    from kiwi_id.backup.manifest import Manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", type=Path, help="the backup")
    where = "restore into the tree under DIR, with its paths in config.toml and server.toml (default: where it came from)"
    parser.add_argument("--root", metavar="DIR", type=Path, help=where)
    parser.add_argument("--upstream-bin", metavar="PATH", type=Path, help="kanidmd, when it lies elsewhere than before")
    parser.add_argument("--check", action="store_true", help="only read the whole backup and compare all checksums")
    add_passphrase_option(parser, "the passphrase of an encrypted backup is in this file")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Restore, or check. Raises KiwiError."""
    from kiwi_id.backup.create import needs_passphrase, opened  # noqa: PLC0415  # heavy: cryptography, sqlite3

    file = args.file.absolute()
    passphrase = passphrase_of(args.passphrase_file) if args.passphrase_file else None
    if passphrase is None and needs_passphrase(file):
        passphrase = ask(twice=False)
    with opened(file, passphrase) as reader:
        if args.check:
            reader.read()
            return _tell_check(args, reader.manifest)
        from kiwi_id.backup.restore import restore  # noqa: PLC0415  # heavier: Trio

        root = args.root.absolute() if args.root else None
        binary = args.upstream_bin.absolute() if args.upstream_bin else None
        done = restore(reader, root=root, binary=binary, now=datetime.now(UTC))
    option = "" if done.config == config.DEFAULT_PATH else f" --config {shlex.quote(str(done.config))}"
    following = f"kiwi-id check{option}, then start it"
    if args.json:
        paths = {"written": [str(path) for path in done.written], "aside": [str(path) for path in done.aside]}
        print(json.dumps({**_facts(done.manifest), "config": str(done.config), **paths, "notes": done.notes}, indent=2))
        return Exit.OK
    for path in done.aside:
        print(f"kept     {shown(str(path))}")
    for path in done.written:
        print(f"written  {shown(str(path))}")
    for note in done.notes:
        print(f"\n{plain(note)}")
    print(f"\nThis is the instance of {done.manifest.domain} as it was at {done.manifest.made}. Next: {following}")
    return Exit.OK


def _tell_check(args: argparse.Namespace, manifest: Manifest) -> int:
    if args.json:
        members = [{"path": member.path, "role": member.role, "bytes": member.size} for member in manifest.members]
        print(json.dumps({**_facts(manifest), "files": members}, indent=2))
    else:
        print(f"{args.file}: whole and good: {len(manifest.members)} files of {manifest.domain}, made at {manifest.made}")
        print(f"with Kanidm {manifest.kanidm} and Kiwi ID {manifest.kiwi_id}")
    return Exit.OK


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "ok": True,
        "made": manifest.made,
        "domain": manifest.domain,
        "origin": manifest.origin,
        "kanidm": manifest.kanidm,
        "kiwi_id": manifest.kiwi_id,
    }
