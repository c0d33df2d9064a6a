"""Fixtures: a Kiwi ID that knows where its clients' browsers may go after a logout."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.issuer.rp.instances import SERVERS, running
from tests.issuer.rp.party import AFTER_LOGOUT
from tests.kanidm.instance import Instance


@pytest.fixture(scope="module", params=SERVERS)
def kiwi(request: pytest.FixtureRequest) -> Iterator[Instance]:
    """A Kiwi ID over the stand-in, and over the real kanidmd."""
    settings = [f'clients.{client}.post_logout_redirect_uris = ["{AFTER_LOGOUT}"]' for client in ("kiwi-demo", "kiwi-demo-public")]
    with running(request, settings) as instance:
        yield instance
