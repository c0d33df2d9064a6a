"""The archive: every damage is found before anything is used, and who has no passphrase reads nothing."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiwi_id.backup import BackupError, archive, crypt
from kiwi_id.backup.archive import Reader
from kiwi_id.backup.create import verify
from kiwi_id.backup.crypt import CHUNK, Decryptor, Encryptor
from kiwi_id.backup.manifest import Member
from kiwi_id.errors import Exit
from tests.backup.conftest import Kept
from tests.backup.running import kiwi_id

PASSPHRASE = b"a walnut for the winter"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a guess at a passphrase cheap; the real figure is for people who guess."""
    monkeypatch.setattr(crypt, "_LOG_N", 4)


def sealed(data: bytes) -> bytes:
    """Return ``data`` encrypted."""
    target = io.BytesIO()
    with Encryptor(target, PASSPHRASE) as file:
        file.write(data)
    return target.getvalue()


def opened(data: bytes, passphrase: bytes = PASSPHRASE) -> bytes:
    """Return what ``data`` holds encrypted."""
    return Decryptor(io.BytesIO(data), passphrase).read()


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 5])
def test_every_size_comes_back(size: int) -> None:
    """Around the borders of chunks, too, what was encrypted comes out again."""
    data = bytes(number % 251 for number in range(size))
    assert opened(sealed(data)) == data


def test_chunks_cannot_be_cut_off_swapped_or_added() -> None:
    """Each of the changes that need no key is noticed: the order and the end are authenticated as well as the bytes."""
    data = sealed(b"x" * (2 * CHUNK + 10))
    head, step = len(data) - (2 * (CHUNK + 16) + 26), CHUNK + 16
    first, second, last = data[head : head + step], data[head + step : head + 2 * step], data[head + 2 * step :]
    assert opened(data[:head] + first + second + last) == b"x" * (2 * CHUNK + 10)
    for wrong in ([first, second], [first], [], [second, first, last], [first, last], [first, second, last, last]):
        with pytest.raises(BackupError):
            opened(data[:head] + b"".join(wrong))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_bit_can_be_turned(data: st.DataObject) -> None:
    """Whatever bit of the file is turned, header included: nothing comes out but an error in words."""
    good = bytearray(sealed(b"attack at dawn"))
    # A turned bit of the costs must not make the test slow: those are the bytes after magic and format.
    place = data.draw(st.integers(0, len(good) - 1).filter(lambda at: at not in (16, 17, 18)))
    good[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BackupError):
        opened(bytes(good))


def test_a_header_cannot_ask_for_all_memory() -> None:
    """Costs that no Kiwi ID has written are refused before anything is computed."""
    good = bytearray(sealed(b""))
    good[16] = 40
    with pytest.raises(BackupError, match="no Kiwi ID has written"):
        opened(bytes(good))


def test_the_wrong_passphrase_is_told() -> None:
    """It is an error in words."""
    with pytest.raises(BackupError, match="passphrase is wrong"):
        opened(sealed(b"secret"), b"a guess")


def test_every_cut_of_a_plain_backup_is_found(kept: Kept) -> None:
    """Wherever a copy was cut off, --check says so."""
    whole = kept.backup.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        kept.backup.write_bytes(whole[:length])
        with pytest.raises(BackupError):
            verify(kept.backup, None)


