"""Atomic writes: the old file or the new one, never half of either, with exactly the mode asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kiwi_id.instance.files import write_atomic


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
