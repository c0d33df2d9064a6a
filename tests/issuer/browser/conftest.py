"""Fixtures: Chromium, a Kiwi ID, and the relying party's two web servers, one over HTTPS and one on http://localhost."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.issuer.browser.chromium import Chromium
from tests.issuer.browser.site import Site, serving
from tests.issuer.rp.instances import SERVERS, running
from tests.kanidm.instance import Instance

AFTER_LOGOUT = "https://app.localhost/goodbye"


@pytest.fixture(scope="package", params=SERVERS)
def kiwi(request: pytest.FixtureRequest, driver: Any) -> Iterator[Instance]:
    """A Kiwi ID over the stand-in, and over the real kanidmd."""
    assert driver  # first, so that nothing is started for a test that is skipped
    with running(request.param, [f'clients.kiwi-demo.post_logout_redirect_uris = ["{AFTER_LOGOUT}"]']) as instance:
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
    pytest.importorskip("selenium", reason="selenium is not installed")
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        pytest.skip("no chromium and chromedriver (Debian: chromium, chromium-driver)")
    from selenium import webdriver  # noqa: PLC0415
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415

    profile = tempfile.mkdtemp(prefix="kiwi-chromium-")
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--ignore-certificate-errors",  # every certificate here is its own authority
        f"--host-resolver-rules=MAP app.localhost:443 127.0.0.1:{site.port}",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    chrome = webdriver.Chrome(options=options, service=Service(str(programs[1])))
    try:
        yield chrome
    finally:
        chrome.quit()
        shutil.rmtree(profile, ignore_errors=True)


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
