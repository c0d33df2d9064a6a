"""Fixtures: a Kiwi ID over the real kanidmd. Tests here that use neither need nothing but Python."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.kanidm.instance import Instance, start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here that needs the real server, directly or through another fixture."""
    for item in items:
        if Path(__file__).parent in item.path.parents and "kanidmd" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kanidm)


@pytest.fixture(scope="session")
def cli(kanidmd: Path) -> Path:
    """Kanidm's command line client of the same version, which distributions install beside the server."""
    program = kanidmd.with_name("kanidm")
    if not os.access(program, os.X_OK):
        pytest.skip(f"no 'kanidm' command line client beside {kanidmd}")
    return program


@pytest.fixture(scope="session")
def make(kanidmd: Path) -> Iterator[Callable[..., Instance]]:
    """Return a function that starts an instance, given lines of config.toml and kanidmd's log level; all stop at the end."""
    instances: list[Instance] = []
    directories: list[Path] = []

    def make_one(settings: Sequence[str] = (), server_log_level: str = "info") -> Instance:
        # Not pytest's tmp_path: a Unix socket's path may have 107 bytes.
        directories.append(Path(tempfile.mkdtemp(prefix="kiwi-test-")))
        instances.append(start(kanidmd, directories[-1], settings, server_log_level))
        return instances[-1]

    yield make_one
    try:
        for instance in instances:
            instance.stop()
    finally:
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def kiwi(make: Callable[..., Instance]) -> Instance:
    """An instance that all tests share which leave it running."""
    return make()


@pytest.fixture
def own_kiwi(make: Callable[..., Instance]) -> Instance:
    """An instance of the test's own, to be killed or reconfigured."""
    return make()
