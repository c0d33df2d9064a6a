"""Who has to log in, and who has to agree: prompt, max_age, id_token_hint, and the consent page of our own."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from kiwi_id.issuer import keys
from tests.issuer.flows.tab import Tab, arrived, field_of, is_kanidm_consent, is_login, is_mistake, is_our_consent, show
from tests.issuer.flows.world import ALICE, BOB, World


async def test_none(world: World) -> None:
    """prompt=none never shows anything: login_required, consent_required, or a code."""
    person = await world.person("quiet")
    async with world.tab() as tab:
        assert arrived(await tab.ask(world.asked(), prompt="none")).parameters["error"] == "login_required"
        await tab.log_in(world.asked(), person)
        asked = world.asked(prompt="none")
        came = arrived(await tab.ask(asked))
        assert (await tab.redeem(asked, came)).status_code == 200
        assert arrived(await tab.ask(world.asked(world.other), prompt="none")).parameters["error"] == "consent_required"
        await tab.authorize(world.asked(), prompt="none", max_age="0")
        assert arrived(await tab.ask(world.asked(), prompt="none", max_age="0")).parameters["error"] == "login_required"
        await tab.send("GET", "/ui/logout")
        assert arrived(await tab.ask(world.asked(), prompt="none")).parameters["error"] == "login_required"


async def test_none_with_a_session_that_was_ended(world: World) -> None:
    """A session cookie that a browser has kept over a logout elsewhere counts for nothing."""
    async with world.tab() as tab:
        await tab.log_in(world.asked(), ALICE)
        kept = tab.cookies["bearer"]
        await tab.send("GET", "/ui/logout")
        for bearer in (kept, kept[:-8] + "AAAAAAAA", "junk", "a.b.c", "", "x" * 3000):
            tab.cookies["bearer"] = bearer
            assert arrived(await tab.ask(world.asked(), prompt="none")).parameters["error"] == "login_required"
            assert is_login(await tab.authorize(world.asked()))


@pytest.mark.parametrize(
    "extra", [{"prompt": "login"}, {"prompt": "select_account"}, {"max_age": "0"}, {"prompt": "login consent"}]
)
async def test_a_new_login_is_forced(world: World, extra: dict[str, str]) -> None:
    """With a live session the password is asked for all the same; the new session is newer, and the old one's tokens live on."""
    async with world.tab() as tab:
        before = await tab.tokens(world.asked(), ALICE)
        asked = world.asked(**extra)
        page = await tab.authorize(asked)
        assert is_login(page), show(page)
        page = await tab.sign_in_as(ALICE, page)
        if "consent" in extra.get("prompt", ""):
            assert is_our_consent(page)
            page = await tab.send("POST", "/oauth2/consent", data={"box": field_of(page, "box"), "decision": "allow"})
        answer = await tab.redeem(asked, arrived(page))
        old, new = world.verified(before["id_token"]), world.verified(answer.json()["id_token"])
        assert new["auth_time"] >= old["auth_time"]
        assert abs(time.time() - new["auth_time"]) < 60
        assert new["sid"] != old["sid"]
        await tab.assert_alive(world.demo, before)


async def test_no_way_around_a_new_login(world: World) -> None:
    """The old session does not satisfy prompt=login, whoever puts its cookie back: another tab, or a user who will not type.

    Neither at Kanidm's authorization page, nor at the page after a login, nor by a second try with the state given for that one.
    """
    async with world.tab() as tab:
        await tab.log_in(world.asked(), ALICE)
        for extra in ({"prompt": "login"}, {"prompt": "login consent"}):
            bearer = tab.cookies["bearer"]
            asked = world.asked(**extra)
            page = await tab.ask(asked)
            assert "bearer" not in tab.cookies
            for _ in range(3):
                tab.cookies["bearer"] = bearer
                page = await tab.send("GET", page.headers["location"])
                assert page.status_code == 303
                assert page.headers["location"].startswith("/ui/oauth2?")
                assert "bearer" not in tab.cookies
            assert is_login(await tab.send("GET", page.headers["location"]))
            tab.cookies["bearer"] = bearer
            page = await tab.send("GET", "/ui/oauth2/resume")
            assert not page.headers.get("location", "").startswith("https://app."), show(page)
            page = await tab.follow(page)
            page = await tab.sign_in_as(ALICE, page)
            # What had to be asked again is still asked: the way around has not lost it.
            assert is_our_consent(page) is ("consent" in extra["prompt"])
            if is_our_consent(page):
                page = await tab.send("POST", "/oauth2/consent", data={"box": field_of(page, "box"), "decision": "allow"})
            assert arrived(page).parameters["state"] == asked.state


