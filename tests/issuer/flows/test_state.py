"""The state: it comes back exactly, however long or odd, or it is refused."""

from __future__ import annotations

import itertools
import secrets

import pytest

from tests.issuer.flows.tab import arrived, is_login, is_mistake, show
from tests.issuer.flows.world import ALICE, World

ODD_STATES = [
    "".join(chr(code) for code in range(0x20, 0x7F)),
    "a b+c%20d&e=f#g?h/i\\j\"k'l<m>n",
    "ünïcödé-✓-🥝",
    "=&=&;,",
    "x" * 1500,
    "%00%0d%0aset-cookie:%20a=b",
    "kiwi-not-a-box",
]


@pytest.mark.parametrize("state", ODD_STATES, ids=["printable", "reserved", "unicode", "separators", "long", "escapes", "prefix"])
async def test_state_comes_back_exactly(world: World, state: str) -> None:
    """Whatever the state holds comes back as it was, after a login, with a live session, by form post, and with an error."""
    async with world.tab() as tab:
        assert (await tab.log_in(world.asked(), ALICE, state=state)).parameters["state"] == state
        assert arrived(await tab.authorize(world.asked(), state=state)).parameters["state"] == state
        assert arrived(await tab.authorize(world.asked(), state=state, response_mode="form_post")).parameters["state"] == state
        assert arrived(await tab.authorize(world.asked(), state=state, response_mode="nonsense")).parameters["state"] == state


@pytest.mark.parametrize("control", ["\n", "\r", "\r\n", "\0", "\t", "\x7f", "\x85"], ids=repr)
async def test_state_with_control_characters_is_refused(world: World, control: str) -> None:
    """RFC 6749 appendix A.5: a form would bring another state than was sent, so none is taken, with or without a session.

    The error has the state where an address carries it, and none where a form would change it.
    """
    async with world.tab() as tab:
        await tab.log_in(world.asked(), ALICE)
        for turn in ("live session", "no session"):
            if turn == "no session":
                tab.cookies.clear()
            for mode in ("query", "fragment", "form_post"):
                came = arrived(await tab.ask(world.asked(state=f"a{control}b", response_mode=mode)))
                assert came.parameters["error"] == "invalid_request"
                assert came.parameters.get("state") == (None if mode == "form_post" else f"a{control}b")
                assert "code" not in came.parameters


async def test_very_long_state_is_parked(world: World) -> None:
    """A state that does not fit beside Kanidm's own cookie rides in one of ours, which is gone afterwards; a longer is refused.

    Random characters: what can be compressed would fit.
    """
    state = secrets.token_urlsafe(1800)
    async with world.tab() as tab:
        asked = world.asked(state=state)
        answer = await tab.ask(asked)
        assert len(answer.headers["location"]) < 3000
        assert any(name.startswith("__Host-kiwi-state-") for name in tab.cookies)
        assert all(len(cookie) < 4096 for cookie in answer.headers.get_list("set-cookie"))
        came = arrived(await tab.agree(await tab.sign_in_as(ALICE, await tab.follow(answer))))
        assert came.parameters["state"] == state
        assert not any(name.startswith("__Host-kiwi-state-") for name in tab.cookies)
        assert (await tab.redeem(asked, came)).status_code == 200
    async with world.tab() as tab:
        refused = arrived(await tab.authorize(world.asked(), state=state * 2))
        assert refused.parameters["error"] == "invalid_request"


async def test_no_cookie_is_too_large(world: World) -> None:
    """Whatever the lengths of state, nonce and login_hint: every cookie on the way to the login page fits, or it is refused."""
    refused = 0
    async with world.tab() as tab:
        for nonce, state, hint in itertools.product((0, 400, 700, 1000), (0, 500, 1000, 1400, 2500), (0, 250)):
            tab.cookies.clear()
            texts = [secrets.token_urlsafe(2600)[:length] for length in (nonce, state, hint)]
            answer = await tab.ask(world.asked(world.other, nonce=texts[0], state=texts[1], login_hint=texts[2]))
            if not answer.headers["location"].startswith("/ui/oauth2?"):
                assert arrived(answer).parameters["error"] == "invalid_request"
                refused += 1
                continue
            page = await tab.send("GET", answer.headers["location"])
            assert is_login(page), show(page)
            cookies = answer.headers.get_list("set-cookie") + page.headers.get_list("set-cookie")
            assert max(map(len, cookies)) <= 4096
    assert refused < 10


async def test_parked_state_of_another_browser(world: World) -> None:
    """A login whose parked state is not in this browser ends on a page, not at the relying party with a foreign state."""
    state = secrets.token_urlsafe(1800)
    async with world.tab() as tab:
        page = await tab.authorize(world.asked(state=state))
        tab.cookies = {name: value for name, value in tab.cookies.items() if not name.startswith("__Host-kiwi-state-")}
        page = await tab.agree(await tab.sign_in_as(ALICE, page))
        assert is_mistake(page), show(page)


async def test_unfinished_logins_do_not_fill_the_browser(world: World) -> None:
    """However many logins with a long state are begun, the cookies stay few, and the latest login can be finished."""
    async with world.tab() as tab:
        for _ in range(30):
            state = secrets.token_urlsafe(1900)
            asked = world.asked(state=state)
            page = await tab.authorize(asked)
            assert is_login(page), show(page)
            assert sum(len(name) + len(value) for name, value in tab.cookies.items()) < 20000
        assert len([name for name in tab.cookies if name.startswith("__Host-kiwi-state-")]) == 3
        came = arrived(await tab.agree(await tab.sign_in_as(ALICE, page)))
        assert came.parameters["state"] == state
        assert (await tab.redeem(asked, came)).status_code == 200
