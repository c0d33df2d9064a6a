"""Logins in a real browser, through the front: passkeys above all, which WebAuthn binds to the exact origin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import trio

from kiwi_id import bootstrap, config, demo
from kiwi_id.kanidm import everyday
from tests import headless
from tests.kanidm.instance import Instance

WAIT_SECONDS = 30
Press = Callable[[str], None]


@pytest.fixture
def chromium() -> Iterator[Any]:
    """A headless Chromium with an empty profile and a virtual authenticator that a user has already unlocked."""
    with headless.chromium("--window-size=1200,1600") as driver:
        from selenium.webdriver.common.virtual_authenticator import VirtualAuthenticatorOptions  # noqa: PLC0415

        authenticator = VirtualAuthenticatorOptions()
        authenticator.protocol = VirtualAuthenticatorOptions.Protocol.CTAP2
        authenticator.transport = VirtualAuthenticatorOptions.Transport.INTERNAL
        authenticator.has_resident_key = True
        authenticator.has_user_verification = True
        authenticator.is_user_verified = True
        driver.add_virtual_authenticator(authenticator)
        yield driver


def _until(driver: Any, script: str) -> Any:
    """Run JavaScript in the page until it returns something true: one round trip sees and acts, so nothing can be stale."""
    from selenium.webdriver.support.ui import WebDriverWait  # noqa: PLC0415

    seen = f"{driver.current_url}: " + str(driver.execute_script("return document.body?.innerText"))[:600]
    return WebDriverWait(driver, WAIT_SECONDS).until(lambda page: page.execute_script(script), message=f"{script}\nat {seen}")


def _press(driver: Any, label: str) -> None:
    """Press the button that reads ``label`` as soon as it is there, enabled, and bound.

    htmx shows what it has swapped in first and binds it when it settles, 20 ms later; until then it marks it with these classes
    (https://htmx.org/reference/#classes), and a press would make the browser submit the form by itself.
    """
    _until(
        driver,
        "if (document.readyState != 'complete') return false;"
        "if (document.querySelector('.htmx-request, .htmx-swapping, .htmx-added, .htmx-settling')) return false;"
        f"const b = [...document.querySelectorAll('button')].find(b => b.textContent.trim() == '{label}' && !b.disabled);"
        "if (!b) return false; b.click(); return true",
    )


def _type(driver: Any, selector: str, text: str) -> None:
    """Fill the visible input that ``selector`` finds, telling the page as a keyboard would."""
    _until(
        driver,
        f"const i = document.querySelector(\"{selector}\"); if (!i || !i.offsetParent) return false; i.value = '{text}';"
        "i.dispatchEvent(new Event('input', {bubbles: true})); return true",
    )


async def _reset_token(kiwi: Instance, person: str) -> str:
    async with kiwi.rest() as rest:
        await rest.login("idm_admin", await kiwi.administrator())
        await rest.create_person(person, "Petra Passkey")
        await rest.add_members("kiwi_users", person)
        intent: dict[str, str] = await rest.call("GET", f"/v1/person/{person}/_credential/_update_intent/3600")
        return intent["token"]


def test_password_login_reaches_the_client(kiwi: Instance, chromium: Any) -> None:
    """In a real browser cookies, scripts, content policy and consent hold from the login page to the client's own address."""
    driver, bob = chromium, demo.USERS[1]  # who has not given consent to this client in another test
    request = kiwi.request()
    driver.get(f"{kiwi.origin}/ui/oauth2?{urlencode(request.parameters)}")
    _type(driver, "#username", bob.name)
    _press(driver, "Begin")
    _type(driver, "form[action='/ui/login/pw'] input[name=password]", bob.password)
    _press(driver, "Submit")
    _until(driver, "return document.title == 'Consent Required'")
    _press(driver, "Proceed")
    # The client's address has no server here: Chromium shows an error page for it, but has gone there.
    _until(driver, "return location.protocol == 'chrome-error:' || location.hostname == 'app.localhost'")
    assert driver.current_url.startswith(f"{demo.REDIRECT_URI}?")
    query = parse_qs(urlsplit(driver.current_url).query)
    assert query["state"] == [request.state]
    assert query["code"][0]


def test_register_and_log_in(kiwi: Instance, chromium: Any) -> None:
    """A person registers a passkey from a reset link and logs in with it, up to the consent page of an OAuth2 client."""
    driver, person = chromium, "petra"
    driver.get(f"{kiwi.origin}/ui/reset?token={trio.run(_reset_token, kiwi, person)}")
    # The page's module listens for the answer to this button, and says nothing when it is loaded.
    _until(driver, "return document.readyState == 'complete' && typeof Base64 == 'object' && !!window.stillSwapFailureResponse")
    _press(driver, "Add Passkey")
    _type(driver, "#passkey-label", "virtual")
    _press(driver, "Add")
    _until(driver, "return document.querySelector('#credentialUpdateDynamicSection')?.innerText.includes('virtual')")
    _press(driver, "Save Changes")
    _until(driver, "return !location.pathname.startsWith('/ui/reset')")
    assert len(driver.get_credentials()) == 1

    driver.delete_all_cookies()
    request = kiwi.request()
    driver.get(f"{kiwi.origin}/ui/oauth2?{urlencode(request.parameters)}")
    _type(driver, "#username", person)
    _press(driver, "Begin")
    # The only credential: the page asks the authenticator by itself and sends the answer.
    _until(driver, "return document.title == 'Consent Required'")
    assert "Kiwi demo" in driver.find_element("tag name", "body").text
    assert any(cookie["name"] == "bearer" for cookie in driver.get_cookies())

    # Kanidm's own credential status knows of passwords alone; what 'kiwi-id user show' tells comes from the entry.
    assert trio.run(_has_credentials, kiwi, person)


async def _has_credentials(kiwi: Instance, person: str) -> bool:
    settings = config.load(kiwi.config)
    await bootstrap.bootstrap(settings, kiwi.server, recover=True)
    async with bootstrap.open_kanidm(settings, kiwi.server) as kanidm:
        return everyday.has_credentials(await everyday.require(kanidm, "person", person))
