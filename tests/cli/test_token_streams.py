"""What becomes of an answer that cannot be written, or in odd surroundings: exit code 1 is "invalid" and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kiwi_id.errors import Exit
from kiwi_id.issuer.keys import Key
from tests.cli.test_token import ROOT, by_key, instance, key, settings, sign

__all__ = ["by_key", "instance", "key", "settings"]


def start(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command with streams of the caller's."""
    command = [sys.executable, "-m", "kiwi_id", *arguments]
    return subprocess.run(command, cwd=ROOT, timeout=60, check=False, **options)


@pytest.fixture
def asked(key: Key, by_key: list[str], tmp_path: Path) -> list[str]:
    """The arguments that verify a good token in a file."""
    file = tmp_path / "token"
    file.write_text(sign(key, name="Zoë 😀 Demo"))
    return ["token", "verify", *by_key, str(file)]


@pytest.mark.parametrize("option", [[], ["--json"]], ids=["table", "json"])
def test_a_full_disk(asked: list[str], option: list[str]) -> None:
    """74 and words; no traceback, and nothing that says "invalid"."""
    with Path("/dev/full").open("wb") as full:
        done = start(*asked, *option, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == Exit.IOERR
    assert done.stderr == b"kiwi-id token: the output could not be written: No space left on device\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_left(asked: list[str], unbuffered: str) -> None:
    """The same, whether it is seen at once or with the last byte."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = start(*asked, stdout=stdout, stderr=subprocess.PIPE, env=environment)
    assert done.returncode == Exit.IOERR
    assert done.stderr == b"kiwi-id token: the output could not be written: Broken pipe\n"


@pytest.mark.parametrize("arguments", [["--help"], ["token", "verify", "--help"], ["--version"], ["token", "inspect", "FILE"]])
def test_other_output_is_held_to_the_same(asked: list[str], arguments: list[str]) -> None:
    """Help, version and other commands, too."""
    given = [asked[-1] if word == "FILE" else word for word in arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # argparse swallows what fails at once
    with Path("/dev/full").open("wb") as full:
        done = start(*given, stdout=full, stderr=subprocess.PIPE, env=environment)
    assert done.returncode == Exit.IOERR
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_output_that_does_not_know_all_characters(asked: list[str], encoding: str) -> None:
    """A name in other letters is written as JSON escapes them, which is still JSON with --json."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    table = start(*asked, capture_output=True, env=environment)
    assert (table.returncode, table.stderr) == (Exit.OK, b"")
    assert {"ascii": b"Zo\\u00eb \\ud83d\\ude00", "latin-1": b"Zo\xeb \\ud83d\\ude00"}.get(
        encoding, "Zoë 😀".encode()
    ) in table.stdout
    told = start(*asked, "--json", capture_output=True, env=environment)
    assert told.returncode == Exit.OK
    assert json.loads(told.stdout.decode(encoding))["claims"]["name"] == "Zoë 😀 Demo"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(asked: list[str], closed: str, key: Key) -> None:
    """The exit code is that of the token; a closed standard input is told where a token should come from it."""
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "kiwi_id"]
    valid = subprocess.run([*shell, *asked], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert valid.returncode == Exit.OK
    assert b"Traceback" not in valid.stderr
    Path(asked[-1]).write_text(sign(key, aud="another"))
    invalid = subprocess.run([*shell, *asked], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert invalid.returncode == Exit.FAILURE
    if closed == "<&-":
        nothing = subprocess.run([*shell, *asked[:-1]], cwd=ROOT, capture_output=True, timeout=60, check=False)
        assert nothing.returncode == Exit.USAGE
        assert nothing.stderr == b"kiwi-id token: standard input is closed, and no file is named\n"


def test_an_input_that_cannot_be_read(asked: list[str]) -> None:
    """A standard input that is for writing only is told in words."""
    with Path(os.devnull).open("wb") as nowhere:
        done = start(*asked[:-1], stdin=nowhere, capture_output=True)
    assert done.returncode == Exit.USAGE
    assert done.stderr == b"kiwi-id token: standard input: Bad file descriptor\n"


def test_a_mistake_of_our_own_is_no_verdict(asked: list[str]) -> None:
    """What nobody expects has a traceback, for whoever is to mend it, and the exit code 70."""
    program = "import sys; from kiwi_id.cli import main, token; token.config.config_path = token._check = None; sys.exit(main())"
    command = [sys.executable, "-c", program, *asked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == Exit.SOFTWARE
    assert b"Traceback" in done.stderr
    assert done.stderr.endswith(b"please report what stands above\n")
