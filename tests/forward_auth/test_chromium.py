"""Forward-auth in a real browser, through the real nginx: its cookies are those that a browser keeps, sends and protects."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from kiwi_id import demo
from tests import headless
from tests.forward_auth.proxies import Proxy, application
from tests.forward_auth.world import DOMAIN, World
from tests.issuer.browser.chromium import Chromium

ALICE = demo.USERS[0]
COOKIE = "__Host-kiwi-session"


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """A headless Chromium with an empty profile; it knows by itself that every name below localhost is this machine."""
    with headless.chromium() as chrome:
        yield chrome


@pytest.fixture
def site(driver: Any, world: World) -> Iterator[World]:
    """The shared world behind nginx."""
    assert driver  # first, so that nothing is started for a test that is skipped
    with tempfile.TemporaryDirectory(prefix="kiwi-proxy-") as directory, application() as app:
        proxy = Proxy("nginx", world, app, Path(directory), "")
        try:
            trio.run(proxy.wait_ready)
            yield world
        finally:
            proxy.close()


@pytest.fixture
def chromium(driver: Any, tmp_path: Path) -> Chromium:
    """The browser, without cookies."""
    window = Chromium(driver, tmp_path)
    window.forget()
    return window


def log_in(chromium: Chromium, site: World, path: str = "/page?a=1") -> dict[str, Any]:
    """Open a page of the application, sign in on the way, and return what the application was sent."""
    chromium.open(f"{site.wiki}{path}")
    chromium.sign_in(ALICE)
    chromium.until("return document.title == 'Consent Required' || location.hostname.startsWith('wiki.')")
    if "wiki." not in chromium.site():
        chromium.agree()
    return told(chromium)


def told(chromium: Chromium) -> dict[str, Any]:
    """Return what the application was sent for the page that is shown."""
    came: dict[str, Any] = json.loads(
        chromium.until(
            "const t = document.body?.innerText; return location.hostname.startsWith('wiki.') && t?.startsWith('{') && t"
        )
    )
    return {**came, "headers": dict(came["headers"])}


def status(chromium: Chromium, path: str) -> int:
    """Fetch a path by a script of the page that is shown, and return the answer's status."""
    script = f"const done = arguments[0]; fetch({json.dumps(path)}).then(a => done(a.status), () => done(0))"
    return int(chromium.driver.execute_async_script(script))


def session(chromium: Chromium) -> dict[str, Any]:
    """Return the browser's session cookie."""
    [found] = [cookie for cookie in chromium.command("Network.getAllCookies")["cookies"] if cookie["name"].endswith("kiwi-session")]
    return dict(found)


@pytest.mark.parametrize("domain", ["", DOMAIN], ids=["host", "domain"])
def test_login(chromium: Chromium, site: World, domain: str) -> None:
    """The browser takes the cookie as it is meant, comes back to its address, and its scripts pass without seeing the cookie."""
    site.configure(domain=domain)
    came = log_in(chromium, site)
    assert came["path"] == "/page?a=1"
    assert came["headers"]["remote-user"] == f"alice@id.{DOMAIN}"
    cookie = session(chromium)
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, True, "Lax", "/")
    assert cookie["domain"] == (f".{DOMAIN}" if domain else f"wiki.{DOMAIN}")
    assert "kiwi" not in chromium.driver.execute_script("return document.cookie")
    assert status(chromium, "/api") == 200
    chromium.command("Network.clearBrowserCookies")
    assert status(chromium, "/api") == 401


def test_a_renewal_goes_unseen(chromium: Chromium, site: World) -> None:
    """A script's request after the recheck brings the browser the new cookie."""
    log_in(chromium, site)
    cookie = session(chromium)
    old = site.aged(cookie["value"], 400)
    kept = {name: cookie[name] for name in ("name", "path", "secure", "httpOnly", "sameSite")}
    chromium.driver.execute_cdp_cmd("Network.setCookie", {**kept, "url": site.wiki, "value": old})
    assert session(chromium)["value"] == old
    assert status(chromium, "/api") == 200
    assert session(chromium)["value"] not in (old, cookie["value"])


def test_sign_out(chromium: Chromium, site: World) -> None:
    """The link leads to the issuer's question; after *Sign out* the application asks for a login again."""
    log_in(chromium, site)
    chromium.open(f"{site.wiki}/auth/logout")
    chromium.press("Sign out")
    chromium.title("Signed out")
    chromium.open(f"{site.wiki}/")
    chromium.until("return document.querySelector('#username')?.offsetParent")
