"""``kiwi-id run``: the supervisor, as init of a container or as a service."""

from __future__ import annotations

import argparse
import sys

from kiwi_id import early_signals
from kiwi_id.cli import add_config_option
from kiwi_id.errors import Exit, KiwiError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_option(parser)
    parser.add_argument(
        "--allow-untested", action="store_true", help="start a kanidmd version that this release was not tested with"
    )


def run(args: argparse.Namespace) -> int:
    """Run until stopped; return the exit code."""
    # Before the heavy imports: the kernel discards signals to a PID 1 that has no handlers yet.
    early_signals.hold_early()
    import trio  # noqa: PLC0415

    from kiwi_id import config, logs  # noqa: PLC0415
    from kiwi_id.notify import Notifier  # noqa: PLC0415
    from kiwi_id.plan import Plan  # noqa: PLC0415
    from kiwi_id.supervisor import Supervisor  # noqa: PLC0415

    notifier = Notifier()
    settings = config.load(config.config_path(args.config))
    logs.check_file(settings.log_file)
    logs.configure(settings.log_level, settings.log_format, settings.log_file)
    log = logs.Log("supervisor")
    try:
        plan = Plan(settings, allow_untested=args.allow_untested)
        return trio.run(Supervisor(plan, notifier).run)
    except KiwiError as error:
        log.error("cannot go on", error=str(error), exit_code=int(error.exit_code))
        notifier.status(str(error)[:200])
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it is, the log must have it, and the code be ours
        log.crash("internal error", error)
        sys.stderr.write(f"kiwi-id run: internal error: {type(error).__name__}; see the log above\n")
        return Exit.SOFTWARE
