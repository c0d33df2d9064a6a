"""Ctrl-C and Ctrl-D at Kiwi ID's own questions: an end in few words, with an exit code of its own, and nothing done."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from kiwi_id import devserver
from kiwi_id.cli.streams import interrupted
from kiwi_id.errors import Exit
from kiwi_id.instance import layout

ROOT = Path(__file__).parent.parent.parent
# Ctrl-C is a signal of a terminal to those that it is the controlling terminal of.
_AT_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
)


def typed(arguments: list[str], question: bytes, key: bytes) -> tuple[int, str]:
    """Run ``kiwi-id`` on a terminal, type ``key`` at its question; return the exit code and what came after the question."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", _AT_TERMINAL, sys.executable, "-m", "kiwi_id", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        screen = b""
        with suppress(OSError):  # EIO: the command has ended
            while data := os.read(ours, 4096):
                asked = question in screen
                screen += data
                if question in screen and not asked:
                    os.write(ours, key)
        os.close(ours)
    return process.returncode, screen.partition(question)[2].decode()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An instance's config.toml."""
    directory = tmp_path_factory.mktemp("instance")
    devserver.install(directory / "kanidmd")
    layout.create(directory / "i", layout.Options(upstream_bin=directory / "kanidmd", key_type="eddsa"))
    return str(directory / "i/etc/kiwi/config.toml")


QUESTIONS = (
    (["user", "remove", "bob"], b"[y/N] "),
    (["backup", "--encrypt", "/nowhere/backup"], b"Passphrase of the backup: "),
    (["bootstrap", "--ask-password"], b"Password of idm_admin: "),
)


@pytest.mark.parametrize(("arguments", "question"), QUESTIONS, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_ctrl_c(config: str, arguments: list[str], question: bytes) -> None:
    """Ctrl-C ends the command with 130, as shells have it, and with nothing but the end of the line."""
    code, said = typed([*arguments, "--config", config], question, b"\x03")
    assert said.removeprefix("^C").strip() == ""
    assert said.endswith("\n")
    assert code == Exit.INTERRUPTED


@pytest.mark.parametrize(("arguments", "question"), QUESTIONS, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_ctrl_d(config: str, arguments: list[str], question: bytes) -> None:
    """The end of the input is no answer, which is said on a line of its own."""
    code, said = typed([*arguments, "--config", config], question, b"\x04")
    assert said.startswith("\r\n")
    (told,) = said.split("\r\n")[1:-1]
    assert told.startswith(f"kiwi-id {arguments[0]}: ")
    assert told.endswith("nothing was done")
    assert code == Exit.USAGE


def test_ctrl_c_below_trio() -> None:
    """A nursery wraps what its tasks raise: it is Ctrl-C only when there is nothing else in it."""
    assert interrupted(BaseExceptionGroup("", [BaseExceptionGroup("", [KeyboardInterrupt()])]))
    assert not interrupted(BaseExceptionGroup("", [KeyboardInterrupt(), ValueError()]))