async def test_select_account_takes_another_user(world: World) -> None:
    """After select_account somebody else may log in, and is who the tokens are about."""
    async with world.tab() as tab:
        first = world.verified((await tab.tokens(world.asked(), ALICE))["id_token"])
        second = world.verified((await tab.tokens(world.asked(prompt="select_account"), BOB))["id_token"])
        assert (first["preferred_username"], second["preferred_username"]) == ("alice@localhost", "bob@localhost")
        assert first["sub"] != second["sub"]


async def test_max_age(world: World) -> None:
    """A session younger than max_age is good enough; auth_time tells the relying party so. Without a session it changes nothing."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(max_age="0"), ALICE)
        assert world.verified(tokens["id_token"])["auth_time"] >= time.time() - 60
        claims = world.verified((await tab.more_tokens(world.asked(max_age="100000")))["id_token"])
        assert claims["auth_time"] == world.verified(tokens["id_token"])["auth_time"]
        assert is_login(await tab.authorize(world.asked(), max_age="0"))


# -- consent of our own ---------------------------------------------------------------------------------------------------------


async def _consent_page(world: World, tab: Tab, **extra: str) -> tuple[Any, httpx.Response]:
    asked = world.asked(prompt="consent", **extra)
    page = await tab.authorize(asked)
    if is_login(page):
        page = await tab.sign_in_as(ALICE, page)
    assert is_our_consent(page), show(page)
    return asked, page


async def test_consent_is_asked_though_known(world: World) -> None:
    """prompt=consent shows who asks for what, with a live session and after a login; *allow* gives a code."""
    async with world.tab() as tab:
        await tab.log_in(world.asked(), ALICE)
    async with world.tab() as tab:
        for _ in range(2):
            asked, page = await _consent_page(world, tab)
            for word in ("kiwi-demo", "your name", "your e-mail address", "the groups", "alice@localhost"):
                assert word in page.text
            policy = page.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in policy
            assert "script-src 'none'" in policy
            answer = await tab.send("POST", "/oauth2/consent", data={"box": field_of(page, "box"), "decision": "allow"})
            came = arrived(answer)
            assert came.parameters["state"] == asked.state
            assert (await tab.redeem(asked, came)).status_code == 200


async def test_consent_refused(world: World) -> None:
    """*Refuse*, or anything that is not *allow*, is access_denied at the relying party, in the mode it asked for."""
    async with world.tab() as tab:
        for decision in ("refuse", "", "ALLOW"):
            asked, page = await _consent_page(world, tab, response_mode="form_post")
            answer = await tab.send("POST", "/oauth2/consent", data={"box": field_of(page, "box"), "decision": decision})
            came = arrived(answer)
            assert (came.uri, came.how) == (world.demo.redirect_uri, "form_post")
            assert came.parameters["error"] == "access_denied"
            assert (came.parameters["state"], came.parameters["iss"]) == (asked.state, world.issuer)


async def test_consent_cannot_be_forged(world: World) -> None:
    """A decision counts only with the box of this page, in the session that was asked: not without, not changed, not another's."""
    async with world.tab() as tab, world.tab() as other:
        _, page = await _consent_page(world, tab)
        box = field_of(page, "box")
        for forged in ("", "x", box[:-4] + "AAAA", box[4:], tab.cookies["bearer"], box + "A" * 20000):
            assert is_mistake(await tab.send("POST", "/oauth2/consent", data={"box": forged, "decision": "allow"}))
        await other.log_in(world.asked(), BOB)
        assert is_mistake(await other.send("POST", "/oauth2/consent", data={"box": box, "decision": "allow"}))
        # The same user in another session, and nobody at all.
        await other.log_in(world.asked(prompt="login"), ALICE)
        assert is_mistake(await other.send("POST", "/oauth2/consent", data={"box": box, "decision": "allow"}))
        other.cookies.clear()
        assert is_mistake(await other.send("POST", "/oauth2/consent", data={"box": box, "decision": "allow"}))
        answer = await tab.send("GET", "/oauth2/consent", params={"box": box, "decision": "allow"})
        assert answer.status_code == 405


