"""RP-initiated logout, and the logout tokens that tell the other clients of it."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
import trio

from kiwi_id.issuer import keys
from tests.issuer.flows.tab import Tab, arrived, field_of, is_mistake, show
from tests.issuer.flows.world import AFTER_LOGOUT, ALICE, BOB, World


async def assert_signed_out(world: World, tab: Tab, bearer: str) -> None:
    """Prove that the browser has no session any more, and that its old cookie is worth nothing either."""
    assert "bearer" not in tab.cookies
    assert arrived(await tab.ask(world.asked(), prompt="none")).parameters["error"] == "login_required"
    assert (await tab.http.get("/v1/self", headers={"authorization": f"Bearer {bearer}"})).status_code == 401
    tab.cookies["bearer"] = bearer
    assert arrived(await tab.ask(world.asked(), prompt="none")).parameters["error"] == "login_required"
    tab.cookies.pop("bearer")


async def assert_signed_in(world: World, tab: Tab) -> None:
    """Prove that the browser still has its session."""
    assert "code" in arrived(await tab.ask(world.asked(), prompt="none")).parameters


def asks(page: httpx.Response) -> bool:
    """Tell whether this is the page that asks whether to sign out."""
    return page.status_code == 200 and "<title>Sign out?</title>" in page.text


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("back", [False, True], ids=["no way back", "with a way back"])
async def test_with_a_hint(world: World, method: str, back: bool) -> None:
    """With the ID token of this session nobody is asked: session and tokens are dead, and the browser goes where it may."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        bearer = tab.cookies["bearer"]
        form = {"id_token_hint": tokens["id_token"]}
        if back:
            form |= {"post_logout_redirect_uri": AFTER_LOGOUT, "state": "a b&c=ü\"'", "client_id": "kiwi-demo", "ui_locales": "de"}
        answer = await tab.send(method, "/oauth2/logout", **({"params": form} if method == "GET" else {"data": form}))
        if back:
            assert answer.status_code == 303
            uri, _, query = answer.headers["location"].partition("?")
            assert (uri, parse_qs(query)) == (AFTER_LOGOUT, {"state": ["a b&c=ü\"'"]})
        else:
            assert answer.status_code == 200
            assert "<title>Signed out</title>" in answer.text
        await assert_signed_out(world, tab, bearer)
        await tab.assert_dead(world.demo, tokens)
        # Once more changes nothing, and does not ask.
        again = await tab.send("GET", "/oauth2/logout", params=form)
        assert again.status_code == (303 if back else 200)


async def test_way_back_with_a_query(world: World) -> None:
    """A registered URI with a query keeps it; without state nothing is added."""
    async with world.tab() as tab:
        for state, wanted in (({}, "https://app.localhost/out?x=1"), ({"state": "s"}, "https://app.localhost/out?x=1&state=s")):
            tokens = await tab.tokens(world.asked(), ALICE)
            form = {"id_token_hint": tokens["id_token"], "post_logout_redirect_uri": "https://app.localhost/out?x=1", **state}
            assert (await tab.send("GET", "/oauth2/logout", params=form)).headers["location"] == wanted


async def test_only_registered_ways_back(world: World) -> None:
    """Any other address, another client's, or one without a client is a page; nothing redirects, and nobody is signed out."""
    async with world.tab() as tab:
        hint = (await tab.tokens(world.asked(), ALICE))["id_token"]
        for uri in (
            "https://evil.example/",
            "//evil.example",
            AFTER_LOGOUT + "/",
            AFTER_LOGOUT + "?x",
            AFTER_LOGOUT + "#x",
            AFTER_LOGOUT.upper(),
            AFTER_LOGOUT + "\r\nset-cookie: a=b",
            AFTER_LOGOUT.replace("https", "http"),
            "https://app.localhost@evil.example/signed-out",
            world.demo.redirect_uri,
            "https://other.localhost/out",
            "javascript:alert(1)",
        ):
            for who in ({"id_token_hint": hint}, {"client_id": "kiwi-demo"}, {"id_token_hint": hint, "client_id": "kiwi-demo"}):
                page = await tab.send("GET", "/oauth2/logout", params={**who, "post_logout_redirect_uri": uri})
                assert is_mistake(page), f"{uri} {who}: {show(page)}"
        assert is_mistake(await tab.send("GET", "/oauth2/logout", params={"post_logout_redirect_uri": AFTER_LOGOUT}))
        params = {"post_logout_redirect_uri": AFTER_LOGOUT, "client_id": "nobody"}
        assert is_mistake(await tab.send("GET", "/oauth2/logout", params=params))
        # The hint was issued to another client than the one named.
        params = {"id_token_hint": hint, "client_id": "flow-other"}
        assert is_mistake(await tab.send("GET", "/oauth2/logout", params=params))
        assert is_mistake(await tab.send("GET", "/oauth2/logout?client_id=a&client_id=b"))
        await assert_signed_in(world, tab)


