"""Fixtures of the stand-in's tests: servers that are gone when the test ends."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from .servers import STAND_IN, Server, version_of


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short-named directory: not pytest's tmp_path, because a Unix socket's path may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="kiwi-") as path:
        yield Path(path)


@pytest.fixture
async def server(directory: Path) -> AsyncIterator[Server]:
    """A stand-in that is configured but not started."""
    server = Server(directory)
    yield server
    await server.stop()


@pytest.fixture
async def running(server: Server) -> Server:
    """A stand-in that answers."""
    await server.start()
    return server


# Not an async fixture: pytest-trio would lose the reason of a skip.
@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.kanidm)])
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The command of the stand-in, and in a second run of the test that of the real kanidmd 1.5.0."""
    if request.param == "stand-in":
        return STAND_IN
    path = request.getfixturevalue("kanidmd")
    found = version_of(path)
    if found != "1.5.0":
        pytest.skip(f"the stand-in is held against 1.5.0; {path} is {found}")
    return (str(path),)


@pytest.fixture
async def kanidm(command: tuple[str, ...], directory: Path) -> AsyncIterator[Server]:
    """A running server: the stand-in or the real one."""
    server = Server(directory, command)
    await server.start()
    yield server
    await server.stop()
