"""Fixtures of the supervisor's tests: instances that are gone when the test ends, and the real kanidmds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.supervisor.kiwi import Kiwi


@pytest.fixture
def make() -> Iterator[Callable[..., Kiwi]]:
    """Return a function that makes an instance (see ``Kiwi``); all are killed and removed at the end."""
    made: list[Kiwi] = []

    def make_one(binary: Path | None = None, **settings: Any) -> Kiwi:
        # Not pytest's tmp_path: a Unix socket's path may have 107 bytes.
        made.append(Kiwi(Path(tempfile.mkdtemp(prefix="kiwi-sup-")), binary, **settings))
        return made[-1]

    yield make_one
    for kiwi in made:
        kiwi.clean_up()


@pytest.fixture
def kiwi(make: Callable[..., Kiwi]) -> Kiwi:
    """An instance over the scripted kanidmd; not started."""
    return make()


@pytest.fixture(scope="session")
def kanidmd() -> Path:
    """The real kanidmd."""
    path = Path(os.environ.get("KIWI_TEST_KANIDMD") or "/opt/upstream/bin/kanidmd").absolute()
    if not os.access(path, os.X_OK):
        pytest.skip(f"no kanidmd at {path}; name one by KIWI_TEST_KANIDMD")
    return path
