"""A file of keys that changes below a running service: seen, read, and never worse than before. The clock is the test's."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kiwi_id.verify import KeyFile, KeysError, UnknownKey, Verifier
from kiwi_id.verify import keys as key_module
from tests.verify.craft import Clock, Signer, verifier
from tests.verify.test_keys import jwk, jwks

OLD, NEW = Signer("EdDSA", "old"), Signer("EdDSA", "new")


def write(path: Path, *signers: Signer) -> None:
    """Write a key set in place; older than the two seconds in which a file is read again in any case."""
    path.write_bytes(jwks(*(jwk(signer) for signer in signers)))
    age(path)


def age(path: Path) -> None:
    """Give a file a time of its own in the past."""
    age.count += 1_000_000  # type: ignore[attr-defined]
    stamp = time.time_ns() - 3600 * 1_000_000_000 + age.count  # type: ignore[attr-defined]
    os.utime(path, ns=(stamp, stamp))


age.count = 0  # type: ignore[attr-defined]


class Watched:
    """A verifier over a file with a clock that is turned by hand."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock(0)
        self.source = KeyFile(path, interval=1.0, clock=self.clock)
        self.verifier: Verifier = verifier(keys=self.source)

    def knows(self, signer: Signer) -> bool:
        """Tell whether a token of this key passes."""
        try:
            return bool(self.verifier.verify(signer.token()).subject)
        except UnknownKey:
            return False

    def second(self) -> None:
        """Let the interval pass."""
        self.clock.now += 1.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A key file with one key."""
    path = tmp_path / "keys.json"
    write(path, OLD)
    return path


def test_a_rewritten_file(file: Path) -> None:
    """A file written in place is read when the interval has passed, not before."""
    watched = Watched(file)
    write(file, OLD, NEW)
    watched.clock.now = 0.99
    assert not watched.knows(NEW)
    watched.clock.now = 1.0
    assert watched.knows(NEW)
    assert watched.knows(OLD)


def test_a_file_renamed_into_place(file: Path) -> None:
    """As Kiwi ID itself writes them: another inode, though size and time are the same to the nanosecond."""
    watched = Watched(file)
    before = file.stat()
    other = file.with_suffix(".tmp")
    write(other, NEW)
    os.utime(other, ns=(before.st_mtime_ns, before.st_mtime_ns))
    other.rename(file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    watched.second()
    assert watched.knows(NEW)
    assert not watched.knows(OLD)


def test_a_symlink_swap_as_kubernetes_does_it(tmp_path: Path) -> None:
    """A mounted ConfigMap: keys.json -> ..data/keys.json, ..data -> ..one; the swap of ..data is seen, twice."""
    for name, signer in (("..one", OLD), ("..two", NEW), ("..three", OLD)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "keys.json", signer)
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "keys.json").symlink_to("..data/keys.json")
    watched = Watched(tmp_path / "keys.json")
    assert watched.knows(OLD)
    for name, known in (("..two", NEW), ("..three", OLD)):
        (tmp_path / "..data_tmp").symlink_to(name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        watched.second()
        assert [watched.knows(OLD), watched.knows(NEW)] == [known is OLD, known is NEW]


def test_a_young_file_is_not_trusted_to_look_different(file: Path) -> None:
    """Two writes within one tick of the file system's clock leave the same size and time: the second one is seen all the same."""
    os.utime(file)
    watched = Watched(file)
    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(jwks(jwk(NEW)))
    os.utime(file, ns=(before.st_mtime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    watched.second()
    assert watched.knows(NEW)


def remove(path: Path) -> None:
    """Remove the file."""
    path.unlink()


def cut(path: Path) -> None:
    """Leave half of it, as a writer does that is still writing."""
    path.write_bytes(path.read_bytes()[:50])
    age(path)


def empty(path: Path) -> None:
    """Leave a set without keys."""
    path.write_bytes(jwks())
    age(path)


def directory(path: Path) -> None:
    """Put a directory in its place."""
    path.unlink()
    path.mkdir()


def dangling(path: Path) -> None:
    """Put a symbolic link to nothing in its place."""
    path.unlink()
    path.symlink_to("nowhere")


def pipe(path: Path) -> None:
    """Put a named pipe in its place, which nobody writes to."""
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("broken", [remove, cut, empty, directory, dangling, pipe])
def test_the_last_good_keys_stay(file: Path, broken: Callable[[Path], None], caplog: pytest.LogCaptureFixture) -> None:
    """A file that cannot be used is told once, not each second; the keys before it stay; when it is right again it is read."""
    watched = Watched(file)
    broken(file)
    with caplog.at_level(logging.INFO, "kiwi_id.verify"):
        for _ in range(5):
            watched.second()
            assert watched.knows(OLD)
        assert len(caplog.messages) == 1
        assert caplog.messages[0].startswith(f"{file}: ")
        assert caplog.messages[0].endswith("; the keys read before stay in use")
        assert caplog.records[0].levelno == logging.WARNING
        if file.is_dir():
            file.rmdir()
        file.unlink(missing_ok=True)
        write(file, NEW)
        watched.second()
        assert watched.knows(NEW)
        assert caplog.messages[1:] == [f"{file}: read anew, 1 keys"]
    assert not watched.knows(OLD)
    caplog.clear()
    broken(file)
    watched.second()
    watched.knows(NEW)
    assert len(caplog.messages) == 1  # a new mishap is told anew


def test_tokens_of_a_removed_key_end(file: Path) -> None:
    """Remembered tokens go with the keys: one that passed a moment ago is refused when its key is gone."""
    write(file, OLD, NEW)
    watched = Watched(file)
    token = OLD.token()
    assert watched.verifier.verify(token) is watched.verifier.verify(token)
    write(file, NEW)
    assert watched.verifier.verify(token)
    watched.second()
    with pytest.raises(UnknownKey):
        watched.verifier.verify(token)


def test_a_key_changed_under_its_name(file: Path) -> None:
    """A new key under the old kid: neither remembered tokens nor the remembered header let the old one's through."""
    watched = Watched(file)
    token = OLD.token()
    assert watched.verifier.verify(token)
    other = Signer("ES256", "old")
    write(file, other)
    watched.second()
    with pytest.raises(Exception, match="its key is for ES256 only"):
        watched.verifier.verify(token)
    assert watched.verifier.verify(other.token())


def test_what_stays_the_same_is_not_forgotten(file: Path) -> None:
    """Touching the file, or writing the same again, does not empty the cache."""
    watched = Watched(file)
    keys = watched.source.current()
    write(file, OLD)
    watched.second()
    assert watched.source.current() is keys
    os.utime(file)
    watched.second()
    assert watched.source.current() is keys


def test_the_file_is_looked_at_once_an_interval(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand checks within a second cost not one system call for the file, the next second one look."""
    watched = Watched(file)
    looks: list[Path] = []
    real = Path.stat

    def counted(path: Path, **options: bool) -> os.stat_result:
        looks.append(path)
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", counted)
    for expected in (0, 1, 2):
        for _ in range(1000):
            assert watched.source.current()
        assert looks == [file] * expected
        watched.second()


def test_one_thread_reads_and_the_others_do_not_wait(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a slow disk holds one thread, the others go on with the keys that they have."""
    watched = Watched(file)
    write(file, NEW)
    watched.second()
    reading, go_on = threading.Event(), threading.Event()
    real = key_module.read

    def slow(data: bytes, where: str) -> key_module.Keys:
        reading.set()
        assert go_on.wait(30)
        return real(data, where)

    monkeypatch.setattr("kiwi_id.verify.source.keys.read", slow)
    reader = threading.Thread(target=watched.source.current)
    reader.start()
    assert reading.wait(30)
    assert watched.knows(OLD)  # would hang if it waited
    go_on.set()
    reader.join(30)
    assert watched.knows(NEW)


def test_what_is_opened_is_what_was_looked_at(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that takes a file's place just then is found out when it is open, and does not hold the reader up."""
    regular, fifo = file.stat(), tmp_path / "pipe"
    os.mkfifo(fifo)
    monkeypatch.setattr(Path, "stat", lambda *_, **__: regular)
    errors: list[str] = []

    def read() -> None:
        try:
            KeyFile(fifo)
        except KeysError as error:
            errors.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(30)
    assert errors == [f"{fifo}: not a file"]


def test_no_file_at_the_start(tmp_path: Path) -> None:
    """There is no last good one at the start: a missing file is an error then."""
    with pytest.raises(KeysError, match="No such file"):
        KeyFile(tmp_path / "keys.json")
