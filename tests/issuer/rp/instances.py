"""Whole Kiwi IDs for tests that come from outside: over the stand-in always, over the real kanidmd when there is one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from kiwi_id import devserver
from tests.kanidm.instance import Instance, start

SERVERS = ["stand-in", pytest.param("kanidmd", marks=pytest.mark.kanidm)]


def server(which: str, directory: Path) -> Path:
    """Return the program that serves as kanidmd, or skip the test when it is not there."""
    if which == "stand-in":
        devserver.install(directory / "kanidmd")
        return directory / "kanidmd"
    path = Path(os.environ.get("KIWI_TEST_KANIDMD") or "/opt/upstream/bin/kanidmd").absolute()
    if not os.access(path, os.X_OK):
        pytest.skip(f"no kanidmd at {path}; name one by KIWI_TEST_KANIDMD")
    return path


@contextmanager
def running(which: str, settings: Sequence[str]) -> Iterator[Instance]:
    """Run a Kiwi ID with the demo data; ``settings`` are lines for the top of its config.toml."""
    # Not pytest's tmp_path: a Unix socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="kiwi-rp-") as name:
        directory = Path(name)
        instance = start(server(which, directory), directory / "instance", settings)
        try:
            yield instance
        finally:
            instance.stop()
