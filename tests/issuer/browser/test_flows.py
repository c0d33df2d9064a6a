"""Whole logins in a real browser: through Kanidm's pages, and back to the relying party by query, form post and plain HTTP."""

from __future__ import annotations

from urllib.parse import urlencode

import httpx
import pytest

from kiwi_id import demo
from tests.issuer.browser.chromium import Chromium
from tests.issuer.browser.conftest import AFTER_LOGOUT
from tests.issuer.browser.site import Site, Visit
from tests.kanidm.browser import Request
from tests.kanidm.instance import Instance

ALICE, BOB = demo.USERS


def authorize(kiwi: Instance, request: Request, **more: str) -> str:
    """Where the relying party sends the browser."""
    return f"{kiwi.origin}/oauth2/authorize?{urlencode({**request.parameters, **more})}"


def exchange(kiwi: Instance, request: Request, content: dict[str, str]) -> dict[str, str]:
    """Exchange the code that came back; return the tokens."""
    assert content["state"] == request.state
    assert content["iss"] == kiwi.origin
    form = {
        "grant_type": "authorization_code",
        "code": content["code"],
        "redirect_uri": request.redirect_uri,
        "code_verifier": request.verifier,
        "client_id": request.client_id,
    }
    if request.client_id == "kiwi-demo":
        form["client_secret"] = kiwi.secret()
    answer = httpx.post(f"{kiwi.origin}/oauth2/token", data=form, verify=False, trust_env=False, timeout=30)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, str] = answer.json()
    return tokens


def log_in(kiwi: Instance, chromium: Chromium, site: Site, user: demo.DemoUser = ALICE) -> dict[str, str]:
    """Log in at the demo's confidential client, with Kanidm's consent page where it is shown; return the tokens."""
    request = kiwi.request()
    chromium.open(authorize(kiwi, request))
    chromium.sign_in(user)
    chromium.until("return document.title == 'Consent Required' || document.title == 'Application'")
    if chromium.site() != "https://app.localhost":
        chromium.agree()
    return exchange(kiwi, request, site.visit().parameters)


def test_login_and_consent(kiwi: Instance, chromium: Chromium, site: Site) -> None:
    """Login page, password, Kanidm's own consent page: then the browser is at the relying party with a code that works."""
    request = kiwi.request()
    chromium.open(authorize(kiwi, request, scope="openid profile", login_hint=BOB.name))
    chromium.until("return document.querySelector('#username')?.offsetParent")
    assert chromium.driver.find_element("css selector", "#username").get_attribute("value") == BOB.name
    chromium.shoot("kanidm-login")
    chromium.sign_in(BOB)
    chromium.until("return document.title == 'Consent Required'")
    chromium.shoot("kanidm-consent")
    chromium.agree()
    visit = site.visit()
    assert (visit.method, visit.path) == ("GET", "/callback")
    assert "id_token" in exchange(kiwi, request, visit.parameters)
    chromium.title("Application")
    assert chromium.driver.current_url.startswith(f"{demo.REDIRECT_URI}?")


def test_form_post(kiwi: Instance, chromium: Chromium, site: Site) -> None:
    """By form_post the code comes in a body, after Kanidm's consent form as well as straight from a live session."""
    request = kiwi.request()
    request.scope = "openid email"
    chromium.open(authorize(kiwi, request, response_mode="form_post"))
    chromium.sign_in(ALICE)
    chromium.agree()
    visit = site.visit()
    assert (visit.method, visit.path, visit.parameters) == ("POST", "/callback", {})
    exchange(kiwi, request, visit.form)
    again = kiwi.request()
    again.scope = "openid email"
    chromium.open(authorize(kiwi, again, response_mode="form_post"))
    visit = site.visit()
    assert (visit.method, visit.parameters) == ("POST", {})
    exchange(kiwi, again, visit.form)


def test_form_post_without_scripts(kiwi: Instance, chromium: Chromium, site: Site) -> None:
    """Where scripts are forbidden, form_post waits for a button that says what it does."""
    log_in(kiwi, chromium, site)
    chromium.command("Emulation.setScriptExecutionDisabled", value=True)
    request = kiwi.request()
    chromium.open(authorize(kiwi, request, response_mode="form_post"))
    chromium.title("Back to the application")
    chromium.press("Continue")
    exchange(kiwi, request, site.visit().form)


