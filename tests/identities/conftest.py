"""A Kanidm with an empty database, the stand-in everywhere and the real one where it is, and a session of its administrator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from kiwi_id.kanidm.rest import Kanidm
from tests.devserver.servers import STAND_IN, Server, running

from .world import signed_in


# Apart from ``server``, because a skip inside an asynchronous fixture loses its reason.
@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.kanidm)])
def command(request: pytest.FixtureRequest) -> Sequence[str]:
    """The program to run."""
    return STAND_IN if request.param == "stand-in" else [str(request.getfixturevalue("kanidmd"))]


@pytest.fixture
async def server(command: Sequence[str]) -> AsyncIterator[Server]:
    """A running Kanidm."""
    async with running(command) as server:
        yield server


@pytest.fixture
async def kanidm(server: Server) -> AsyncIterator[Kanidm]:
    """A client that is signed in with Kiwi ID's own account."""
    async with signed_in(server) as kanidm:
        yield kanidm
