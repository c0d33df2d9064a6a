"""Where answers may go: never anywhere but to an address that the client has registered, and there in one piece."""

from __future__ import annotations

import pytest

from tests.issuer.flows.tab import Client, arrived, is_login, is_mistake, show
from tests.issuer.flows.world import ALICE, World


@pytest.mark.parametrize("lacking", ["client_id", "redirect_uri"])
async def test_incomplete_request(world: World, lacking: str) -> None:
    """Without client or redirect URI there is nobody to tell: a page that says what is missing."""
    async with world.tab() as tab:
        page = await tab.authorize(world.asked(**{lacking: None}))
        assert is_mistake(page)
        assert lacking in page.text


TRICKS = [
    "//evil.example/callback",
    "https://evil.example/callback",
    "https://app.localhost.evil.example/callback",
    "https://evil.example/?https://app.localhost/callback",
    "https://evil.example#https://app.localhost/callback",
    "https://app.localhost@evil.example/callback",
    "https://evil.example@app.localhost/callback",
    "https://user:pass@app.localhost/callback",
    "https://evil.example\\@app.localhost/callback",
    "https:\\\\app.localhost\\callback",
    "https:/\\app.localhost/callback",
    "https:app.localhost/callback",
    "https:///app.localhost/callback",
    "\\\\evil.example",
    "/callback",
    "callback",
    "https://app.localhost/callback%0d%0aLocation:https://evil.example",
    "https://app.localhost/callback\r\nLocation: https://evil.example",
    "https://app.local\nhost/callback",
    "https://app.localhost/call\tback",
    "\thttps://app.localhost/callback",
    "https://app.localhost/callback ",
    " https://app.localhost/callback",
    "javascript:alert(1)",
    "javascript://app.localhost/callback%0aalert(1)",
    "data:text/html,<script>alert(1)</script>",
    "http://app.localhost/callback",
    "https://app.localhost:8443/callback",
    "https://app.localhost./callback",
    "https://app.localhost/Callback",
    "https://APP.localhost/callback",
    "HTTPS://app.localhost/callback",
    "https://app.localhost/callback/",
    "https://app.localhost/callback/../evil",
    "https://app.localhost/evil/../callback",
    "https://app.localhost/%2e%2e/callback",
    "https://app.localhost/./callback",
    "https://app.localhost//callback",
    "https://app.localhost/callback?",
    "https://app.localhost/callback?next=https://evil.example",
    "https://app.localhost/callback#",
    "https://app.localhost/callback#https://evil.example",
    "https://app.localhost/c%61llback",
    "https://app.localhost/callback;x",
    "https://\u0430pp.localhost/callback",
    "https://app.localhost\uff0fcallback",
    "https://app.localhost/callback\x00",
    "https://evil.example/" + "a" * 3000,
    "urn:ietf:wg:oauth:2.0:oob",
    "com.example.evil://callback",
    "https://",
    "https://[::1",
    "https://app.localhost:99999/callback",
]


@pytest.mark.parametrize("logged_in", [False, True], ids=["logged-out", "logged-in"])
async def test_never_an_open_redirect(world: World, logged_in: bool) -> None:
    """No trick with the redirect URI leads a browser anywhere but to our own page, with a right request and with a wrong one."""
    async with world.tab() as tab:
        if logged_in:
            await tab.log_in(world.asked(), ALICE)
        for trick in TRICKS:
            for extra in ({}, {"response_type": "token"}, {"prompt": "none"}, {"response_mode": "form_post"}):
                page = await tab.ask(world.asked(), redirect_uri=trick, **extra)
                assert is_mistake(page), f"{trick!r} {extra}: {show(page)}"
                assert "evil.example/" not in page.headers.get("location", "")


@pytest.mark.parametrize(
    "uri",
    [
        "http://localhost:1/cb#x",
        "http://user@localhost:1/cb",
        "http://localhost:1\\@evil.example/",
        "http://localhost.evil.example/",
        "http://localhost@evil.example/",
        "http://localhost:1/a/../b",
        "http://LOCALHOST:1/cb",
        "http://localhost:1/a b",
        "http://localhost:1/\r\nx:y",
    ],
)
async def test_loopback_redirects_have_no_tricks(world: World, uri: str) -> None:
    """A client that may use any loopback URI may use no fragment, user, space or other trick with it."""
    async with world.tab() as tab:
        page = await tab.ask(world.asked(world.public), redirect_uri=uri)
        assert is_mistake(page), show(page)


@pytest.mark.parametrize(
    "client_id",
    ["nobody", "../../v1/self", "KIWI-DEMO", "kiwi-demo/../kiwi-demo", "a" * 500, "kiwi demo", "%00", "🥝", "kiwi-demo?x"],
)
async def test_unknown_client(world: World, client_id: str) -> None:
    """An unknown client gets a page, and none that shows the name as HTML."""
    async with world.tab() as tab:
        page = await tab.ask(world.asked(), client_id=client_id)
        assert is_mistake(page), show(page)
    async with world.tab() as tab:
        page = await tab.ask(world.asked(), client_id="<script>x")
        assert is_mistake(page)
        assert "<script>x" not in page.text


