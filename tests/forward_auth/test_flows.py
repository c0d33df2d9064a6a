"""Whole logins through /auth/verify, with the tests in the place of the proxy."""

from __future__ import annotations

from tests.forward_auth.browser import show
from tests.forward_auth.world import ALICE, World


async def test_login(world: World) -> None:
    """A browser without a session is sent to the login and comes back to the very address; the application knows who it is."""
    async with world.browser() as browser:
        page = await browser.visit(f"{world.wiki}/page?a=1&b=%20x", ALICE)
        assert page.status_code == 200, show(page)
        assert page.json() == {
            "url": f"{world.wiki}/page?a=1&b=%20x",
            "remote-user": "alice@id.kiwi.localhost",
            "remote-name": "Alice Demo",
            "remote-email": "alice@example.com",
            "remote-groups": page.json()["remote-groups"],
        }
