"""``kiwi-id token``: check, look at and, against a ``kiwi-id dev``, get access tokens.

A token is read from standard input or a file, never from an argument: every user of a machine can read those of all processes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiwi_id import config
from kiwi_id.cli import add_config_option
from kiwi_id.errors import ConfigError, Exit, KiwiError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kiwi_id.config import Config
    from kiwi_id.verify import Claims, TokenError

_ACTIONS = {
    "verify": "check an access token as services do; exit 0 when it is valid, 1 when not",
    "inspect": "show what a token says of itself, without any check",
    "mint": "log a demo user of a running 'kiwi-id dev' in and print the access token",
}
_LONGEST = 1 << 20
_TIMES = ("exp", "iat", "nbf", "auth_time", "updated_at")
# A JWT, one of our refresh tokens (issuer/encoding.py), or something too long for anybody's file name.
_TOKEN_LIKE = re.compile(r"[\w-]{8,}\.[\w-]+\.[\w-]*|kiwi[\w.-]{40,}|[^/]{100,}", re.ASCII)


class UsageError(KiwiError):
    """What was asked for cannot be done like this. Exit code 64."""

    exit_code = Exit.USAGE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in _ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name != "mint":
            action.add_argument("file", nargs="?", default="-", metavar="FILE", help="holds the token (default, and '-': stdin)")
        if name == "verify":
            add_config_option(action)
            action.add_argument("--key", metavar="FILE", help="public key, PEM or JWKS, instead of the config's; needs --issuer")
            action.add_argument("--issuer", metavar="URL", help="issuer that is trusted; with --key")
            action.add_argument(
                "--audience", action="append", metavar="NAME", help="service the token must be for (repeatable: one of them)"
            )
        if name == "mint":
            action.add_argument("--dev", action="store_true", help="must be given: nothing else than a demo's tokens can be had")
            action.add_argument("--dir", type=Path, metavar="DIR", help="of the 'kiwi-id dev' (default: the one that runs)")
            action.add_argument("--user", default="alice", metavar="NAME", help="demo user (default: alice)")
            action.add_argument("--scope", metavar="SCOPES", help='scopes, as "openid groups" (default: all of the demo\'s)')
        action.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Carry the action out. Raises UsageError (64), ConfigError (78; 66 without a config file)."""
    if args.action != "mint" and _TOKEN_LIKE.fullmatch(args.file) and not os.path.exists(args.file):  # noqa: PTH110 - Path.exists raises for long ones
        raise UsageError(
            "that is a token, not the name of a file. Every user of this machine can read the arguments of a process, and your "
            "shell keeps them in its history: take it as known to others. Give a token by standard input or in a file"
        )
    actions = {"verify": _verify, "inspect": _inspect, "mint": _mint}
    return actions[args.action](args)


def _verify(args: argparse.Namespace) -> int:
    if bool(args.key) != bool(args.issuer):
        raise UsageError("--key and --issuer belong together: a key alone does not say whose tokens it may sign")
    if args.key and args.config:
        raise UsageError("--key and --issuer stand for what --config says; give one of the two")
    settings = None if args.key else config.load(config.config_path(args.config))
    token = _read(args.file)
    # Heavy: cryptography. What is wrong with a command line or config.toml is told without it.
    from kiwi_id.verify import TokenError  # noqa: PLC0415

    try:
        claims = _check(token, args.key, args.issuer, args.audience) if settings is None else _ask(token, settings, args.audience)
    except TokenError as error:
        print(_json(_refusal(error)) if args.json else f"invalid: {error}")
        return Exit.FAILURE
    if args.json:
        print(_json({"valid": True, "audience_checked": bool(args.audience), "claims": claims.raw}))
    else:
        print("\n".join(_table(claims, audience_checked=bool(args.audience))))
    return Exit.OK


def _ask(token: bytes, settings: Config, audience: list[str] | None) -> Claims:
    """Check a token with an instance's keys. Raises TokenError, ConfigError."""
    from kiwi_id.kanidm import server_toml  # noqa: PLC0415
    from kiwi_id.verify import UnknownKey  # noqa: PLC0415

    issuer = settings.issuer or server_toml.load(settings.upstream_config).origin
    try:
        return _check(token, settings.jwt_public_key, issuer, audience)
    except UnknownKey as error:
        # A key just retired still counts. Its file holds the private half, so only Kiwi ID's own user can look.
        from kiwi_id.issuer.rotation import Keyring  # noqa: PLC0415

        try:
            ring = Keyring.of(settings).load()
        except (ConfigError, OSError):
            hint = "retired keys could not be looked at; run it as the user that Kiwi ID runs as"
            raise UnknownKey(f"{error} ({hint})") from None
        return _check(token, {key.kid: key.private.public_key() for key in ring.keys}, issuer, audience)


