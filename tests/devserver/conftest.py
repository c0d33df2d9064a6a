"""Fixtures of the stand-in's tests: servers that are gone when the test ends."""

import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from .servers import STAND_IN, Server, real_kanidmd


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


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.kanidm)])
async def kanidm(request: pytest.FixtureRequest, directory: Path) -> AsyncIterator[Server]:
    """A running server: the stand-in, and in a second run of the test the real kanidmd 1.5.0."""
    server = Server(directory, STAND_IN if request.param == "stand-in" else (str(_kanidmd_1_5_0()),))
    await server.start()
    yield server
    await server.stop()


def _kanidmd_1_5_0() -> Path:
    path = real_kanidmd()
    if path is None:
        pytest.skip("no real kanidmd: set KIWI_TEST_KANIDMD, or install one at /opt/upstream/bin/kanidmd")
    found = subprocess.run([path, "version"], capture_output=True, text=True, check=True).stdout.split()[1]
    if found != "1.5.0":
        pytest.skip(f"the stand-in is held against 1.5.0; {path} is {found}")
    return path
