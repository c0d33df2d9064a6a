"""Atomic writes: the old file or the new one, never half of either, with exactly the mode asked for. Reads that never hang."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kiwi_id.instance.files import MOST_READ, read_file, require_file, write_atomic


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_mode_is_exact(tmp_path: Path, umask: int, mode: int) -> None:
    """Neither a loose nor a tight umask changes what was asked for."""
    old = os.umask(umask)
    try:
        write_atomic(tmp_path / "f", b"x", mode)
    finally:
        os.umask(old)
    assert (tmp_path / "f").stat().st_mode & 0o777 == mode


def test_a_reader_keeps_the_old_file(tmp_path: Path) -> None:
    """Replacement makes a new inode: who has the old one open reads it to its end."""
    path = tmp_path / "f"
    write_atomic(path, b"old", 0o644)
    with path.open("rb") as reader:
        write_atomic(path, b"new", 0o644)
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk refuses, the old file is whole and no temporary file stays."""
    path = tmp_path / "f"
    write_atomic(path, b"old", 0o644)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new", 0o644)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_regular_file_is_read_whole_also_through_a_link(tmp_path: Path) -> None:
    """Up to 4 MiB, an empty one too; secrets of container platforms are links."""
    path = tmp_path / "f"
    (tmp_path / "link").symlink_to(path)
    for data in (b"", b"x" * MOST_READ):
        path.write_bytes(data)
        assert read_file(path) == read_file(tmp_path / "link") == data
        require_file(path)
    path.write_bytes(b"x" * (MOST_READ + 1))
    with pytest.raises(OSError, match="more than 4 MiB"):
        read_file(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "FIFO"),
        (lambda path: path.mkdir(), "directory"),
        (lambda path: path.symlink_to("/dev/zero"), "device"),
        (lambda path: path.symlink_to("/dev/tty"), "device|No such device"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (lambda path: None, "No such file"),
    ],
)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    """In words, without waiting for a writer and without reading what has no end."""
    path = tmp_path / "f"
    make(path)
    for look in (read_file, require_file):
        with pytest.raises(OSError, match=words):
            look(path)
