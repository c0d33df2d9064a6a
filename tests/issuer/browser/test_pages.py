"""Our own pages as people see them: readable in light and dark, on a telephone, by keyboard. Each is also photographed."""

from __future__ import annotations

import pytest

from tests.issuer.browser.chromium import Chromium
from tests.issuer.browser.site import Site
from tests.issuer.browser.test_flows import authorize, log_in
from tests.kanidm.browser import Request
from tests.kanidm.instance import Instance

LOOKS = [(width, dark) for width in (1200, 360) for dark in (False, True)]


def check(chromium: Chromium, name: str) -> None:
    """Hold the page that is shown against WCAG in every look, and take its picture."""
    for width, dark in LOOKS:
        chromium.look(width=width, dark=dark)
        chromium.shoot(f"{name}-{width}-{'dark' if dark else 'light'}")
        assert chromium.audit() == [], (width, dark)


def test_consent(kiwi: Instance, chromium: Chromium, site: Site) -> None:
    """The consent page of prompt=consent."""
    log_in(kiwi, chromium, site)
    chromium.open(authorize(kiwi, kiwi.request(), prompt="consent"))
    chromium.title("Consent required")
    check(chromium, "consent")


def test_hand_over(kiwi: Instance, chromium: Chromium, site: Site) -> None:
    """The page that posts a form, where scripts are forbidden and it stays."""
    log_in(kiwi, chromium, site)
    chromium.command("Emulation.setScriptExecutionDisabled", value=True)
    chromium.open(authorize(kiwi, kiwi.request(), response_mode="form_post"))
    chromium.title("Back to the application")
    check(chromium, "hand-over")


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("unknown-client", {"client_id": "no-such-application"}),
        (
            "unknown-address",
            {"redirect_uri": "https://a-rather-long-name-of-a-host-that-nobody-has-registered.example.com/callback"},
        ),
        ("incomplete", {"redirect_uri": ""}),
    ],
)
def test_mistake(kiwi: Instance, chromium: Chromium, name: str, more: dict[str, str]) -> None:
    """The pages for requests that must not be answered by a redirect."""
    chromium.open(authorize(kiwi, Request("kiwi-demo", "https://app.localhost/callback"), **more))
    chromium.until("return document.querySelector('h1')")
    check(chromium, name)


def test_logout(kiwi: Instance, chromium: Chromium, site: Site) -> None:
    """The pages around a logout: the question, staying, and having left."""
    log_in(kiwi, chromium, site)
    chromium.open(f"{kiwi.origin}/oauth2/logout")
    chromium.title("Sign out?")
    check(chromium, "logout")
    chromium.press("Stay signed in")
    chromium.title("Still signed in")
    check(chromium, "stayed")
    chromium.open(f"{kiwi.origin}/oauth2/logout")
    chromium.press("Sign out")
    chromium.title("Signed out")
    check(chromium, "signed-out")


def test_too_old(kiwi: Instance, chromium: Chromium) -> None:
    """A page that was left open too long says what to do, and blames no application."""
    chromium.open(f"{kiwi.origin}/oauth2/continue?box=left-open-for-too-long")
    chromium.title("This page is too old")
    assert "sign in again" in chromium.text()
    assert "whoever runs" not in chromium.text()
    check(chromium, "too-old")


def test_refusal_does_not_say_signed_in(kiwi: Instance, chromium: Chromium, site: Site) -> None:
    """The page that takes a refusal to the application names the application, and does not call the user signed in."""
    log_in(kiwi, chromium, site)
    chromium.open(authorize(kiwi, kiwi.request(), prompt="consent", response_mode="form_post"))
    chromium.title("Consent required")
    chromium.command("Emulation.setScriptExecutionDisabled", value=True)
    chromium.press("Refuse")
    chromium.title("Back to the application")
    assert "app.localhost" in chromium.text()
    assert "signed in" not in chromium.text().lower()