def _check(token: bytes, keys: Any, issuer: str, audience: list[str] | None) -> Claims:
    from kiwi_id.verify import KeysError, Verifier  # noqa: PLC0415

    try:
        verifier = Verifier(keys, issuer=issuer, audience=audience, cache_size=0)
    except KeysError as error:
        fix = "'kiwi-id check' tells more." if isinstance(keys, Path) else ""
        found = str(error).removeprefix(f"{keys}: ")
        raise ConfigError([Problem(str(keys), "", found, "a public key in PEM, or a JWK set", fix)]) from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    return verifier.verify(token)


def _refusal(error: TokenError) -> dict[str, Any]:
    kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
    by = getattr(error, "by", None)
    return {"valid": False, "error": kind, "message": str(error)} | ({"by_seconds": by.total_seconds()} if by else {})


def _table(claims: Claims, *, audience_checked: bool) -> list[str]:
    rows = {
        "subject": claims.subject,
        "name": claims.name,
        "email": claims.email,
        "groups": " ".join(sorted(claims.groups)),
        "scopes": " ".join(sorted(claims.scopes)),
        "client": claims.client_id,
        "audience": " ".join(claims.audience),
        "issuer": claims.issuer,
        "issued": _time(claims.issued_at),
        "expires": _time(claims.expires),
    }
    lines = ["valid", *(f"{name:<9} {_shown(value or '-')}" for name, value in rows.items())]
    return lines if audience_checked else [*lines, "", "For whom it is was not checked; a service must: --audience NAME."]


def _inspect(args: argparse.Namespace) -> int:
    token = _read(args.file)
    from kiwi_id.verify import MalformedToken, jose  # noqa: PLC0415

    try:
        header, claims = jose.unverified(token)
    except MalformedToken as error:
        print(_json({"verified": False, **_refusal(error)}) if args.json else f"not readable as a token: {error}")
        return Exit.FAILURE
    if args.json:
        print(_json({"verified": False, "header": header, "claims": claims}))
        return Exit.OK
    print("NOT VERIFIED: anybody can write this. To check it: kiwi-id token verify\n")
    print("\n".join([*_members("header", header), "", *_members("claims", claims)]))
    return Exit.OK


def _members(title: str, members: Mapping[str, Any]) -> list[str]:
    width = max((len(_shown(name)) for name in members), default=0)
    lines = [title]
    for name, value in members.items():
        text = _shown(value if isinstance(value, str) else _json(value, indent=None))
        if name in _TIMES and type(value) in (int, float) and 0 <= value < 253402300800:
            text += f"  {_time(datetime.fromtimestamp(value, UTC))}"
        if len(text) > 100:
            text = f"{text[:60]}… ({len(text)} characters)"
        lines.append(f"  {_shown(name):<{width}}  {text}")
    return lines


def _mint(args: argparse.Namespace) -> int:
    if not args.dev:
        raise UsageError(
            "say --dev: only a 'kiwi-id dev' gives tokens for the asking; everywhere else they come from a login of their user"
        )
    from kiwi_id import demo_login  # noqa: PLC0415 - heavy: httpx and Trio

    made = demo_login.access_token(args.dir, args.user, args.scope)
    if args.json:
        print(_json(made.as_dict()))
        return Exit.OK
    print(made.token)
    if sys.stdout.isatty():
        sys.stderr.write(
            f"\n{made.user} at {made.client_id}, for {made.expires_in} s. Issuer {made.issuer}, key {made.public_key}\n"
        )
    return Exit.OK


def _read(file: str) -> bytes:
    """Return the token in ``file``, or on standard input, without white space around it. Raises UsageError."""
    try:
        if file == "-":
            if sys.stdin is None:  # closed by whoever started us
                raise UsageError("standard input is closed, and no file is named")
            if sys.stdin.isatty():
                sys.stderr.write("Paste the token, then Enter and Ctrl-D:\n")
            data = sys.stdin.buffer.read(_LONGEST)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(_LONGEST)
    except OSError as error:
        raise UsageError(f"{'standard input' if file == '-' else file}: {error.strerror or error}") from None
    if not (token := data.strip()):
        raise UsageError(f"{'standard input' if file == '-' else file}: no token in it")
    return token


def _json(value: Any, *, indent: int | None = 2) -> str:
    # default: claims are read-only mappings, which json does not know.
    return json.dumps(value, indent=indent, ensure_ascii=False, default=dict)


def _time(moment: datetime) -> str:
    away = (moment - datetime.now(UTC)).total_seconds()
    size, unit = next(((size, unit) for size, unit in ((86400, "d"), (3600, "h"), (60, "min")) if abs(away) >= size), (1, "s"))
    span = f"{abs(away) // size:.0f} {unit}"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC ({f'in {span}' if away > 0 else f'{span} ago'})"


def _shown(text: str) -> str:
    """Return ``text`` without what a terminal would obey: a token may hold anything."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
