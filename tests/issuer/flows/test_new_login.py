"""prompt=login, select_account and max_age hold to the end, whatever cookie was seen when the request came.

Browsers keep the session's cookie back (SameSite), other tabs log in meanwhile, and a user may leave a cookie out and add it later.
"""

from __future__ import annotations

import time

import pytest
import trio

from tests.issuer.flows.tab import Tab, arrived, field_of, is_login, is_mistake, is_our_consent, show
from tests.issuer.flows.world import ALICE, BOB, World


async def older_session(world: World, tab: Tab) -> str:
    """Log in, and wait until the session's second is over; return its cookie."""
    tokens = await tab.tokens(world.asked(), ALICE)
    began = world.verified(tokens["id_token"])["auth_time"]
    await trio.sleep(max(0, began + 1 - time.time()))
    return tab.cookies["bearer"]


@pytest.mark.parametrize(
    "extra", [{"prompt": "login"}, {"prompt": "select_account"}, {"max_age": "0"}, {"prompt": "login consent"}]
)
@pytest.mark.parametrize("where", ["at the login page", "after a login"])
async def test_a_cookie_added_later_is_no_new_login(world: World, extra: dict[str, str], where: str) -> None:
    """The request comes without the cookie, which is there on the way back: the password is asked for, and the code is new."""
    async with world.tab() as tab:
        bearer = await older_session(world, tab)
        del tab.cookies["bearer"]
        asked = world.asked(**extra)
        answer = await tab.ask(asked)
        if where == "after a login":
            assert is_login(await tab.follow(answer))
            tab.cookies["bearer"] = bearer
            page = await tab.follow(await tab.send("GET", "/ui/oauth2/resume"))
        else:
            tab.cookies["bearer"] = bearer
            page = await tab.follow(answer)
        assert is_login(page), show(page)
        page = await tab.sign_in_as(ALICE, page)
        if is_our_consent(page):
            page = await tab.send("POST", "/oauth2/consent", data={"box": field_of(page, "box"), "decision": "allow"})
        came = arrived(page)
        assert came.parameters["state"] == asked.state
        claims = world.verified((await tab.redeem(asked, came)).json()["id_token"])
        assert claims["auth_time"] >= int(time.time()) - 30
        assert tab.cookies["bearer"] != bearer


async def test_max_age_is_measured_when_the_code_is_given(world: World) -> None:
    """A session that was young enough when the consent page was shown, and no longer is: a login, then the page again."""
    async with world.tab() as tab:
        await older_session(world, tab)
        asked = world.asked(prompt="consent", max_age="2")
        page = await tab.authorize(asked)
        if is_login(page):  # a slow machine: the session was too old at once, which is as good a beginning
            page = await tab.sign_in_as(ALICE, page)
        assert is_our_consent(page)
        first = tab.cookies["bearer"]
        await trio.sleep(3.1)  # its age, and the second by which it is stamped too early
        form = {"box": field_of(page, "box"), "decision": "allow"}
        page = await tab.follow(await tab.send("POST", "/oauth2/consent", data=form))
        assert is_login(page), show(page)
        page = await tab.sign_in_as(ALICE, page)
        assert is_our_consent(page)
        form = {"box": field_of(page, "box"), "decision": "allow"}
        assert arrived(await tab.send("POST", "/oauth2/consent", data=form)).parameters["state"] == asked.state
        assert tab.cookies["bearer"] != first


@pytest.mark.parametrize("second", ["cookie before", "cookie after", "header"])
async def test_two_sessions_at_once_are_not_mixed(world: World, second: str) -> None:
    """An old session beside a new one in the same request: never a code for the old one, whichever of them Kanidm reads."""
    async with world.tab() as tab, world.tab() as other:
        old = await older_session(world, other)
        asked = world.asked(prompt="login")
        begun = await tab.ask(asked)
        await tab.follow(begun)
        pending = tab.cookies["o2-authreq"]
        await tab.log_in(world.asked(), BOB)
        cookies = [f"bearer={tab.cookies['bearer']}", f"o2-authreq={pending}"]
        headers = {"authorization": f"Bearer {old}"} if second == "header" else {}
        if second != "header":
            cookies.insert(0 if second == "cookie before" else 2, f"bearer={old}")
        for path in ("/ui/oauth2/resume", begun.headers["location"]):
            page = await tab.http.get(path, headers={**headers, "cookie": "; ".join(cookies)})
            assert "code=" not in page.headers.get("location", "")
            assert is_mistake(page) or is_login(page) or page.headers["location"].startswith("/ui/oauth2?"), show(page)


async def test_max_age_of_another_tabs_login(world: World) -> None:
    """A login that another tab has made since is good for max_age, and for prompt=login, and is not asked for again."""
    async with world.tab() as tab:
        for extra in ({"max_age": "60"}, {"prompt": "login"}):
            tab.cookies.clear()
            asked = world.asked(**extra)
            await tab.authorize(asked)
            pending = tab.cookies.pop("o2-authreq")
            await tab.log_in(world.asked(), ALICE)
            tab.cookies["o2-authreq"] = pending
            came = arrived(await tab.follow(await tab.send("GET", "/ui/oauth2/resume")))
            assert came.parameters["state"] == asked.state