async def test_without_a_hint_the_user_is_asked(world: World) -> None:
    """A page asks; *stay* changes nothing, *sign out* ends the session and goes the way back that was asked for."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        bearer = tab.cookies["bearer"]
        form = {"client_id": "kiwi-demo", "post_logout_redirect_uri": AFTER_LOGOUT, "state": "s t"}
        page = await tab.send("GET", "/oauth2/logout", params=form)
        assert asks(page)
        assert "alice@localhost" in page.text
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        box = field_of(page, "box")
        for decision in ("no", "", "YES"):
            stayed = await tab.send("POST", "/oauth2/logout", data={"box": box, "decision": decision})
            assert (stayed.status_code, "location" in stayed.headers) == (200, False)
        await assert_signed_in(world, tab)
        done = await tab.send("POST", "/oauth2/logout", data={"box": box, "decision": "yes"})
        assert done.headers["location"] == AFTER_LOGOUT + "?state=s+t"
        await assert_signed_out(world, tab, bearer)
        await tab.assert_dead(world.demo, tokens)


async def test_confirmation_cannot_be_forged(world: World) -> None:
    """A confirmation counts only with the box of this page, in the session that was asked."""
    async with world.tab() as tab, world.tab() as other:
        await tab.log_in(world.asked(), ALICE)
        came = await other.log_in(world.asked(), BOB)
        box = field_of(await other.send("GET", "/oauth2/logout"), "box")
        for forged in ("x", box, box[:-4] + "AAAA", came.parameters["code"].removeprefix("kiwi-")):
            for method in ("GET", "POST"):
                fields = {"box": forged, "decision": "yes"}
                page = await tab.send(method, "/oauth2/logout", **({"params": fields} if method == "GET" else {"data": fields}))
                assert is_mistake(page), show(page)
        await assert_signed_in(world, tab)
        await assert_signed_in(world, other)


async def test_hints_that_do_not_suffice(world: World) -> None:
    """The ID token of another user, or of another session of the same, proves nothing: asked first. What is none is refused."""
    places = world.places
    async with world.tab() as tab, world.tab() as other:
        own = await tab.tokens(world.asked(), ALICE)
        for person in (BOB, ALICE):
            hint = (await other.tokens(world.asked(prompt="login"), person))["id_token"]
            assert asks(await tab.send("GET", "/oauth2/logout", params={"id_token_hint": hint}))
        key = keys.load(places.jwt_private_key, places.jwt_public_key, places.config.parent / "none").current
        claims = world.verified(own["id_token"])
        foreign = key.sign({**claims, "iss": "https://evil.example"}, "JWT")
        for hint in ("junk", "a.b.c", own["access_token"], own["refresh_token"], own["id_token"][:-8] + "AAAAAAAA", foreign):
            assert is_mistake(await tab.send("GET", "/oauth2/logout", params={"id_token_hint": hint}))
        await assert_signed_in(world, tab)
        # An expired one is as good as ever (RP-Initiated Logout 1.0 §2).
        old = key.sign({**claims, "iat": 1_700_000_000, "exp": 1_700_000_900}, "JWT")
        assert "<title>Signed out</title>" in (await tab.send("GET", "/oauth2/logout", params={"id_token_hint": old})).text


# -- back-channel ---------------------------------------------------------------------------------------------------------------


def checked(world: World, token: str, audience: str, login: dict[str, Any]) -> dict[str, Any]:
    """Check a logout token as Back-Channel Logout 1.0 §2.6 says; return its claims."""
    assert jwt.get_unverified_header(token)["typ"] == "logout+jwt"
    claims = world.verified(token, audience=audience)
    assert set(claims) == {"iss", "sub", "aud", "iat", "exp", "jti", "sid", "events"}
    assert claims["events"] == {"http://schemas.openid.net/event/backchannel-logout": {}}
    assert (claims["sub"], claims["sid"]) == (login["sub"], login["sid"])
    assert abs(claims["iat"] - time.time()) < 60
    assert claims["exp"] - claims["iat"] <= 120
    return claims


@pytest.mark.parametrize("how", ["hint", "confirmed", "/ui/logout"])
async def test_clients_of_the_session_are_told(world: World, how: str) -> None:
    """Every client of this session that wants to know gets one signed logout token of its own, however the logout comes about."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        await tab.more_tokens(world.asked())
        await tab.more_tokens(world.asked(world.other))
        await tab.more_tokens(world.asked(world.public))
        login = world.verified(tokens["id_token"])
        if how == "hint":
            await tab.send("GET", "/oauth2/logout", params={"id_token_hint": tokens["id_token"]})
        elif how == "confirmed":
            box = field_of(await tab.send("GET", "/oauth2/logout"), "box")
            await tab.send("POST", "/oauth2/logout", data={"box": box, "decision": "yes"})
        else:
            await tab.send("GET", "/ui/logout")
        first = checked(world, (await world.receiver.wait("/demo", 1, login["sid"]))[0], "kiwi-demo", login)
        second = checked(world, (await world.receiver.wait("/other", 1, login["sid"]))[0], "flow-other", login)
        assert first["jti"] != second["jti"]
        # A logout token is no ID token and no access token.
        token = world.receiver.of(login["sid"])["/demo"][0]
        assert is_mistake(await tab.send("GET", "/oauth2/logout", params={"id_token_hint": token}))
        assert (await tab.userinfo(token)).status_code == 401
        await tab.send("GET", "/ui/logout")
        await trio.sleep(0.2)
        assert {path: len(got) for path, got in world.receiver.of(login["sid"]).items()} == {"/demo": 1, "/other": 1}


