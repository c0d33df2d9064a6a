"""``kiwi-id init``: write a working instance, or what one lacks."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kiwi_id import compatibility, config, values
from kiwi_id.errors import ConfigError, Exit
from kiwi_id.instance import keys, layout
from kiwi_id.kanidm import server_toml
from kiwi_id.values import Address, Refused

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``kiwi-id init``."""
    parser.add_argument("directory", metavar="DIR", help="where: / for this machine, or a directory for a trial without root")
    parser.add_argument("--domain", help="Kanidm's domain, such as id.example.com (outside /: default localhost)")
    parser.add_argument("--origin", help="what browsers see, such as https://id.example.com (default: from --domain)")
    parser.add_argument("--listen", metavar="ADDR", type=_argument(values.address), help="host:port where others connect")
    parser.add_argument("--upstream-addr", metavar="ADDR", type=_argument(_upstream), help="host:port of kanidmd, on the loopback")
    parser.add_argument("--upstream-bin", metavar="PATH", type=Path, help="kanidmd (default: /opt/upstream/bin, then PATH)")
    parser.add_argument("--key-type", choices=keys.KINDS, help="of the signing keys (default rs256)")
    force = "replace files that exist (old ones stay as NAME.bak); signing keys only together with --key-type"
    parser.add_argument("--force", action="store_true", help=force)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Create the instance and print what was done to each file, and the next step. Raises ConfigError."""
    root = Path(args.directory).absolute()
    options = layout.Options(
        domain=args.domain,
        origin=args.origin,
        listen=args.listen,
        upstream=args.upstream_addr,
        upstream_bin=args.upstream_bin,
        key_type=args.key_type,
        provision=True,
        force=args.force,
    )
    done = layout.create(root, options)
    file = layout.Places.under(root).config
    instance = config.load(file)
    notes = _notes(args, instance, done)
    following = _next_step(root, file)
    if args.json:
        files = [{"action": action, "path": str(path)} for action, path in done]
        print(json.dumps({"ok": True, "config": str(file), "files": files, "notes": notes, "next": following}, indent=2))
        return Exit.OK
    for action, path in done:
        print(f"{action:<8}  {path}{'/' if path.is_dir() else ''}")
    for note in notes:
        print(f"\n{note}")
    print(f"\nNext: {following}")
    return Exit.OK


def _notes(args: argparse.Namespace, instance: config.Config, done: list[tuple[layout.Action, Path]]) -> list[str]:
    notes: list[str] = []
    server = server_toml.load(instance.upstream_config)
    wanted: dict[str, tuple[object, object]] = {
        "--domain": (args.domain, server.domain),
        "--origin": (_origin(server.domain, args.origin), server.origin),
        "--listen": (args.listen, instance.listen_addr),
        "--upstream-addr": (args.upstream_addr, instance.upstream_addr),
        "--upstream-bin": (args.upstream_bin and args.upstream_bin.absolute(), instance.upstream_bin),
    }
    for option, (asked, there) in wanted.items():
        if asked is not None and asked != there:
            notes.append(f"{option} {asked} had no effect: the kept files say {there}. Use --force to write them anew.")
    if args.key_type and ("kept", instance.jwt_private_key) in done:
        notes.append("--key-type had no effect: the signing key was kept. Use --force as well to make a new one.")
    if not any(path == instance.compatibility_file for _, path in done):
        command = f"kiwi-id pin{_config_option(instance.path)}"
        notes.append(f"There is no kanidmd at {instance.upstream_bin} yet. When it is there, pin it: {command}")
    else:
        try:
            compatibility.inspect(instance, allow_untested=False)
        except ConfigError as error:
            notes.append(f"This kanidmd will be refused: {error.diagnostics()}")
    if server.domain == "localhost":
        notes.append("The domain is localhost: good for a trial on this machine. For others to log in, give --domain.")
    return notes


def _origin(domain: str, asked: str | None) -> str | None:
    """Return the origin asked for, spelt as server.toml's is; as it was given when it cannot belong to ``domain``."""
    try:
        return asked and server_toml.origin_of(domain, asked)
    except Refused:
        return asked


def _next_step(root: Path, file: Path) -> str:
    program = shutil.which("kiwi-id") if root == Path("/") else None
    command = "kiwi-id" if program else shlex.quote(str(layout.Places.under(root).launcher))
    option = _config_option(file)
    return f"{command} check{option} && {command} run{option}"


def _config_option(file: Path) -> str:
    return "" if file == config.DEFAULT_PATH else f" --config {shlex.quote(str(file))}"


def _upstream(text: str) -> Address:
    return values.https_address(text) if text.startswith("https:") else values.address(text, any_port=False)


def _argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Return ``parse`` as an argparse type: what it refuses is a usage error with the same words."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except Refused as refused:
            raise argparse.ArgumentTypeError(f"{refused}. {refused.fix}".strip()) from None

    return convert
