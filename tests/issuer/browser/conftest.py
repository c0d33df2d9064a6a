"""Fixtures: Chromium, a Kiwi ID, and the relying party's two web servers, one over HTTPS and one on http://localhost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import headless
from tests.issuer.browser.chromium import Chromium
from tests.issuer.browser.site import Site, serving
from tests.issuer.rp.instances import SERVERS, running
from tests.kanidm.instance import Instance

AFTER_LOGOUT = "https://app.localhost/goodbye"
APP_SCHEME = "com.example.kiwi"


@pytest.fixture(scope="package", params=SERVERS)
def kiwi(request: pytest.FixtureRequest, driver: Any) -> Iterator[Instance]:
    """A Kiwi ID over the stand-in, and over the real kanidmd."""
    assert driver  # first, so that nothing is started for a test that is skipped
    settings = [
        f'clients.kiwi-demo.post_logout_redirect_uris = ["{AFTER_LOGOUT}"]',
        f'clients.kiwi-app.post_logout_redirect_uris = ["{APP_SCHEME}:/goodbye"]',
    ]
    with running(request, settings) as instance:
        yield instance


@pytest.fixture(scope="package")
def site() -> Iterator[Site]:
    """The relying party at https://app.localhost."""
    with tempfile.TemporaryDirectory(prefix="kiwi-site-") as directory, serving(Path(directory)) as running_site:
        yield running_site


@pytest.fixture
def local() -> Iterator[Site]:
    """A native application's relying party at http://localhost."""
    with serving(None) as running_site:
        yield running_site


@pytest.fixture(scope="package")
def driver(site: Site) -> Iterator[Any]:
    """A headless Chromium with an empty profile, in which https://app.localhost leads to the test's own server."""
    with headless.chromium(f"--host-resolver-rules=MAP app.localhost:443 127.0.0.1:{site.port}", events=True) as chrome:
        yield chrome


@pytest.fixture
def chromium(driver: Any, site: Site, request: pytest.FixtureRequest, tmp_path: Path) -> Chromium:
    """The browser, without cookies; screenshots go to KIWI_TEST_SCREENSHOTS, else to the test's own directory."""
    shots = Path(os.environ.get("KIWI_TEST_SCREENSHOTS") or tmp_path)
    which = request.node.callspec.params["kiwi"]
    window = Chromium(driver, shots / which)
    window.forget()
    while not site.visits.empty():
        site.visits.get_nowait()
    return window
