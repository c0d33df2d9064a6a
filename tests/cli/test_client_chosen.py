"""``kiwi-id client`` and ``kiwi-id export`` where a client has a chosen secret, over the stand-in and the real kanidmd."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kiwi_id.errors import Exit
from tests.bootstrap import conftest
from tests.bootstrap.world import World, made

command, world, ready = conftest.command, conftest.world, conftest.ready  # the fixtures

CHOSEN = "k7Rt+/=2.xQ:9vB%4mZ_w"
UNTIL = "2099-01-01T00:00:00Z"


def choose(ready: World, content: str = CHOSEN) -> Path:
    """Make the client ``mail`` with a chosen secret, and one before it; return the file of the secret."""
    file = ready.directory / "secret"
    file.touch(0o600)
    file.write_text(content)
    (ready.directory / "identities.toml").write_text(
        f'[clients.mail]\nlanding = "https://mail.example.com/"\nsecret_file = "{file}"\n'
        f'previous_secret_file = "{file}-before"\nprevious_secret_until = {UNTIL}\n'
    )
    ready.ok("apply")
    return file


def test_show_tells_where_it_is(ready: World) -> None:
    """Show and list say that a secret was chosen and where its files are, and never what it is."""
    file = choose(ready)
    shown = ready.ok("client", "show", "mail")
    assert f"confidential: a chosen secret, in {file}\n" in shown
    assert f"the one before it, in {file}-before, until {UNTIL}\n" in shown
    wanted = {"file": str(file), "previous_file": f"{file}-before", "previous_until": UNTIL}
    told = [ready.json("client", "show", "mail"), *ready.json("client", "list")]
    assert [one["chosen_secret"] for one in told] == [wanted, wanted]
    assert CHOSEN not in shown + str(told)


def test_secret_is_the_one_that_counts(ready: World) -> None:
    """The chosen one is printed, with a word on where it is from; Kanidm's own on demand; and no renewal of the wrong one."""
    file = choose(ready)
    done = ready.run("client", "secret", "mail")
    assert (done.returncode, done.stdout) == (0, CHOSEN + "\n")
    assert f"A chosen secret, from {file}." in done.stderr
    own = ready.ok("client", "secret", "mail", "--kanidm").strip()
    assert len(own) >= 40
    done = ready.run("client", "secret", "mail", "--renew")
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert f"write another into {file}" in done.stderr
    assert ready.ok("client", "secret", "mail", "--kanidm").strip() == own
    assert ready.ok("client", "secret", "mail", "--kanidm", "--renew").strip() != own


def test_a_hash_cannot_be_told(ready: World) -> None:
    """Where only the hash is kept, that is said, and nothing is printed."""
    choose(ready, "sha256:" + hashlib.sha256(CHOSEN.encode()).hexdigest())
    done = ready.run("client", "secret", "mail")
    assert (done.returncode, done.stdout) == (Exit.FAILURE, "")
    assert "holds its hash only: nobody can tell it" in done.stderr


def test_a_secret_file_that_is_broken(ready: World) -> None:
    """What is wrong with the file is told as at a start."""
    choose(ready).chmod(0o644)
    done = ready.run("client", "secret", "mail")
    assert (done.returncode, done.stdout) == (Exit.CONFIG, "")
    assert "mode 0644; allowed: 0600" in done.stderr


def test_export_keeps_the_names(ready: World, command: tuple[str, ...]) -> None:
    """The exported file names the secret files and holds no secret; applied elsewhere, it is exported the same."""
    file = choose(ready)
    exported = ready.ok("export")
    for line in (f'secret_file = "{file}"', f'previous_secret_file = "{file}-before"', f"previous_secret_until = {UNTIL}"):
        assert f"\n{line}\n" in exported
    assert CHOSEN not in exported
    with made(command) as other:
        other.ok("bootstrap")
        (other.directory / "identities.toml").write_text(exported)
        other.ok("apply")
        assert other.ok("export") == exported


def test_export_with_a_broken_state_file(ready: World) -> None:
    """A state file with a mistake is no reason to export nothing: it is told what is missing."""
    choose(ready)
    (ready.directory / "identities.toml").write_text("[clients.Mail]")
    done = ready.run("export")
    assert (done.returncode, "Without the names of secret files: " in done.stderr) == (0, True)
    assert "secret_file" not in done.stdout
    assert "Not known which clients have a chosen secret" in ready.run("client", "show", "mail").stderr
