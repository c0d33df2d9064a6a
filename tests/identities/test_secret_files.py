"""Files of chosen secrets: what counts as one, what is refused and in which words, and when the previous one counts."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kiwi_id.errors import ConfigError
from kiwi_id.identities.secret_files import Candidate, Read, digest, of_identities, of_state_file, read

from .world import state

GOOD = "k7Rt+/=2.xQ:9vB%4mZ_w"
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def written(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    """Write a file with that mode."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_what_a_file_may_hold(tmp_path: Path, end: str) -> None:
    """A secret of any printable characters, or its hash, on one line with or without an end; a private mode."""
    assert read(written(tmp_path / "a", GOOD + end, 0o400)) == GOOD
    hashed = "sha256:" + hashlib.sha256(GOOD.encode()).hexdigest().upper()
    assert read(written(tmp_path / "b", hashed + end)) == hashed


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (GOOD, 0o640, "found mode 0640; allowed: 0600 or 0400: nobody but the owner. chmod 0600"),
        (GOOD, 0o604, "and choose another secret"),
        ("", 0o600, "found an empty file; allowed: a secret of 20 to 512 printable ASCII"),
        ("\n", 0o600, "found an empty file"),
        ("short-but-mixed-1234", 0o600, None),
        ("short-but-mixed-123", 0o600, "found 19 characters"),
        ("x" * 30, 0o600, "found a secret of 1 different characters; allowed: 8 or more. Make one: openssl rand"),
        (GOOD + "\n" + GOOD, 0o600, "found more than one line"),
        ("a secret with spaces in it", 0o600, "found a space or a control character"),
        (GOOD + "\x07", 0o600, "found a space or a control character"),
        (GOOD + "é", 0o600, "found bytes that are no ASCII"),
        ("sha256:0123", 0o600, "found 'sha256:' and no 64 hex digits after it"),
        (GOOD + "x" * 600, 0o600, "found 621 characters"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: str, mode: int, words: str | None) -> None:
    """Each mistake has its own words, with the file; and no word of the file stands in them."""
    file = written(tmp_path / "secret", content, mode)
    if words is None:
        assert read(file) == content
        return
    with pytest.raises(ConfigError) as error:
        read(file)
    told = str(error.value)
    assert words in told
    assert str(file) in told
    assert GOOD not in told


def test_what_is_no_file(tmp_path: Path) -> None:
    """A file that is missing is told with how to make it; a directory and a link into nothing are refused."""
    with pytest.raises(
        ConfigError, match=r"no such file or directory; allowed: a file with the client's secret. Make one: \(umask"
    ):
        read(tmp_path / "none")
    (tmp_path / "directory").mkdir(mode=0o700)
    with pytest.raises(ConfigError, match="found is a directory"):
        read(tmp_path / "directory")


def client(directory: Path, more: str = "") -> str:
    """Return a state file with one client, and one that has chosen nothing."""
    return (
        f"[clients.other]\nlanding = 'https://other.example'\n[clients.mail]\nlanding = 'https://mail.example'\n"
        f"secret_file = '{directory / 'now'}'\n{more}"
    )


def test_two_that_count(tmp_path: Path) -> None:
    """The current and the previous file are both candidates, the previous with its end; nothing but digests is kept."""
    written(tmp_path / "now", GOOD)
    written(tmp_path / "before", "sha256:" + hashlib.sha256(b"before").hexdigest())
    more = f"previous_secret_file = '{tmp_path / 'before'}'\n"
    found = of_identities(state(client(tmp_path, more)), NOW)
    assert (found.problems, found.broken) == ([], frozenset())
    assert found.chosen == {"mail": (Candidate(digest(GOOD)), Candidate(digest("before")))}
    assert GOOD not in repr(found)
    until = "previous_secret_until = 2026-06-01T02:00:01+02:00\n"
    ends = of_identities(state(client(tmp_path, more + until)), NOW).chosen or {}
    assert ends["mail"][1] == Candidate(digest("before"), NOW.timestamp() + 1)


def test_a_previous_file_after_its_end(tmp_path: Path) -> None:
    """Once it has ended, the previous secret is not read, and may be gone."""
    written(tmp_path / "now", GOOD)
    more = "previous_secret_file = '/nowhere'\nprevious_secret_until = 2026-06-01T00:00:00Z\n"
    assert of_identities(state(client(tmp_path, more)), NOW) == Read({"mail": (Candidate(digest(GOOD)),)})


