"""kanidmd's command line: `server`, `configtest`, `version`. Run as `python -m kiwi_id.devserver server -c FILE`."""

import os
import sys
from pathlib import Path

from kiwi_id.devserver import KANIDM_VERSION

__all__ = ["main"]

_STAND_IN = "This is the Kiwi ID stand-in for Kanidm, for development and tests only."
_USAGE = "Usage: kanidmd <COMMAND>\n\nCommands: server, configtest, version\n\nFor more information, try '--help'."
_DEFAULT_CONFIG = "/etc/kanidm/server.toml"


def main(argv: list[str] | None = None) -> int:
    """Run the command line in `argv` (without the program's name; `sys.argv[1:]` by default); returns the exit code.

    Codes as kanidmd's: 0 after a stop by signal, 1 when it cannot start, 2 for wrong usage. kanidmd 1.5.0 has no
    `--version` and refuses it; so does this.
    """
    args = sys.argv[1:] if argv is None else argv
    print(_STAND_IN, file=sys.stderr, flush=True)
    if args[:1] in (["-h"], ["--help"]):
        print(_USAGE)
        return 0
    if not args or args[0] not in ("server", "configtest", "version"):
        what = f"unexpected argument '{args[0]}' found" if args else "a command is missing"
        print(f"error: {what}\n\n{_USAGE}", file=sys.stderr)
        return 2
    if args[0] == "version":
        print(f"kanidmd {KANIDM_VERSION}")
        return 0
    path = _config_path(args[1:])
    if path is None:
        print(f"error: unexpected arguments {args[1:]}; -c FILE is allowed\n\n{_USAGE}", file=sys.stderr)
        return 2
    # Imported this late so that `version` and usage errors cost nothing.
    from kiwi_id.devserver.config import ConfigError, load  # noqa: PLC0415

    print(f'📜 Using config file: "{path}"', file=sys.stderr, flush=True)
    try:
        config = load(path)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args[0] == "configtest":
        return 0
    from kiwi_id.devserver.process import run  # noqa: PLC0415

    return run(config)


def _config_path(args: list[str]) -> Path | None:
    path = os.environ.get("KANIDM_CONFIG", _DEFAULT_CONFIG)
    rest = list(args)
    while rest:
        option = rest.pop(0)
        name, equals, value = option.partition("=")
        if name in ("-c", "--config-path", "--config", "-o", "--output"):
            if not equals:
                if not rest:
                    return None
                value = rest.pop(0)
            if name not in ("-o", "--output"):
                path = value
        elif option not in ("-d", "--debug"):
            return None
    return Path(path)


if __name__ == "__main__":
    sys.exit(main())