async def test_consent_after_the_session_was_ended(world: World) -> None:
    """*Allow* on a page whose session was ended meanwhile leads to a login, not to a code, and then asks again."""
    async with world.tab() as tab:
        asked, page = await _consent_page(world, tab)
        bearer = tab.cookies["bearer"]
        await tab.send("GET", "/ui/logout")
        tab.cookies["bearer"] = bearer
        answer = await tab.send("POST", "/oauth2/consent", data={"box": field_of(page, "box"), "decision": "allow"})
        page = await tab.follow(answer)
        assert is_login(page), show(page)
        page = await tab.sign_in_as(ALICE, page)
        assert is_our_consent(page)
        answer = await tab.send("POST", "/oauth2/consent", data={"box": field_of(page, "box"), "decision": "allow"})
        assert arrived(answer).parameters["state"] == asked.state


async def test_consent_that_kanidm_does_not_know_yet(world: World) -> None:
    """With a live session our page stands for Kanidm's first one, too, and is remembered there; after a login Kanidm's does."""
    person = await world.person("newcomer")
    async with world.tab() as tab:
        page = await tab.sign_in_as(person, await tab.authorize(world.asked(), prompt="consent"))
        assert is_kanidm_consent(page)
        assert "code" in arrived(await tab.agree(page)).parameters
        asked = world.asked(world.other, prompt="consent")
        page = await tab.authorize(asked)
        assert is_our_consent(page)
        answer = await tab.send("POST", "/oauth2/consent", data={"box": field_of(page, "box"), "decision": "allow"})
        assert (await tab.redeem(asked, arrived(answer))).status_code == 200
        assert "code" in arrived(await tab.ask(world.asked(world.other), prompt="none")).parameters


# -- id_token_hint --------------------------------------------------------------------------------------------------------------


async def test_hint_of_the_same_user(world: World) -> None:
    """An ID token of the user who is logged in changes nothing, with prompt=none as well; nor does one that has expired."""
    places = world.places
    async with world.tab() as tab:
        token = (await tab.tokens(world.asked(), ALICE))["id_token"]
        key = keys.load(places.jwt_private_key, places.jwt_public_key, places.config.parent / "none").current
        claims = {**world.verified(token), "iat": 1_700_000_000, "exp": 1_700_000_900}
        for hint in (token, key.sign(claims, "JWT")):
            for extra in ({}, {"prompt": "none"}):
                assert "code" in arrived(await tab.ask(world.asked(), id_token_hint=hint, **extra)).parameters


async def test_hint_of_another_user(world: World) -> None:
    """An ID token of somebody else asks for that user: login_required for prompt=none, else a login, which must be theirs."""
    async with world.tab() as tab, world.tab() as other:
        hint = (await tab.tokens(world.asked(), ALICE))["id_token"]
        await other.log_in(world.asked(), BOB)
        assert arrived(await other.ask(world.asked(), id_token_hint=hint, prompt="none")).parameters["error"] == "login_required"
        page = await other.authorize(world.asked(), id_token_hint=hint)
        assert is_login(page)
        came = arrived(await other.sign_in_as(BOB, page))
        assert came.parameters["error"] == "login_required"
        asked = world.asked(id_token_hint=hint)
        tokens = (await other.redeem(asked, await other.log_in(asked, ALICE))).json()
        assert world.verified(tokens["id_token"])["sub"] == world.verified(hint)["sub"]
    async with world.tab() as fresh:
        came = arrived(await fresh.sign_in_as(BOB, await fresh.authorize(world.asked(), id_token_hint=hint)))
        assert came.parameters["error"] == "login_required"


async def test_hint_that_is_none(world: World) -> None:
    """What is no ID token of this issuer is refused: an access token, another signature, no signature, another issuer."""
    places = world.places
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        key = keys.load(places.jwt_private_key, places.jwt_public_key, places.config.parent / "none").current
        foreign = key.sign({**world.verified(tokens["id_token"]), "iss": "https://evil.example"}, "JWT")
        head, body, signature = tokens["id_token"].split(".")
        for hint in (
            tokens["access_token"],
            foreign,
            f"{head}.{body}.{signature[:-6]}AAAAAA",
            f"eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.",
            "a.b.c",
        ):
            came = arrived(await tab.ask(world.asked(), id_token_hint=hint))
            assert came.parameters["error"] == "invalid_request", hint
