"""Files of chosen client secrets are in a backup and come back, also into another root, where the state file names them anew."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kiwi_id.backup import BackupError
from kiwi_id.backup.state import moved, named_in
from kiwi_id.errors import Exit
from kiwi_id.identities.secret_files import digest, of_state_file
from kiwi_id.instance.layout import Places
from tests.backup.conftest import Kept
from tests.backup.running import kiwi_id

SECRET, BEFORE = "chosen-by-a-person-0123", "the-one-before-that-012"
FILE = Path("/etc/kiwi/identities.toml")


def test_there_and_back_in_another_root(kept: Kept, tmp_path: Path) -> None:
    """Secrets inside of the instance and outside of it move along with owner and mode, and count where they are now."""
    inside, outside = kept.places.config.parent / "secrets" / "mail", tmp_path / "elsewhere" / "mail's before"
    for file, secret in ((inside, SECRET), (outside, BEFORE)):
        file.parent.mkdir(mode=0o700)
        file.write_text(secret)
        file.chmod(0o400)
    text = (
        "# as people write it\n"
        f'[clients.mail]\nlanding = "https://mail.example"  # home\nsecret_file="{inside}"\nprevious_secret_file = "{outside}"\n'
        '[clients.wiki]\nlanding = "https://wiki.example"\nsecret_file = "/nowhere/at/all"\n'
    )
    state = kept.places.config.with_name("identities.toml")
    state.write_text(text)
    backup = tmp_path / "all.tar.gz"
    done = kiwi_id("backup", backup, "--config", kept.places.config, "--json")
    assert done.returncode == Exit.OK, done.stderr
    assert {str(inside), str(outside), str(state)} <= set(json.loads(done.stdout)["files"])
    target = tmp_path / "other"
    target.mkdir()
    done = kiwi_id("restore", backup, "--root", target)
    assert done.returncode == Exit.OK, done.stderr
    new = Places.under(target).config.with_name("identities.toml")
    assert new.read_text().startswith('# as people write it\n[clients.mail]\nlanding = "https://mail.example"  # home\n')
    inside.unlink()
    outside.unlink()
    read = of_state_file(new, datetime.now(UTC), wanted=True)
    assert read.chosen is not None
    assert [one.digest for one in read.chosen["mail"]] == [digest(SECRET), digest(BEFORE)]
    assert [problem.key for problem in read.problems] == ["clients.wiki.secret_file"]


def test_to_where_they_came_from(kept: Kept, tmp_path: Path) -> None:
    """Restored in its place, the state file stays byte for byte, mistakes included, and a lost secret is back."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    state = kept.places.config.with_name("identities.toml")
    state.write_text(f"[clients.Mail]\nsecret_file = '{secret}'\nno = 1\n")
    before = state.read_bytes()
    backup = tmp_path / "all.tar.gz"
    assert kiwi_id("backup", backup, "--config", kept.places.config).returncode == Exit.OK
    secret.unlink()
    state.unlink()
    done = kiwi_id("restore", backup)
    assert done.returncode == Exit.OK, done.stderr
    assert (state.read_bytes(), secret.read_text(), secret.stat().st_mode & 0o777) == (before, SECRET, 0o600)


@pytest.mark.parametrize(
    "text", ["", "clients = 1", "[clients]\nmail = 1", "[clients.mail]\nsecret_file = 1", "[clients.mail", "x\xff"]
)
def test_what_names_nothing(text: str) -> None:
    """A state file without a secret, or one that is none, names nothing and stays as it is."""
    data = text.encode("latin-1")
    assert named_in(data, FILE) == []
    assert moved(data, FILE, {}) == data


def test_a_form_that_cannot_be_moved() -> None:
    """A path that is written in another form than the plain one is told, and nothing is written by guess."""
    data = b'[clients.mail]\nsecret_file = "/etc/kiwi/\\u0061"\n'
    with pytest.raises(BackupError, match="write them in the plain form"):
        moved(data, FILE, {"/etc/kiwi/a": Path("/srv/a")})
    inline = b"clients = { mail = { secret_file = '/etc/kiwi/a', landing = '/etc/kiwi/a' } }"
    assert moved(inline, FILE, {"/etc/kiwi/a": Path("/srv/a")}) == inline.replace(b"'/etc/kiwi/a',", b"'/srv/a',")
