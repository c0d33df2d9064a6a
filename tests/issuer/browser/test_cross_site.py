"""What a relying party posts to the issuer from its own site: browsers keep the session's cookie (SameSite=Lax) back then."""

from __future__ import annotations

import json

import httpx

from tests.issuer.browser.chromium import Chromium
from tests.issuer.browser.conftest import AFTER_LOGOUT
from tests.issuer.browser.site import Site, Visit
from tests.issuer.browser.test_flows import ALICE, BOB, authorize, exchange, log_in
from tests.kanidm.instance import Instance

HOME = "https://app.localhost/home"


def post(chromium: Chromium, site: Site, url: str, fields: dict[str, str]) -> None:
    """Post a form to ``url`` from a page of the relying party's, as its own button would."""
    chromium.open(HOME)
    site.visit()
    chromium.driver.execute_script(
        f"const f = document.createElement('form'); f.method = 'post'; f.action = {json.dumps(url)};"
        f"for (const [name, value] of Object.entries({json.dumps(fields)})) {{"
        "const i = document.createElement('input'); i.type = 'hidden'; i.name = name; i.value = value; f.append(i); }"
        "document.body.append(f); f.submit()"
    )


def is_alive(kiwi: Instance, tokens: dict[str, str]) -> bool:
    """Tell whether the session behind tokens lives."""
    headers = {"authorization": f"Bearer {tokens['access_token']}"}
    status = httpx.get(f"{kiwi.origin}/oauth2/userinfo", headers=headers, verify=False, trust_env=False).status_code
    assert status in (200, 401)
    return status == 200


def test_a_session_answers_a_posted_request(kiwi: Instance, chromium: Chromium, site: Site) -> None:
    """A posted prompt=none finds the session that a link finds, and so does a request without a prompt; nothing is shown."""
    log_in(kiwi, chromium, site)
    for extra in ({"prompt": "none"}, {}):
        request = kiwi.request()
        post(chromium, site, f"{kiwi.origin}/oauth2/authorize", {**request.parameters, **extra})
        exchange(kiwi, request, site.visit().parameters)


def test_a_posted_request_for_a_new_login_gets_one(kiwi: Instance, chromium: Chromium, site: Site) -> None:
    """prompt=login, select_account and max_age=0, posted with a live session: the password is asked for."""
    log_in(kiwi, chromium, site)
    for extra in ({"prompt": "login"}, {"prompt": "select_account"}, {"max_age": "0"}):
        request = kiwi.request()
        post(chromium, site, f"{kiwi.origin}/oauth2/authorize", {**request.parameters, **extra})
        chromium.until("return document.querySelector('#username')?.offsetParent")
        assert site.visits.empty()
        chromium.sign_in(ALICE)
        exchange(kiwi, request, site.visit().parameters)


def test_a_posted_first_login(kiwi: Instance, chromium: Chromium, site: Site) -> None:
    """Without a session the login page comes, and a mistake in the request goes back to the application."""
    log_in(kiwi, chromium, site, BOB)
    chromium.forget()
    request = kiwi.request()
    post(chromium, site, f"{kiwi.origin}/oauth2/authorize", request.parameters)
    chromium.sign_in(BOB)
    exchange(kiwi, request, site.visit().parameters)
    post(chromium, site, f"{kiwi.origin}/oauth2/authorize", {**kiwi.request().parameters, "prompt": "nonsense"})
    assert site.visit().parameters["error"] == "invalid_request"


def test_a_posted_logout_ends_the_session(kiwi: Instance, chromium: Chromium, site: Site) -> None:
    """With the ID token at once, and the browser comes back; without it the user is asked. Afterwards the session is over."""
    for hint in (True, False):
        tokens = log_in(kiwi, chromium, site)
        assert is_alive(kiwi, tokens)
        fields = {"client_id": "kiwi-demo", "post_logout_redirect_uri": AFTER_LOGOUT, "state": "s & t"}
        if hint:
            fields["id_token_hint"] = tokens["id_token"]
        post(chromium, site, f"{kiwi.origin}/oauth2/logout", fields)
        if not hint:
            chromium.title("Sign out?")
            assert ALICE.name in chromium.text()
            chromium.press("Sign out")
        assert site.visit() == Visit("GET", "/goodbye", {"state": "s & t"}, {})
        assert not is_alive(kiwi, tokens)
        chromium.open(authorize(kiwi, kiwi.request(), prompt="none"))
        assert site.visit().parameters["error"] == "login_required"


def test_a_logout_of_nobody_claims_nothing(kiwi: Instance, chromium: Chromium, site: Site) -> None:
    """A browser without the session is told that there was none, even with an ID token; the session elsewhere goes on."""
    tokens = log_in(kiwi, chromium, site)
    chromium.forget()
    post(chromium, site, f"{kiwi.origin}/oauth2/logout", {"id_token_hint": tokens["id_token"]})
    chromium.title("Not signed in")
    assert "no session in this browser" in chromium.text()
    assert is_alive(kiwi, tokens)
