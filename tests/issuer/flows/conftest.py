"""Fixtures: a world of clients over the stand-in, and the same over the real kanidmd where there is one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.issuer.flows.world import World
from tests.issuer.rp.instances import SERVERS, server


@pytest.fixture(scope="session", params=SERVERS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A running Kiwi ID with its clients, shared by all tests; what was secret in them is in none of its logs at the end."""
    # Not pytest's tmp_path: a Unix socket's path may have 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="kiwi-flow-"))
    try:
        made = World(server(request, directory), directory)
        try:
            yield made
        finally:
            made.close()
        leaks = made.leaks()
        assert not leaks, "secrets in the logs:\n" + "\n".join(leaks[:5])
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(autouse=True)
def _quiet_receiver(request: pytest.FixtureRequest) -> None:
    """Begin each test of the world with an empty receiver."""
    if "world" in request.fixturenames:
        request.getfixturevalue("world").receiver.clear()
