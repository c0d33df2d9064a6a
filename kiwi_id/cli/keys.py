"""``kiwi-id keys``: the life of the signing keys. Each change tells the next step, and asks a running Kiwi ID to reload."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kiwi_id import config, control
from kiwi_id.cli import add_config_option
from kiwi_id.config import Config
from kiwi_id.errors import ConfigError, Exit, Problem

if TYPE_CHECKING:
    from kiwi_id.issuer.keys import Key
    from kiwi_id.issuer.rotation import Keyring

KINDS = ("rs256", "es256", "eddsa")
RELOAD_TIMEOUT = 60.0
_ACTIONS = {
    "list": "show the key set: which key signs, which are published, and until when",
    "generate": "make the next key; it is published at once and signs after 'kiwi-id keys rotate'",
    "rotate": "let the next key sign; the current one stays published until its tokens have ended",
    "retire": "remove a next or retired key at once; tokens that it signed are not accepted any more",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in _ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        add_config_option(action)
        action.add_argument("--json", action="store_true", help="print the result as JSON")
        if name != "list":
            action.add_argument("--no-reload", action="store_true", help="leave a running Kiwi ID as it is for now")
        if name in ("generate", "rotate"):
            action.add_argument("--kind", choices=KINDS, help="kind of a new key (default: that of the current one)")
        if name in ("rotate", "retire"):
            action.add_argument("--force", action="store_true", help="even where relying parties notice: for a stolen key")
        if name == "retire":
            action.add_argument(
                "kid", metavar="KID", help="the key's kid, or the beginning of it (after '--' if it begins with a dash)"
            )


def run(args: argparse.Namespace) -> int:
    """Carry the action out. Raises ConfigError (78) for unusable files, TooEarly and NoSuchKey (1)."""
    instance = config.load(config.config_path(args.config))
    # Heavy: cryptography. What is wrong with a command line or config.toml is told without it.
    from kiwi_id.issuer.rotation import Keyring  # noqa: PLC0415

    ring = Keyring.of(instance)
    now = datetime.now(UTC)
    try:
        ring.finish_interrupted()
        lines = _act(args, ring, now)
        table = [_describe(key, now) for key in ring.load().keys]
    except OSError as error:
        where = str(error.filename or instance.keys_dir)
        fix = "Run it as the user that Kiwi ID runs as."
        raise ConfigError([Problem(where, "", error.strerror or str(error), "a place that can be written to", fix)]) from None
    outcome: dict[str, Any] | None = None
    if args.action != "list":
        outcome, more = _reload(instance, leave=args.no_reload)
        lines += more
    if args.json:
        answer = {"ok": True, "keys": table} | ({} if args.action == "list" else {"reload": outcome})
        print(json.dumps(answer, indent=2))
    else:
        print("\n".join([*(lines or []), *([""] if lines else []), *_table(table)]))
    return Exit.OK if outcome is None or outcome["ok"] else Exit.CONFIG


def _act(args: argparse.Namespace, ring: Keyring, now: datetime) -> list[str]:
    """Do what was asked; return what a person is told."""
    from kiwi_id.issuer.keys import PUBLISH_AHEAD, RETIRED_LIFETIME  # noqa: PLC0415

    if args.action == "generate":
        before = {key.kid for key in ring.load().keys}
        key = ring.generate(now, args.kind)
        ready = key.since + PUBLISH_AHEAD
        done = f"There is a next key already: {key.kid}" if key.kid in before else f"Made the next key {key.kid}"
        when = "now" if ready <= now else f"from {_time(ready)} on, when every relying party has seen it"
        return [f"{done} ({key.alg}).", f"It can sign {when}: kiwi-id keys rotate"]
    if args.action == "rotate":
        old = ring.load().current
        if args.kind is not None:
            _refuse_kind(ring, args.kind, now, force=args.force)
        key = ring.rotate(now, force=args.force)
        return [
            f"Now {key.kid} signs ({key.alg}); {old.kid} stays published until {_time(now + RETIRED_LIFETIME)}.",
            f"Services that read {ring.public} must read it again; those that fetch /oauth2/keys need nothing.",
        ]
    if args.action == "retire":
        key = ring.retire(args.kid, now, force=args.force)
        return [f"Removed the {key.state.value} key {key.kid} ({key.alg})."]
    return []


def _refuse_kind(ring: Keyring, kind: str, now: datetime, *, force: bool) -> None:
    """See to it that the key which is about to sign is of the kind asked for. Raises TooEarly unless ``force``."""
    from kiwi_id.issuer.rotation import TooEarly, upcoming  # noqa: PLC0415

    following = upcoming(ring.load())
    if following is not None and following.alg.lower() == kind:
        return
    if not force:
        raise TooEarly(
            f"there is no next key of the kind {kind}: run 'kiwi-id keys generate --kind {kind}', and rotate a day later"
        )
    ring.generate(now, kind)  # type: ignore[arg-type]  # argparse has checked it


def _reload(instance: Config, *, leave: bool) -> tuple[dict[str, Any] | None, list[str]]:
    """Ask a running Kiwi ID to reload; return its answer (None: there was none to ask) and what a person is told."""
    if leave:
        return None, ["Left to you: kiwi-id reload --wait"]
    try:
        outcome = control.call(instance.control_socket, "reload", timeout=RELOAD_TIMEOUT)
    except control.NotRunning as error:
        return None, [f"Not reloaded: {error}", "The change takes effect at the next start or 'kiwi-id reload'."]
    if outcome["ok"]:
        return outcome, ["The running Kiwi ID has reloaded and uses these keys."]
    sys.stderr.write(
        "The running Kiwi ID refused to reload; it goes on with the keys it had. To mend, then 'kiwi-id reload --wait':\n"
    )
    for problem in outcome["problems"]:
        sys.stderr.write(f"  {Problem(**problem)}\n")
    return outcome, []


def _describe(key: Key, now: datetime) -> dict[str, str]:
    from kiwi_id.issuer.keys import PUBLISH_AHEAD, RETIRED_LIFETIME, KeyState  # noqa: PLC0415

    row = {"kid": key.kid, "alg": key.alg, "state": key.state.value, "since": key.since.isoformat(), "file": str(key.path)}
    if key.state is KeyState.NEXT:
        row["ready"] = (key.since + PUBLISH_AHEAD).isoformat()
    if key.state is KeyState.RETIRED:
        row["until"] = (key.since + RETIRED_LIFETIME).isoformat()
    return row


def _table(rows: list[dict[str, str]]) -> list[str]:
    """Return the key set as aligned lines, the next key first."""
    order = {"next": 0, "current": 1, "retired": 2}
    lines = [f"{'STATE':<8} {'KID':<43} {'ALG':<6} {'SINCE':<20} "]
    for row in sorted(rows, key=lambda row: (order[row["state"]], row["since"])):
        note = "signs"
        if "ready" in row:
            note = f"can sign from {_time(datetime.fromisoformat(row['ready']))}"
        elif "until" in row:
            note = f"published until {_time(datetime.fromisoformat(row['until']))}"
        since = _time(datetime.fromisoformat(row["since"]))
        lines.append(f"{row['state']:<8} {row['kid']:<43} {row['alg']:<6} {since:<20} {note}")
    return [line.rstrip() for line in lines]


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