async def test_clients_without_a_login_are_not_told(world: World) -> None:
    """Who never logged in with this session is not told, even if another session of the user's, or an earlier one, did."""
    async with world.tab() as elsewhere, world.tab() as tab:
        await elsewhere.tokens(world.asked(world.other), ALICE)
        earlier = (await tab.tokens(world.asked(world.other), ALICE))["id_token"]
        await tab.send("GET", "/ui/logout")
        await world.receiver.wait("/other", 1, world.verified(earlier, audience="flow-other")["sid"])
        tokens = await tab.tokens(world.asked(), ALICE)
        sid = world.verified(tokens["id_token"])["sid"]
        await tab.send("GET", "/oauth2/logout", params={"id_token_hint": tokens["id_token"]})
        await world.receiver.wait("/demo", 1, sid)
        await trio.sleep(0.2)
        assert set(world.receiver.of(sid)) == {"/demo"}


async def test_told_again_after_an_error(world: World) -> None:
    """A client that answers 500 is told again with the same token, and the user's logout does not wait for it."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        world.receiver.answers["/demo"] = [500]
        answer = await tab.send("GET", "/oauth2/logout", params={"id_token_hint": tokens["id_token"]})
        assert answer.status_code == 200
        got = await world.receiver.wait("/demo", 2, world.verified(tokens["id_token"])["sid"])
        assert got[0] == got[1]


async def test_confirmation_goes_nowhere_else(world: World) -> None:
    """The way back is sealed when it was checked: parameters beside the box do not change it."""
    async with world.tab() as tab:
        await tab.log_in(world.asked(), ALICE)
        page = await tab.send("GET", "/oauth2/logout", params={"client_id": "kiwi-demo", "post_logout_redirect_uri": AFTER_LOGOUT})
        form = {"box": field_of(page, "box"), "decision": "yes", "post_logout_redirect_uri": "https://evil.example/"}
        answer = await tab.send("POST", "/oauth2/logout", data=form)
        assert urlsplit(answer.headers["location"]).hostname == "app.localhost"
