"""What ``kiwi-id status`` says of the state file: the latest apply counts, whoever asked for it, and its failures are in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.supervisor import conftest
from tests.supervisor.kiwi import Kiwi, eventually

make, binary = conftest.make, conftest.binary  # the fixtures
ON = {"bootstrap": "=true", "apply_on_start": "=true"}


def document(kiwi: Kiwi) -> dict[str, Any]:
    """Return what ``--json`` prints, when nothing is being applied."""

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = json.loads(kiwi.cli("status", "--json").stdout)
        return None if found.get("provisioning", {}).get("busy") else found

    return eventually(look, "the end of the provisioning")


def warned(found: dict[str, Any], code: str) -> list[str]:
    """Return the words of the warnings of one code."""
    return [notice["text"] for notice in found["warnings"] if notice["code"] == code]


def state_file(kiwi: Kiwi) -> str:
    """Return what the screen says of the state file."""
    (line,) = (line for line in kiwi.cli("status").stdout.splitlines() if line.startswith("state file"))
    return line.removeprefix("state file").strip()


@pytest.mark.parametrize("on_start", [True, False])
def test_an_apply_by_hand(make: Callable[..., Kiwi], binary: Path, on_start: bool) -> None:
    """It leaves word: the status tells of it while Kiwi ID runs and when it does not, until a later one."""
    kiwi = make(binary, bootstrap="=true", apply_on_start="=true" if on_start else "=false")
    kiwi.start_ready()
    document(kiwi)
    kiwi.config.with_name("identities.toml").write_text("[persons.alice]\n[persons.bob]\n")
    expected = "applied at the next start or reload" if on_start else "applied by hand only (apply_on_start)"
    assert state_file(kiwi) == expected
    assert kiwi.cli("apply").returncode == 0
    for running in (True, False):
        applied = document(kiwi)["identities"]["applied"]
        assert (applied["by_hand"], applied["ok"], applied["steps"]) == (True, True, 2)
        assert state_file(kiwi).startswith("applied by hand 2")
        assert state_file(kiwi).endswith(": 2 steps")
        if running:
            assert kiwi.stop() == 0
    if on_start:
        kiwi.start_ready()
        kiwi.wait_log("the state file is in force", steps=0)
        assert document(kiwi)["identities"]["applied"]["by_hand"] is False
        assert state_file(kiwi).endswith(": nothing to do")


def test_one_of_another_file_is_not_of_the_state_file(make: Callable[..., Kiwi], binary: Path) -> None:
    """``kiwi-id apply --file`` says nothing of the file that config.toml names."""
    kiwi = make(binary, **ON)
    kiwi.start_ready()
    document(kiwi)
    other = kiwi.directory / "other.toml"
    other.write_text("[persons.alice]\n")
    assert kiwi.cli("apply", "--file", str(other)).returncode == 0
    assert document(kiwi)["identities"]["applied"] is None


def test_what_an_apply_by_hand_left_alone_is_told(make: Callable[..., Kiwi], binary: Path) -> None:
    """As after a start: an entry of somebody else's is a warning, until an apply takes it over."""
    kiwi = make(binary, bootstrap="=true", apply_on_start="=false")
    kiwi.start_ready()
    document(kiwi)
    assert kiwi.cli("user", "add", "alice").returncode == 0
    kiwi.config.with_name("identities.toml").write_text("[persons.alice]\n")
    assert kiwi.cli("apply").returncode == 1
    assert "alice" in warned(document(kiwi), "state_file_not_ours")[0]
    assert kiwi.cli("apply", "--adopt", "alice").returncode == 0
    assert not warned(document(kiwi), "state_file_not_ours")


def test_a_failure_that_only_kanidm_shows_is_told_in_its_words(make: Callable[..., Kiwi], binary: Path) -> None:
    """A member that does not exist: the file by itself has no mistake, so the warning is the failure's."""
    kiwi = make(binary, **ON)
    kiwi.config.with_name("identities.toml").write_text('[groups.staff]\nmembers = ["nobody_there"]\n')
    kiwi.start_ready()
    kiwi.wait_log("the state file was not applied")
    found = document(kiwi)
    assert found["identities"]["mistakes"] == []
    (told,) = warned(found, "state_file_not_applied")
    assert "nobody_there" in told
    assert "nothing to do" not in state_file(kiwi)


def test_a_secret_that_is_not_in_force_is_told_once(make: Callable[..., Kiwi], binary: Path) -> None:
    """The running Kiwi ID and the check of the files see the same mistake."""
    kiwi = make(binary, **ON)
    client = f'landing = "https://mail.example.com/"\nsecret_file = "{kiwi.directory}/none"\n'
    kiwi.config.with_name("identities.toml").write_text(f"[clients.mail]\n{client}")
    kiwi.start_ready()
    eventually(lambda: warned(document(kiwi), "client_secret"), "the secret is told")
    told = [notice for notice in document(kiwi)["warnings"] if f"{kiwi.directory}/none" in notice["text"]]
    assert [notice["code"] for notice in told] == ["client_secret"]


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"at": "x"}', "[" * 100_000])
def test_a_note_that_nobody_can_believe(make: Callable[..., Kiwi], note: str) -> None:
    """It is as if there were none."""
    kiwi = make()
    kiwi.places.runtime_dir.mkdir(parents=True, exist_ok=True)
    (kiwi.places.runtime_dir / "applied.json").write_text(note)
    assert json.loads(kiwi.cli("status", "--json").stdout)["identities"]["applied"] is None