def test_turned_bits_of_a_plain_backup_are_found(kept: Kept) -> None:
    """One bit anywhere is found by a checksum, but where exactly the same comes out (padding, zeros copied from zeros)."""
    whole = bytearray(kept.backup.read_bytes())
    plain = gzip.decompress(whole)
    found = 0
    for place in [*range(4), *range(10, len(whole), max(1, len(whole) // 150)), *range(len(whole) - 8, len(whole))]:
        whole[place] ^= 8
        kept.backup.write_bytes(whole)
        try:
            verify(kept.backup, None)
        except BackupError:
            found += 1
        else:
            assert gzip.decompress(whole) == plain
        whole[place] ^= 8
    assert found > 140


# What somebody may write into a manifest: values of one entry, or of the whole.
MANIFESTS: dict[str, dict[str, object]] = {
    "dots": {"path": "/etc/../etc/evil"},
    "relative": {"path": "etc/evil"},
    "root": {"path": "/"},
    "double": {"path": "//etc/evil"},
    "trailing": {"path": "/etc/evil/"},
    "nul": {"path": "/etc/e\0vil"},
    "surrogate": {"path": "/etc/\ud800"},
    "long": {"path": f"/etc/{'a' * 250}"},
    "mode": {"mode": "4755"},
    "mode_type": {"mode": 0o600},
    "format": {"format": 2},
    "format_type": {"format": "1"},
    "type": {"size": "many"},
    "negative": {"size": -1},
    "owner_large": {"owner": "99999999999999999999"},
    "owner_nobody": {"owner": "4294967295"},
    "owner_nul": {"owner": "a\0b"},
    "owner_empty": {"owner": ""},
    "group_escape": {"group": "\x1b[2J"},
    "digest": {"sha256": "0" * 63},
    "kanidm": {"kanidm": "1.5"},
    "kanidm_words": {"kanidm": "one.five.zero"},
    "kanidm_escape": {"kanidm": "1.5.0-\x1b[2J"},
    "domain": {"domain": "id.example.com\x1b]0;evil\x07"},
    "made": {"made": "yesterday"},
    "tree": {"root": "srv"},
}


def rewritten(file: Path, change: str) -> bytes:
    """Return a plain archive packed anew, with good checksums of gzip, after a change that somebody might make on purpose."""
    with tarfile.open(file) as tar:
        members = [(entry, cast("BinaryIO", tar.extractfile(entry)).read()) for entry in tar]
    if change == "content":
        entry, data = members[-1]
        members[-1] = (entry, data[:-1] + b"#")
    elif change == "link":
        members[-1][0].type, members[-1][0].linkname = tarfile.SYMTYPE, "/etc/shadow"
    elif change == "added":
        members.append((tarfile.TarInfo("files/etc/cron.d/evil"), b""))
    elif change == "dropped":
        del members[-1]
    else:
        table = json.loads(members[0][1])
        if change == "twice":
            table["members"][1]["path"] = table["members"][0]["path"]
        elif change == "below":
            table["members"][1]["path"] = table["members"][0]["path"] + "/below"
        else:
            for key, value in MANIFESTS[change].items():
                (table["members"][1] if key in table["members"][1] else table)[key] = value
        data = json.dumps(table).encode()
        members[0][0].size, members[0] = len(data), (members[0][0], data)
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for entry, data in members:
            tar.addfile(entry, io.BytesIO(data) if entry.isreg() else None)
    return gzip.compress(target.getvalue())


@pytest.mark.parametrize("change", ["content", "link", "added", "dropped", "twice", "below", *MANIFESTS])
def test_an_archive_that_was_packed_anew_is_refused(kept: Kept, change: str) -> None:
    """Whatever does not agree with the manifest, or is no manifest of ours, is refused, and nothing was written."""
    kept.backup.write_bytes(rewritten(kept.backup, change))
    kept.change()
    done = kiwi_id("restore", kept.backup)
    assert done.returncode == Exit.FAILURE, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.removesuffix("\n").isprintable()
    assert kept.content() == "after"
    assert not list(kept.places.root.rglob("*.before-restore-*"))


def test_nothing_stands_behind_the_end(kept: Kept) -> None:
    """A second archive behind the first, or anything in the tar's own padding, is refused: something might read that instead."""
    whole = kept.backup.read_bytes()
    plain = bytearray(gzip.decompress(whole))
    assert not plain[-600:].strip(b"\0")
    verify(kept.backup, None)
    kept.backup.write_bytes(whole + whole)
    with pytest.raises(BackupError, match="behind the end"):
        verify(kept.backup, None)
    plain[-10] = 1
    for tail in (bytes(plain), gzip.decompress(whole) + b"\0" * 2 * tarfile.RECORDSIZE):
        kept.backup.write_bytes(gzip.compress(tail))
        with pytest.raises(BackupError, match="behind the end"):
            verify(kept.backup, None)


def _held(data: bytes, _: Member) -> BinaryIO:
    return io.BytesIO(data)


def test_every_length_has_its_end(kept: Kept) -> None:
    """Wherever in tar's records an archive ends, it is found whole."""
    with kept.backup.open("rb") as file:
        manifest = Reader(file).manifest
    for blocks in range(tarfile.RECORDSIZE // tarfile.BLOCKSIZE + 1):
        data = b"x" * blocks * tarfile.BLOCKSIZE
        member = replace(manifest.members[0], size=len(data), sha256=hashlib.sha256(data).hexdigest())
        target = io.BytesIO()
        archive.write(target, replace(manifest, members=(member,)), partial(_held, data))
        target.seek(0)
        Reader(target).read()


@pytest.mark.parametrize("at", [0, 1])
def test_a_header_cannot_unpack_to_all_memory(kept: Kept, at: int) -> None:
    """An extended header of 64 MiB, which gzip makes tiny, is refused after the first part of it."""
    target = io.BytesIO()
    with tarfile.open(kept.backup) as source, tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, entry in enumerate(source):
            if number == at:
                entry.pax_headers = {"comment": "a" * (64 << 20)}
            tar.addfile(entry, source.extractfile(entry))
    kept.backup.write_bytes(gzip.compress(target.getvalue(), 1))
    tracemalloc.start()
    with pytest.raises(BackupError, match="larger than Kiwi ID writes"):
        verify(kept.backup, None)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_a_sparse_member_is_refused(kept: Kept) -> None:
    """A member that tar would fill with zeros of any length is none that Kiwi ID writes."""
    with tarfile.open(kept.backup) as tar:
        members = [(entry, cast("BinaryIO", tar.extractfile(entry)).read()) for entry in tar]
    members[1][0].type = tarfile.CONTTYPE
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for entry, data in members:
            tar.addfile(entry, io.BytesIO(data))
    kept.backup.write_bytes(gzip.compress(target.getvalue()))
    with pytest.raises(BackupError, match="not where the manifest says"):
        verify(kept.backup, None)


def test_what_is_no_backup_is_told(tmp_path: Path) -> None:
    """Other files are refused in words: none, text, an archive of something else, a directory."""
    other = tmp_path / "other.tar.gz"
    with tarfile.open(other, "w:gz") as tar:
        tar.add(__file__, "manifest.txt")
    (tmp_path / "text").write_text("no archive\n")
    for file in (tmp_path / "none", tmp_path / "text", other, tmp_path):
        done = kiwi_id("restore", file, "--check")
        assert done.returncode == Exit.FAILURE
        assert done.stderr.startswith("kiwi-id restore: ")
        assert "Traceback" not in done.stderr


def test_nothing_can_be_read_without_the_passphrase(kept: Kept, tmp_path: Path) -> None:
    """An encrypted backup shows neither names nor keys; without or with a wrong passphrase restore ends in words."""
    good, wrong = tmp_path / "good", tmp_path / "wrong"
    good.write_bytes(PASSPHRASE + b"\nsecond line\n")
    wrong.write_text("a guess\n")
    good.chmod(0o600)
    wrong.chmod(0o600)
    file = tmp_path / "sealed"
    done = kiwi_id("backup", file, "--config", kept.places.config, "--passphrase-file", good)
    assert done.returncode == Exit.OK, done.stderr
    data = file.read_bytes()
    assert b"manifest" not in data
    assert b"kanidm.db" not in data
    assert file.stat().st_mode & 0o777 == 0o600
    checked = kiwi_id("restore", file, "--check", "--passphrase-file", good, "--json")
    assert json.loads(checked.stdout)["ok"] is True
    assert "wrong" in kiwi_id("restore", file, "--check", "--passphrase-file", wrong).stderr
    assert "no terminal" in kiwi_id("restore", file, "--check").stderr
    good.chmod(0o644)
    assert "chmod 0600" in kiwi_id("restore", file, "--check", "--passphrase-file", good).stderr


def test_tar_alone_reads_a_plain_backup(kept: Kept) -> None:
    """The format is what it says: a tar, the manifest first, then the files under the paths that they had."""
    with tarfile.open(kept.backup) as tar:
        names = tar.getnames()
        assert names[0] == "manifest.json"
        text = cast("BinaryIO", tar.extractfile(f"files{kept.places.config}")).read()
    assert text == kept.places.config.read_bytes()
    with kept.backup.open("rb") as file:
        assert [f"files{member.path}" for member in Reader(file).manifest.members] == names[1:]
