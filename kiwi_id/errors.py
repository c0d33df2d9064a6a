"""Errors that end a command, each with the exit code an orchestrator sees and the words a person reads.

Exit codes follow BSD ``sysexits.h``, so that ``systemctl status`` and scripts can tell a bad configuration (do not restart)
from an unavailable child (do restart).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Process exit codes of every ``kiwi-id`` command (``sysexits.h`` names)."""

    OK = 0
    FAILURE = 1
    USAGE = 64
    NOINPUT = 66
    UNAVAILABLE = 69
    SOFTWARE = 70
    IOERR = 74
    CONFIG = 78
    INTERRUPTED = 130  # not of sysexits.h: 128 and SIGINT, as shells say it


class KiwiError(Exception):
    """Base of all errors with words for a person; ``exit_code`` is what the process ends with."""

    exit_code: Exit = Exit.SOFTWARE

    def diagnostics(self) -> str:
        """Return the whole message for a person, possibly over several lines, without a traceback."""
        return str(self)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a file or setting, in the parts a person needs to mend it.

    ``where`` is a file, with ``:line`` when known; ``key`` the setting in it (empty when the whole file is meant); ``found``
    what was there; ``allowed`` what may be there; ``fix`` what to do. Secret values must never be put in ``found``.
    """

    where: str
    key: str
    found: str
    allowed: str
    fix: str

    def __str__(self) -> str:
        head = f"{self.where}: {self.key}: " if self.key else f"{self.where}: "
        parts = [f"found {self.found}"]
        if self.allowed:
            parts.append(f"allowed: {self.allowed}")
        text = head + "; ".join(parts)
        return f"{text}. {self.fix}" if self.fix else text

    def as_dict(self) -> dict[str, str]:
        """Return the parts as a JSON-ready mapping of strings."""
        return asdict(self)


class ConfigError(KiwiError):
    """One or more problems with configuration, all of them, not the first only. Exit code 78."""

    exit_code = Exit.CONFIG

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems

    def diagnostics(self) -> str:
        """Return one line per problem."""
        return "\n".join(str(problem) for problem in self.problems)


class ConfigMissing(ConfigError):
    """There is no config file at all. Exit code 66."""

    exit_code = Exit.NOINPUT


class ChildUnavailable(KiwiError):
    """Kanidm could not be started, or did not become ready, or kept failing. Exit code 69.

    ``output`` holds the last lines that the child printed, oldest first.
    """

    exit_code = Exit.UNAVAILABLE

    def __init__(self, message: str, output: list[str] | None = None) -> None:
        super().__init__(message)
        self.output = output or []

    def diagnostics(self) -> str:
        """Return the message followed by the child's last lines."""
        if not self.output:
            return str(self)
        return "\n".join([str(self), "last output of kanidmd:", *(f"  {line}" for line in self.output)])
