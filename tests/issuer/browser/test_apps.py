"""Apps with a scheme of their own: our pages lead to them, through the policy that they set themselves."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

import pytest
import trio

from kiwi_id import demo
from tests.issuer.browser.chromium import Chromium
from tests.issuer.browser.conftest import APP_SCHEME
from tests.issuer.browser.site import Site
from tests.issuer.browser.test_flows import ALICE, authorize, exchange, log_in
from tests.kanidm.browser import Request
from tests.kanidm.instance import Instance

APP_URI = f"{APP_SCHEME}:/signed-in"


async def _make_app(kiwi: Instance) -> None:
    password = await kiwi.administrator()
    async with kiwi.rest() as rest:
        await rest.login("idm_admin", password)
        await rest.create_client("kiwi-app", "The app", APP_URI, public=True)
        await rest.set_scopes("kiwi-app", "kiwi_users", demo.SCOPES)


@pytest.fixture(scope="module")
def app(kiwi: Instance) -> str:
    """Register the app in Kanidm; return its name."""
    trio.run(_make_app, kiwi)
    return "kiwi-app"


def opened(chromium: Chromium) -> tuple[str, dict[str, str]]:
    """Wait for the app to be opened; return with which address, and what that brought."""
    uri, _, query = chromium.opened(APP_SCHEME).partition("?")
    return uri, dict(parse_qsl(query))


@pytest.mark.parametrize("label", ["Allow", "Refuse"])
def test_our_consent_page_leads_to_an_app(kiwi: Instance, chromium: Chromium, site: Site, app: str, label: str) -> None:
    """The page says to which scheme it leads, and its answer arrives there."""
    log_in(kiwi, chromium, site)
    request = Request(app, APP_URI)
    chromium.open(authorize(kiwi, request, prompt="consent"))
    chromium.title("Consent required")
    assert f"will go on to {APP_URI}" in chromium.text()
    chromium.press(label)
    where, content = opened(chromium)
    assert where == APP_URI
    if label == "Allow":
        exchange(kiwi, request, content)
    else:
        assert (content["error"], content["state"]) == ("access_denied", request.state)


def test_our_logout_page_leads_to_an_app(kiwi: Instance, chromium: Chromium, site: Site, app: str) -> None:
    """After *Sign out* the app is opened, with the state."""
    log_in(kiwi, chromium, site)
    query = {"client_id": app, "post_logout_redirect_uri": f"{APP_SCHEME}:/goodbye", "state": "s 1"}
    chromium.open(f"{kiwi.origin}/oauth2/logout?{urlencode(query)}")
    chromium.title("Sign out?")
    assert ALICE.name in chromium.text()
    chromium.press("Sign out")
    assert opened(chromium) == (f"{APP_SCHEME}:/goodbye", {"state": "s 1"})