def test_plain_http_after_consent(kiwi: Instance, chromium: Chromium, local: Site) -> None:
    """A native application's http://localhost gets its code after Kanidm's consent form, whose policy allows https only.

    With its own query string, and once more without any page between, from the live session.
    """
    request = Request("kiwi-demo-public", f"http://localhost:{local.port}/back?tab=1")
    chromium.open(authorize(kiwi, request))
    chromium.sign_in(BOB)
    chromium.agree()
    visit = local.visit()
    assert (visit.method, visit.path, visit.parameters["tab"]) == ("GET", "/back", "1")
    assert exchange(kiwi, request, visit.parameters)["refresh_token"]
    chromium.title("Application")
    request = Request("kiwi-demo-public", f"http://localhost:{local.port}/again")
    chromium.open(authorize(kiwi, request))
    exchange(kiwi, request, local.visit().parameters)


@pytest.mark.parametrize("mode", ["query", "form_post"])
def test_our_consent_page(kiwi: Instance, chromium: Chromium, site: Site, mode: str) -> None:
    """prompt=consent asks a user who has agreed long ago; *Allow* brings a code, *Refuse* access_denied."""
    log_in(kiwi, chromium, site)

    def decide(label: str) -> tuple[Request, Visit]:
        request = kiwi.request()
        chromium.open(authorize(kiwi, request, prompt="consent", response_mode=mode))
        chromium.title("Consent required")
        assert "kiwi-demo" in chromium.text()
        assert ALICE.name in chromium.text()
        chromium.press(label)
        return request, site.visit()

    request, visit = decide("Allow")
    exchange(kiwi, request, visit.parameters or visit.form)
    request, visit = decide("Refuse")
    content = visit.parameters or visit.form
    assert (content["error"], content["state"]) == ("access_denied", request.state)
    assert "code" not in content


def test_our_consent_page_for_plain_http(kiwi: Instance, chromium: Chromium, local: Site) -> None:
    """Our own consent form leads to http://localhost as well."""
    request = Request("kiwi-demo-public", f"http://localhost:{local.port}/back")
    chromium.open(authorize(kiwi, request, prompt="consent"))
    chromium.sign_in(BOB)
    chromium.until("return ['Consent Required', 'Consent required', 'Application'].includes(document.title)")
    if chromium.driver.title == "Consent Required":  # Kanidm's, when this user has not agreed before
        chromium.agree()
    else:
        chromium.press("Allow")
    exchange(kiwi, request, local.visit().parameters)


def test_no_open_redirect(kiwi: Instance, chromium: Chromium, site: Site) -> None:
    """An address that is not the client's is shown, not visited."""
    request = Request("kiwi-demo", "https://app.localhost/elsewhere")
    chromium.open(authorize(kiwi, request))
    chromium.title("Unknown return address")
    assert chromium.driver.current_url.startswith(kiwi.origin)
    assert site.visits.empty()


def test_logout(kiwi: Instance, chromium: Chromium, site: Site) -> None:
    """Without a hint the user is asked, and may stay; then the session is over and the next login needs the password again."""
    log_in(kiwi, chromium, site)
    chromium.open(f"{kiwi.origin}/oauth2/logout")
    chromium.title("Sign out?")
    assert ALICE.name in chromium.text()
    chromium.press("Stay signed in")
    chromium.title("Still signed in")
    request = kiwi.request()
    chromium.open(authorize(kiwi, request, prompt="none"))
    exchange(kiwi, request, site.visit().parameters)
    chromium.open(f"{kiwi.origin}/oauth2/logout")
    chromium.press("Sign out")
    chromium.title("Signed out")
    chromium.open(authorize(kiwi, kiwi.request(), prompt="none"))
    assert site.visit().parameters["error"] == "login_required"
    chromium.open(authorize(kiwi, kiwi.request()))
    chromium.until("return document.querySelector('#username')?.offsetParent")


def test_logout_asked_by_the_relying_party(kiwi: Instance, chromium: Chromium, site: Site) -> None:
    """With the ID token nobody is asked; without it the user is, and either way the browser comes back to the application."""
    for hint in (True, False):
        tokens = log_in(kiwi, chromium, site)
        query = {"post_logout_redirect_uri": AFTER_LOGOUT, "state": "s1", "client_id": "kiwi-demo"}
        if hint:
            query["id_token_hint"] = tokens["id_token"]
        chromium.open(f"{kiwi.origin}/oauth2/logout?{urlencode(query)}")
        if not hint:
            chromium.press("Sign out")
        visit = site.visit()
        assert (visit.path, visit.parameters) == ("/goodbye", {"state": "s1"})
