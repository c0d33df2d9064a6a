"""Fixtures: programs of the page, and tokens of a running Kiwi ID with each kind of key."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiwi_id import devserver
from tests.issuer.flows.world import World
from tests.verify.languages.programs import PROGRAMS, Builder, Program
from tests.verify.languages.tokens import ALGORITHMS, Issuers


@pytest.fixture(scope="session")
def builder() -> Iterator[Builder]:
    """What builds programs, with its caches in a directory that goes at the end."""
    # Not pytest's tmp_path: it would keep hundreds of megabytes of three runs.
    with tempfile.TemporaryDirectory(prefix="kiwi-languages-", ignore_cleanup_errors=True) as name:
        yield Builder(Path(name))


@pytest.fixture(scope="session", params=PROGRAMS)
def program(request: pytest.FixtureRequest, builder: Builder) -> Program:
    """Each program in both forms, or a skip with the reason."""
    return builder.program(*request.param)


@pytest.fixture(scope="session")
def issuers() -> Iterator[Issuers]:
    """Kiwi IDs over the stand-in that issue tokens."""
    # Not pytest's tmp_path: a Unix socket's path may have 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="kiwi-lang-"))
    try:
        devserver.install(directory / "kanidmd")
        world = World(directory / "kanidmd", directory)
        try:
            yield Issuers(world)
        finally:
            world.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def key_set(issuers: Issuers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key set with a key of each kind, as an instance publishes that changes from one to the next."""
    file = tmp_path_factory.mktemp("keys") / "jwks.json"
    file.write_text(json.dumps({"keys": [issuers[alg].jwk for alg in ALGORITHMS]}))
    return file
