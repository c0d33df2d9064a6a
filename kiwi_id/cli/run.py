"""``kiwi-id run``: the supervisor, as init of a container or as a service."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from kiwi_id import early_signals
from kiwi_id.cli import add_config_option
from kiwi_id.errors import Exit, KiwiError

if TYPE_CHECKING:
    from kiwi_id.compatibility import PinChecker
    from kiwi_id.config import Config


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
    from kiwi_id import config, logs  # noqa: PLC0415

    settings = config.load(config.config_path(args.config))
    logs.configure(settings.log_level, settings.log_format, settings.log_file)
    log = logs.Log("supervisor")
    binary = _check_binary(settings, args.allow_untested)
    import trio  # noqa: PLC0415

    from kiwi_id.notify import Notifier  # noqa: PLC0415

    notifier = Notifier()
    try:
        from kiwi_id.plan import Plan  # noqa: PLC0415
        from kiwi_id.supervisor import Supervisor  # noqa: PLC0415

        return trio.run(Supervisor(Plan(settings, binary), notifier).run)
    except KiwiError as error:
        log.error("cannot go on", error=str(error), exit_code=int(error.exit_code))
        notifier.status(str(error)[:200])
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it is, the log must have it, and the code be ours
        log.crash("internal error", error)
        sys.stderr.write(f"kiwi-id run: internal error: {type(error).__name__}; see the log above\n")
        return Exit.SOFTWARE


def _check_binary(settings: Config, allow_untested: bool) -> Callable[[], PinChecker]:
    """Begin to hash kanidmd; return the function that waits for the outcome.

    Hashing takes as long as importing Trio and does not need the interpreter's lock: in a thread it costs nothing.
    """
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    from kiwi_id.compatibility import PinChecker  # noqa: PLC0415

    executor = ThreadPoolExecutor(1)
    future = executor.submit(PinChecker, settings, allow_untested=allow_untested)
    executor.shutdown(wait=False)
    return future.result
