"""What every command's output and errors go through, so that an exit code never says what was not meant.

``kiwi-id token verify`` answers by its exit code: 1 is "invalid", and must not come from a full disk, a terminal that knows ASCII
only, a reader that has left, or a mistake of ours.
"""

from __future__ import annotations

import codecs
import errno
import os
import sys
import traceback
from contextlib import suppress

from kiwi_id.errors import Exit, KiwiError

# What a write that nobody expected to fail fails with. The error says no more than that: it has no file's name.
_UNWRITTEN = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EBADF})


def prepare() -> None:
    """Make standard output and error usable whatever they are; to be called once, at the start of a command.

    A stream that is closed swallows what is written, and a character that the encoding lacks is written as JSON writes it, which
    is right in the output of ``--json`` and readable everywhere else.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - for as long as the process lives
    codecs.register_error("kiwi_id.escape", _escape)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    # In the C locale Python's own answer is "surrogateescape", which fails for the same characters.
    if reconfigure is not None and sys.stdout.errors in ("strict", "surrogateescape"):
        reconfigure(errors="kiwi_id.escape")


def tell(text: str) -> None:
    """Write to standard error; where that is impossible there is nobody to tell."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def plain(text: str) -> str:
    """Return a text of several lines without what a terminal would obey: names and files may have been made by anybody."""
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


class NoAnswer(KiwiError):
    """A question at the terminal that nobody has answered. Exit code 64."""

    exit_code = Exit.USAGE


def ask_secret(question: str) -> str:
    """Ask on the terminal for what must not be seen. Raises NoAnswer when the input ends instead (Ctrl-D)."""
    import getpass  # noqa: PLC0415 - few commands ask

    try:
        return getpass.getpass(question)
    except EOFError:
        tell("\n")
        raise NoAnswer("no answer: nothing was done") from None


def interrupted(error: BaseException) -> bool:
    """Tell whether an error is nothing but Ctrl-C, by itself or as Trio's nurseries wrap it."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(interrupted, error.exceptions))
    return isinstance(error, KeyboardInterrupt)


def failed(error: Exception, command: str) -> Exit:
    """Return the exit code for an error that no command has expected, and tell of it."""
    if isinstance(error, OSError) and error.errno in _UNWRITTEN and error.filename is None:
        tell(f"kiwi-id {command}: the output could not be written: {error.strerror}\n")
        _drop_output()
        return Exit.IOERR
    with suppress(OSError):
        traceback.print_exception(error)
    tell(f"kiwi-id {command}: a mistake in Kiwi ID, or something that it does not expect; please report what stands above\n")
    return Exit.SOFTWARE


def _drop_output() -> None:
    """Let what is still buffered go nowhere: Python would fail again at the end, with an exit code of its own."""
    ours = sys.__stdout__
    if ours is not None and sys.stdout is ours:
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, ours.fileno())
            os.close(nowhere)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    import json  # noqa: PLC0415 - next to never needed

    return json.dumps(error.object[error.start : error.end])[1:-1], error.end