def test_a_broken_file_costs_itself_only(tmp_path: Path) -> None:
    """Without its current file a client has the previous one left, or nothing; told with line and key of the state file."""
    written(tmp_path / "before", GOOD)
    found = of_identities(state(client(tmp_path, f"previous_secret_file = '{tmp_path / 'before'}'")), NOW)
    assert found.chosen == {"mail": (Candidate(digest(GOOD)),)}
    assert found.broken == {"mail"}
    start = f"/etc/kiwi/identities.toml:3: clients.mail.secret_file: found {tmp_path / 'now'} with no such file"
    assert [str(problem)[: len(start)] for problem in found.problems] == [start]
    assert of_identities(state(client(tmp_path)), NOW).chosen == {"mail": ()}


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("[persons.Alice]\n{client}", 1),
        ("{client}typo = 3\n", 1),
        ("{client}scopes = {{ staff = 3 }}\n[groups.staff]\nmembers = 5\n", 2),
        ("[persons.alice\n{client}", 1),
        ('{client}[persons.alice]\ndisplay_name = "Alice\n[groups.staff]\n', 1),
        ("[persons.alice]\n[persons.alice]\n{client}", 1),
        ("\ufeff{client}", 1),
    ],
)
def test_a_mistake_elsewhere_forgets_no_secret(tmp_path: Path, text: str, mistakes: int) -> None:
    """Whatever is wrong beside a client, even when the file is no TOML: its chosen secret is found, and the mistake told."""
    file, secret = tmp_path / "identities.toml", written(tmp_path / "secret", GOOD)
    file.write_text(text.format(client=f"[clients.mail]\nlanding = 'https://m.example.com/'\nsecret_file = '{secret}'\n"))
    found = of_state_file(file, NOW, wanted=True)
    assert (found.chosen, found.partial) == ({"mail": (Candidate(digest(GOOD)),)}, True)
    assert len(found.problems) == mistakes


@pytest.mark.parametrize(
    "text", ['[clients.mail]\nlanding = "x\nsecret_file = "/a"\n[clients.wiki]\n', "[clients.mail]\nsecret_file = 3\n"]
)
def test_nobody_is_a_client_whose_secret_is_lost(tmp_path: Path, text: str) -> None:
    """When nobody can tell which secret a client has chosen, but that it has: no secret is its own, Kanidm's neither."""
    file = tmp_path / "identities.toml"
    file.write_text(text)
    found = of_state_file(file, NOW, wanted=True)
    assert found.chosen == {"mail": ()}
    assert found.broken == {"mail"}


def test_a_state_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Of a broken state file nobody knows who has chosen what; a missing one has nobody choose, and may be a mistake."""
    file = tmp_path / "identities.toml"
    assert of_state_file(file, NOW, wanted=False) == Read({})
    missing = of_state_file(file, NOW, wanted=True)
    assert (missing.chosen, [problem.found for problem in missing.problems]) == (None, ["no state file"])
    file.write_text("[clients.mail")
    broken = of_state_file(file, NOW, wanted=False)
    assert (broken.chosen, broken.partial, [problem.where for problem in broken.problems]) == ({}, True, [str(file)])
    beyond = of_state_file(Path("/" + "x" * 300), NOW, wanted=False)
    assert (beyond.chosen, [problem.found for problem in beyond.problems]) == ({}, ["file name too long"])
    file.write_text(client(tmp_path))
    written(tmp_path / "now", GOOD)
    assert of_state_file(file, NOW, wanted=True) == Read({"mail": (Candidate(digest(GOOD)),)})


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("previous_secret_file = '/x'", "clients.c.previous_secret_file: found it without 'secret_file'"),
        ("secret_file = '/x'\nprevious_secret_until = 2027-01-01T00:00:00Z", "found it without 'previous_secret_file'"),
        ("secret_file = '/x'\nprevious_secret_file = '/y'\nprevious_secret_until = 2027-01-01", "a date and time with an offset"),
        ("secret_file = 'x'", 'found "x" (string); allowed: an absolute path'),
        ("type = 'public'\nsecret_file = '/x'", "nothing: a public client has no secret"),
    ],
)
def test_keys_that_make_no_sense(more: str, words: str) -> None:
    """What contradicts itself in the state file is told there."""
    with pytest.raises(ConfigError) as error:
        state(f"[clients.c]\nlanding = 'https://x/'\n{more}")
    assert words in str(error.value)
