"""Fixtures of the supervisor's tests: instances that are gone when the test ends, and what they run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kiwi_id import devserver
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


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.kanidm)])
def binary(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The stand-in, and in a second run of the test the real kanidmd."""
    if request.param == "real":
        real: Path = request.getfixturevalue("kanidmd")
        return real
    devserver.install(tmp_path / "kanidmd")
    return tmp_path / "kanidmd"
