"""Fixtures: a world over the stand-in, and the same over the real kanidmd where there is one; and proxies before it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.forward_auth.proxies import KINDS, Make, Proxy, application
from tests.forward_auth.world import World
from tests.issuer.rp.instances import SERVERS, server


@contextmanager
def _running(request: pytest.FixtureRequest) -> Iterator[World]:
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


@pytest.fixture(scope="session", params=SERVERS)
def shared_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A running Kiwi ID, shared by all tests."""
    with _running(request) as made:
        yield made


@pytest.fixture
def world(shared_world: World) -> World:
    """The shared world with the usual configuration in force, whatever the test before has changed."""
    shared_world.configure()
    return shared_world


@pytest.fixture(scope="module", params=SERVERS)
def proxied(request: pytest.FixtureRequest) -> Iterator[World]:
    """A Kiwi ID whose public side is a proxy's port."""
    with _running(request) as made:
        yield made


@pytest.fixture(params=KINDS)
async def make(request: pytest.FixtureRequest, proxied: World) -> AsyncIterator[Make]:
    """A function that starts the proxy, given a demand such as ``?groups=x`` and settings of the world."""
    made: list[Proxy] = []
    directory = Path(tempfile.mkdtemp(prefix="kiwi-proxy-"))
    with application() as app:

        async def start(demand: str = "", **settings: Any) -> Proxy:
            proxy = Proxy(request.param, proxied, app, directory, demand)
            made.append(proxy)
            proxied.configure(**settings)
            await proxy.wait_ready()
            return proxy

        yield start
        for proxy in made:
            proxy.close()
    shutil.rmtree(directory, ignore_errors=True)
