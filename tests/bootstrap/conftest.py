"""Fixtures: worlds over the stand-in, and over the real kanidmd where there is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.bootstrap.world import World, made
from tests.devserver.servers import STAND_IN


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here that always needs the real server."""
    for item in items:
        if Path(__file__).parent in item.path.parents and {"kanidmd", "real"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kanidm)


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.kanidm)])
def command(request: pytest.FixtureRequest) -> Sequence[str]:
    """The program to run as kanidmd."""
    return STAND_IN if request.param == "stand-in" else [str(request.getfixturevalue("kanidmd"))]


@pytest.fixture
def world(command: Sequence[str]) -> Iterator[World]:
    """A Kanidm with an empty database."""
    with made(command) as world:
        yield world


@pytest.fixture
def ready(world: World) -> World:
    """A Kanidm in which our account has been made."""
    world.ok("bootstrap")
    return world


@pytest.fixture
def real(kanidmd: Path) -> Iterator[World]:
    """A real Kanidm in which our account has been made."""
    with made([str(kanidmd)]) as world:
        world.ok("bootstrap")
        yield world
