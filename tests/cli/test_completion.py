"""``kiwi-id completion``: what the shells themselves make of the scripts, and that no command, action or option is left out."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from kiwi_id import cli
from kiwi_id.cli.completion import SHELLS, tree
from kiwi_id.errors import Exit

ROOT = Path(__file__).parent.parent.parent
# What is typed, and some of what must be offered; the last word is the one to complete.
TYPED = (
    (["us"], {"user"}),
    (["user", ""], {"add", "list", "reset-link", "remove"}),
    (["user", "add", "--d"], {"--display-name"}),
    (["user", "--"], {"--help"}),
    (["keys", "rotate", "--kind", ""], {"rs256", "es256", "eddsa"}),
    (["keys", "rotate", "--force", "--"], {"--kind", "--force", "--json"}),
    (["group", "add-member", "--config", "x", "--"], {"--json", "--config"}),
    (["completion", ""], {"bash", "zsh", "fish"}),
)


@cache
def script(shell: str) -> str:
    """Return what the real command prints."""
    command = [sys.executable, "-m", "kiwi_id", "completion", shell]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def complete(shell: str, tmp_path: Path, typed: list[str]) -> set[str]:
    """Return what ``shell`` offers after ``kiwi-id`` and these words."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} on this machine")
    file = tmp_path / "script"
    file.write_text(script(shell))
    if shell == "zsh":
        return at_prompt_of_zsh(program, tmp_path, file, " ".join(["kiwi-id", *typed]))
    words = " ".join(f"'{word}'" for word in ["kiwi-id", *typed])
    run = {
        "bash": f'source {file}; COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _kiwi_id; printf "%s\\n" "${{COMPREPLY[@]}}"',
        "fish": f"source {file}; complete -C '{' '.join(['kiwi-id', *typed])}'",
    }[shell]
    options = {"bash": ["--norc"], "fish": ["--no-config"]}[shell]
    done = subprocess.run([program, *options, "-c", run], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    return {re.split(r"[\t:]", line)[0] for line in done.stdout.splitlines()}


# zsh's completion system works at a prompt only. Everything that it offers goes through compadd, which notes it here on its way.
_ZSHRC = """\
autoload -Uz compinit && compinit -u -D
source {script}
compadd() {{
    local -a offered
    [[ " ${{(j: :)@}} " == *" -"[OAD]" "* ]] || {{ builtin compadd -O offered "$@"; print -rl -- $offered >> {out} }}
    builtin compadd "$@"
}}
zle-line-init() {{ BUFFER={line}; CURSOR=$#BUFFER; zle complete-word; exit }}
zle -N zle-line-init
"""


def at_prompt_of_zsh(program: str, tmp_path: Path, script_file: Path, line: str) -> set[str]:
    """Return what the Tab key offers at the end of ``line``, at the prompt of a zsh on a terminal of its own."""
    out = tmp_path / "offered"
    out.touch()
    (tmp_path / ".zshrc").write_text(_ZSHRC.format(script=script_file, out=out, line=f"'{line}'"))
    ours, theirs = pty.openpty()
    environment = {"ZDOTDIR": str(tmp_path), "TERM": "dumb", "PATH": os.environ["PATH"]}
    with subprocess.Popen(
        [program, "-d", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=tmp_path, start_new_session=True
    ):
        os.close(theirs)
        screen = b""
        with suppress(OSError):  # EIO: the shell has ended
            while data := os.read(ours, 4096):
                screen += data
        os.close(ours)
    assert b"not found" not in screen, screen
    return set(out.read_text().split())


def test_zsh_offers_files_where_a_file_is_wanted(tmp_path: Path) -> None:
    """After 'restore' and after an option with a file, zsh offers the files that are there, not options."""
    for typed in (["restore", ""], ["user", "list", "--config", ""]):
        found = complete("zsh", tmp_path, typed)
        assert "script" in found
        assert not {word for word in found if word.startswith("-")}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("typed", "offered"), TYPED, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_what_is_offered(shell: str, tmp_path: Path, typed: list[str], offered: set[str]) -> None:
    """Commands, actions, options and their choices are offered where they may stand, and not elsewhere."""
    found = complete(shell, tmp_path, typed)
    assert offered <= found
    if typed == ["user", ""]:
        assert not {"run", "rotate", "--display-name"} & found


def test_nothing_is_left_out() -> None:
    """Every command has its place, and each option of the whole command line stands in every script."""
    places = tree()
    assert cli.COMMANDS.keys() <= places.keys()
    assert places[""].words.keys() >= cli.COMMANDS.keys()
    texts = {shell: script(shell) for shell in SHELLS}
    for place in places.values():
        for word in place.words:
            for shell, text in texts.items():
                assert (f"-l {word[2:]} " if shell == "fish" and word.startswith("--") else word.lstrip("-")) in text


def test_only_shells_that_are_known() -> None:
    """Another shell is a usage error that names those that there are."""
    command = [sys.executable, "-m", "kiwi_id", "completion", "tcsh"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert all(shell in done.stderr for shell in SHELLS)