async def test_redirect_uri_with_a_query(world: World) -> None:
    """A registered query string stays whole, byte for byte: with code and error, query, fragment and form post."""
    async with world.tab() as tab:
        for extra in ({}, {"response_mode": "fragment"}, {"response_mode": "form_post"}):
            asked = world.asked(world.other, **extra)
            page = await tab.authorize(asked)
            if is_login(page):
                page = await tab.agree(await tab.sign_in_as(ALICE, page))
            came = arrived(page)
            assert came.uri == world.other.redirect_uri
            assert (await tab.redeem(asked, came)).status_code == 200
        refused = arrived(await tab.authorize(world.asked(world.other), prompt="nonsense"))
        assert refused.uri == world.other.redirect_uri
        assert refused.parameters["error"] == "invalid_request"


@pytest.mark.parametrize("which", ["public", "app"])
async def test_redirects_that_a_consent_form_forbids(world: World, which: str) -> None:
    """After Kanidm's consent form, plain http and an app's own scheme are reached by a page of ours, and tokens are given."""
    person = await world.person(f"new-{which}")
    async with world.tab() as tab:
        asked = world.asked(getattr(world, which))
        page = await tab.sign_in_as(person, await tab.authorize(asked))
        assert "<title>Consent Required</title>" in page.text
        page = await tab.agree(page)
        came = arrived(page)
        assert (came.uri, came.how) == (asked.client.redirect_uri, "page")
        assert "Refresh" not in page.headers.get("link", "")
        assert (await tab.redeem(asked, came)).status_code == 200
        # With the consent known a redirect does it.
        again = world.asked(getattr(world, which))
        came = arrived(await tab.authorize(again))
        assert (came.uri, came.how) == (asked.client.redirect_uri, "query")
        assert (await tab.redeem(again, came)).status_code == 200


async def test_continue_takes_only_its_own_boxes(world: World) -> None:
    """The page in between leads nowhere for a box that is missing, forged, or sealed for another purpose."""
    async with world.tab() as tab:
        came = await tab.log_in(world.asked(), ALICE)
        for box in ("", "x", came.parameters["code"], came.parameters["code"].removeprefix("kiwi-")):
            assert is_mistake(await tab.send("GET", "/oauth2/continue", params={"box": box}))


async def test_new_clients_and_redirect_uris_work_at_once(world: World) -> None:
    """A client that was asked for before it was made is known as soon as it is made, and so is a redirect URI that is added."""
    async with world.tab() as tab, world.rest_as_admin() as rest:
        asked = world.asked(Client("flow-late", None, "https://late.localhost/cb"))
        assert is_mistake(await tab.ask(asked))
        await rest.create_client("flow-late", "Late", "https://late.localhost/cb", public=True)
        await rest.set_scopes("flow-late", "kiwi_users", ("openid", "profile", "email", "groups"))
        assert is_login(await tab.authorize(asked))
        assert is_mistake(await tab.ask(asked, redirect_uri="https://late.localhost/other"))
        await rest.add_redirect_uris("flow-late", "https://late.localhost/other")
        assert is_login(await tab.authorize(asked))


async def test_a_default_port_is_the_same_address(world: World) -> None:
    """Kanidm compares what its URL parser makes of an address: the default port may be written out. It leads to the same host."""
    async with world.tab() as tab:
        await tab.log_in(world.asked(), ALICE)
        uri = world.demo.redirect_uri.replace("app.localhost/", "app.localhost:443/")
        came = arrived(await tab.authorize(world.asked(redirect_uri=uri)))
        assert (came.uri, "code" in came.parameters) == (uri, True)


async def test_an_address_that_was_taken_away_gets_nothing(world: World) -> None:
    """A request that was right a moment ago may still lead to Kanidm's pages, and not past them; errors do not leave us at all."""
    uri = "https://moved.localhost/cb"
    async with world.rest_as_admin() as rest:
        await rest.create_client("flow-moving", "The moving client", "https://stays.localhost/cb")
        await rest.set_scopes("flow-moving", "kiwi_users", ["openid"])
        await rest.add_redirect_uris("flow-moving", uri)
        asked = world.asked(Client("flow-moving", await rest.client_secret("flow-moving"), uri))
        async with world.tab() as tab:
            assert is_login(await tab.authorize(asked))
        await rest.call("DELETE", "/v1/oauth2/flow-moving/_attr/oauth2_rs_origin", [uri])
    async with world.tab() as tab:
        page = await tab.authorize(asked)
        assert page.status_code in (200, 400), show(page)
        assert not is_login(page)
        for wrong in ({"prompt": "none"}, {"response_type": "token"}):
            assert is_mistake(await tab.ask(asked, **wrong))
        assert is_mistake(await tab.authorize(asked))
        await tab.log_in(world.asked(), ALICE)
        assert is_mistake(await tab.authorize(asked))
