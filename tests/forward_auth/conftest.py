"""Fixtures: a world over the stand-in, and the same over the real kanidmd where there is one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forward_auth.world import World
from tests.issuer.rp.instances import SERVERS, server


@pytest.fixture(scope="session", params=SERVERS)
def shared_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A running Kiwi ID, shared by all tests."""
    # Not pytest's tmp_path: a Unix socket's path may have 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="kiwi-fa-"))
    try:
        made = World(server(request, directory), directory / "kiwi")
        try:
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def world(shared_world: World) -> World:
    """The shared world with the usual configuration in force, whatever the test before has changed."""
    shared_world.configure()
    return shared_world
