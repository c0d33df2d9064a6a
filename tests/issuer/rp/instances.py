"""Whole Kiwi IDs for tests that come from outside: over the stand-in always, over the real kanidmd when there is one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from kiwi_id import devserver
from tests.kanidm.instance import Instance, start

SERVERS = ["stand-in", pytest.param("kanidmd", marks=pytest.mark.kanidm)]


def server(request: pytest.FixtureRequest, directory: Path) -> Path:
    """Return the program that serves as kanidmd in a fixture over ``SERVERS``, or skip the test when it is not there."""
    if request.param == "stand-in":
        devserver.install(directory / "kanidmd")
        return directory / "kanidmd"
    real: Path = request.getfixturevalue("kanidmd")
    return real


@contextmanager
def running(request: pytest.FixtureRequest, settings: Sequence[str]) -> Iterator[Instance]:
    """Run a Kiwi ID with the demo data for a fixture over ``SERVERS``; ``settings`` are lines for the top of its config.toml."""
    # Not pytest's tmp_path: a Unix socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="kiwi-rp-") as name:
        directory = Path(name)
        instance = start(server(request, directory), directory / "instance", settings)
        try:
            yield instance
        finally:
            instance.stop()
