"""``kiwi-id apply``: make Kanidm as the state file says."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from typing import TYPE_CHECKING

from kiwi_id import config, control
from kiwi_id.cli import plan
from kiwi_id.config import Config
from kiwi_id.errors import Exit, Problem

if TYPE_CHECKING:
    from kiwi_id.identities.apply import Done

LONG = 20
"""Steps from which on a progress bar is shown."""
PATIENCE = 120.0
"""Seconds for which another apply is waited for: that of a reload goes on after the reload has been answered."""
WAITING = f"Another apply is at work on this instance, by a start or reload or by hand; waiting for it, {PATIENCE:g} s at most.\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    plan.add_options(parser)
    parser.add_argument("--remove-many", action="store_true", help="even if more than ten entries, and a fifth of all, go")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(args: argparse.Namespace) -> int:
    """Apply, and print each step; return 0 when Kanidm is as the file says, 1 when something was refused or is not ours."""
    import trio  # noqa: PLC0415

    from kiwi_id.identities import service, show, word  # noqa: PLC0415
    from kiwi_id.identities.diff import Difference  # noqa: PLC0415
    from kiwi_id.identities.load import load  # noqa: PLC0415
    from kiwi_id.kanidm import server_toml  # noqa: PLC0415

    instance = config.load(config.config_path(args.config))
    server = server_toml.load(instance.upstream_config)
    wanted = load(plan.state_file(args, instance))
    wish = plan.wish(args, wanted)
    bar = _Bar()
    colour = plan.coloured()

    def report(done: Done) -> None:
        bar.clear()
        if not args.json:
            print(show.done_line(done, colour=colour), flush=True)
        bar.show(done)

    async def apply() -> tuple[Difference, list[Done]]:
        async with service.session(instance, server, recover=args.recover) as kanidm:
            return await service.make_so(kanidm, wanted, wish, report)

    try:
        with service.exclusive(instance, patience=PATIENCE, waits=lambda: sys.stderr.write(WAITING)):
            difference, refused = trio.run(apply)
    finally:
        bar.clear()
        if args.recover:
            sys.stderr.write(plan.RECOVERED)
    done = len(difference.steps) - len(refused)
    if plan.state_file(args, instance) == instance.identities_file:
        word.leave(instance, service.applied_by_hand(instance.identities_file, difference, refused))
    secrets = _tell_running(instance)
    if args.json:
        words = [{"kind": one.step.kind, "name": one.step.name, "reasons": list(one.refused)} for one in refused]
        ok = difference.whole and not (refused or secrets)
        answer = {"ok": ok, "done": done, "refused": words, "secrets": secrets, **show.as_dict(difference)}
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        rest = show.lines(dataclasses.replace(difference, steps=()), colour=colour)
        print("\n".join([*list(rest)[:-1], f"{done} of {len(difference.steps)} steps done."]))
        for problem in secrets:
            sys.stderr.write(f"{Problem(**problem)}\n")
    return Exit.OK if difference.whole and not (refused or secrets) else Exit.FAILURE


def _tell_running(instance: Config) -> list[dict[str, str]]:
    """Have a running Kiwi ID read the chosen client secrets anew; return what it says is wrong with them."""
    try:
        answer = control.call(instance.control_socket, "reread_secrets", timeout=10)
    except control.NotRunning:  # it reads them when it starts
        return []
    problems: list[dict[str, str]] = answer.get("problems", [])
    return problems


class _Bar:
    """A progress bar on stderr, when that is a terminal and there is much to do."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._shown = False

    def show(self, done: Done) -> None:
        """Draw the bar for what is done so far."""
        if self._on and done.total >= LONG and done.count < done.total:
            width = max(10, min(40, shutil.get_terminal_size().columns - 20))
            full = width * done.count // done.total
            sys.stderr.write(f"\r[{'#' * full}{' ' * (width - full)}] {done.count}/{done.total}")
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        """Take the bar away, so that a line can be printed."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False
