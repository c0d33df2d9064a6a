"""The real kanidmd, for all tests that want one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin what takes long first, in as many processes as there are: xdist gives each a part of the list, in its order."""
    long = [item for item in items if item.get_closest_marker("long")]
    rest = [item for item in items if not item.get_closest_marker("long")]
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    for number, item in enumerate(long):
        rest.insert(number % processes * len(items) // processes, item)
    items[:] = rest


@pytest.fixture(scope="session")
def kanidmd() -> Path:
    """The real kanidmd; without one the test is skipped."""
    path = Path(os.environ.get("KIWI_TEST_KANIDMD") or "/opt/upstream/bin/kanidmd").absolute()
    if not os.access(path, os.X_OK):
        pytest.skip(f"no kanidmd at {path}; name one by KIWI_TEST_KANIDMD")
    return path
