"""The real kanidmd, for all tests that want one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def kanidmd() -> Path:
    """The real kanidmd; without one the test is skipped."""
    path = Path(os.environ.get("KIWI_TEST_KANIDMD") or "/opt/upstream/bin/kanidmd").absolute()
    if not os.access(path, os.X_OK):
        pytest.skip(f"no kanidmd at {path}; name one by KIWI_TEST_KANIDMD")
    return path
