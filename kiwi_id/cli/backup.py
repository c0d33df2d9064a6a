"""``kiwi-id backup``: the whole instance into one archive, while it runs."""

from __future__ import annotations

import argparse
import json
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path

from kiwi_id import config
from kiwi_id.cli import add_config_option, streams
from kiwi_id.errors import Exit, KiwiError
from kiwi_id.instance.files import read_file


class NoPassphrase(KiwiError):
    """A passphrase that cannot be had, or not so. Exit code 64."""

    exit_code = Exit.USAGE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_option(parser)
    where = "a new file, or a directory, where the file is named after domain and time (default: this one)"
    parser.add_argument("target", metavar="FILE|DIR", nargs="?", default=".", type=Path, help=where)
    parser.add_argument("--keep", metavar="N", type=_count, help="take a directory, and leave only the newest N backups there")
    parser.add_argument("--encrypt", action="store_true", help="encrypt it by a passphrase, which is asked for")
    add_passphrase_option(parser, "encrypt it by the passphrase in this file")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_passphrase_option(parser: argparse.ArgumentParser, text: str) -> None:
    """Add ``--passphrase-file``. There is no option with the passphrase itself: everybody can read a process's arguments."""
    parser.add_argument("--passphrase-file", metavar="FILE", type=Path, help=f"{text} (its first line; mode 0600)")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of backups to keep; allowed: 1 and more")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Make the backup. Raises KiwiError."""
    settings = config.load(config.config_path(args.config))
    passphrase = passphrase_of(args.passphrase_file) if args.passphrase_file else ask(twice=True) if args.encrypt else None
    from kiwi_id.backup.create import create  # noqa: PLC0415  # heavy: cryptography, sqlite3

    now = datetime.now(UTC).replace(microsecond=0)
    made = create(settings, args.target.absolute(), passphrase=passphrase, keep=args.keep, now=now)
    if args.json:
        result = {
            "ok": True,
            "path": str(made.path),
            "bytes": made.size,
            "encrypted": passphrase is not None,
            "made": made.manifest.made,
            "kanidm": made.manifest.kanidm,
            "files": [member.path for member in made.manifest.members],
            "removed": [str(path) for path in made.removed],
        }
        print(json.dumps(result, indent=2))
        return Exit.OK
    print(
        f"{made.path}: {len(made.manifest.members)} files of Kanidm {made.manifest.kanidm}, {made.size} bytes, read back and good"
    )
    for path in made.removed:
        print(f"removed {path}")
    if passphrase is None:
        print("It is not encrypted, and holds the signing keys and the database: keep it as you keep those.")
    return Exit.OK


def passphrase_of(file: Path) -> bytes:
    """Return the passphrase that a file's first line is. Raises NoPassphrase."""
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        line = read_file(file).split(b"\n", 1)[0].rstrip(b"\r")
    except OSError as error:
        raise NoPassphrase(f"{file}: {(error.strerror or str(error)).lower()}") from None
    if mode & 0o077:
        raise NoPassphrase(f"{file}: found mode {mode:04o}; allowed: 0600 or 0400, nobody but the owner. chmod 0600 {file}")
    if not line:
        raise NoPassphrase(f"{file}: found an empty first line; allowed: a passphrase")
    return line


def ask(*, twice: bool) -> bytes:
    """Ask for a passphrase on the terminal. Raises NoPassphrase when there is none, or the two differ."""
    if not sys.stdin.isatty():
        raise NoPassphrase("there is no terminal to ask for the passphrase on: name a file by --passphrase-file")
    first = streams.ask_secret("Passphrase of the backup: ")
    if not first:
        raise NoPassphrase("an empty passphrase protects nothing")
    if twice and streams.ask_secret("Once more: ") != first:
        raise NoPassphrase("the two passphrases differ; nothing was done")
    return first.encode()
