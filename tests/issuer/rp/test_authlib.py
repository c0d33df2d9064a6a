"""Authlib logs a person in, keeps the session fresh, asks about it, ends it: over the stand-in and over the real kanidmd."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from authlib.integrations.base_client import OAuthError  # type: ignore[import-untyped]

from kiwi_id import demo
from tests.issuer.rp.party import AFTER_LOGOUT, RelyingParty
from tests.kanidm.browser import Browser
from tests.kanidm.instance import Instance

ALICE = demo.USERS[0]


def confidential(kiwi: Instance, **options: Any) -> RelyingParty:
    """The demo's client with a secret."""
    return RelyingParty(kiwi.origin, kiwi.ca, "kiwi-demo", kiwi.secret(), demo.REDIRECT_URI, **options)


async def log_in(party: RelyingParty, browser: Browser, **parameters: str) -> dict[str, Any]:
    """Bring the browser to the relying party's login, through Kanidm's pages as far as they are shown, and back to it."""
    page = await browser.send("GET", await party.begin(**parameters))
    assert page.status_code == 303, page.text
    if page.headers["location"].startswith("/ui/oauth2"):
        await browser.send("GET", page.headers["location"])
        page = await browser.sign_in(ALICE.name, ALICE.password)
        location = await browser.consent(page) if page.status_code == 200 else page.headers["location"]
    else:
        location = page.headers["location"]
    if location.startswith("/oauth2/continue"):  # the page on the way to http://localhost
        page = await browser.send("GET", location)
        location = page.headers["refresh"].partition("url=")[2]
    return await party.finish(location)


async def test_login_refresh_userinfo_logout(kiwi: Instance) -> None:
    """Discovery, login with PKCE, ID token, userinfo, refresh and RP-initiated logout, after which nothing is good any more."""
    party = confidential(kiwi, code_challenge_method="S256")
    async with kiwi.browser() as browser:
        tokens = await log_in(party, browser)
        assert party.server_metadata["issuer"] == kiwi.origin
        user = tokens["user"]
        assert (user["iss"], user["aud"], user["name"]) == (kiwi.origin, "kiwi-demo", ALICE.displayname)
        assert user["email"] == f"{ALICE.name}@example.com"
        assert {"kiwi_users", "mail_users"} <= set(user["groups"])
        assert abs(user["auth_time"] - user["iat"]) < 600
        info = await party.userinfo(token=tokens)
        assert {name: info[name] for name in ("sub", "name", "email", "groups")} == {
            name: user[name] for name in ("sub", "name", "email", "groups")
        }

        fresh = await party.call("refresh_token", "token_endpoint", refresh_token=tokens["refresh_token"])
        assert fresh["access_token"] != tokens["access_token"]
        again = await party.parse_id_token(fresh, nonce=None)
        # OIDC Core §12.2: the same user, session and login as in the first ID token.
        assert {name: again[name] for name in ("iss", "sub", "aud", "azp", "auth_time", "sid")} == {
            name: user[name] for name in ("iss", "sub", "aud", "azp", "auth_time", "sid")
        }
        assert (await party.userinfo(token=fresh))["sub"] == user["sub"]

        out = await party.create_logout_url(post_logout_redirect_uri=AFTER_LOGOUT, id_token_hint=tokens["id_token"])
        answer = await browser.send("GET", out["url"])
        assert answer.status_code == 303
        assert answer.headers["location"] == f"{AFTER_LOGOUT}?state={out['state']}"
        assert (await party.get(party.server_metadata["userinfo_endpoint"], token=fresh)).status_code == 401
        with pytest.raises(OAuthError) as caught:
            await party.call("refresh_token", "token_endpoint", refresh_token=fresh["refresh_token"])
        assert caught.value.error == "invalid_grant"
        page = await browser.send("GET", await party.begin(prompt="none"))
        assert parse_qs(urlsplit(page.headers["location"]).query)["error"] == ["login_required"]


async def test_introspection_and_revocation(kiwi: Instance) -> None:
    """A living token is active; Authlib revokes it, and it is inactive for everybody, at once."""
    party = confidential(kiwi, code_challenge_method="S256")
    async with kiwi.browser() as browser:
        tokens = await log_in(party, browser)
        asked = await party.call("introspect_token", "introspection_endpoint", token=tokens["access_token"])
        told = asked.json()
        assert told["active"] is True
        assert (told["sub"], told["client_id"], told["iss"]) == (tokens["user"]["sub"], "kiwi-demo", kiwi.origin)
        answer = await party.call(
            "revoke_token", "revocation_endpoint", token=tokens["refresh_token"], token_type_hint="refresh_token"
        )
        assert answer.status_code == 200
        for token in (tokens["access_token"], tokens["refresh_token"]):
            asked = await party.call("introspect_token", "introspection_endpoint", token=token)
            assert asked.json() == {"active": False}
        assert (await party.get(party.server_metadata["userinfo_endpoint"], token=tokens)).status_code == 401


@pytest.mark.parametrize(
    "options",
    [{}, {"token_endpoint_auth_method": "client_secret_post"}, {"response_mode": "query", "code_challenge_method": "S256"}],
    ids=["no PKCE", "client_secret_post", "response_mode"],
)
async def test_configurations(kiwi: Instance, options: dict[str, str]) -> None:
    """Authlib as applications configure it, without PKCE to begin with: each logs in."""
    party = confidential(kiwi, **options)
    async with kiwi.browser() as browser:
        tokens = await log_in(party, browser)
        assert tokens["user"]["preferred_username"].startswith(ALICE.name)


async def test_public_client(kiwi: Instance) -> None:
    """A native application without a secret logs in by PKCE at an http://localhost address with a query string of its own."""
    party = RelyingParty(
        kiwi.origin, kiwi.ca, "kiwi-demo-public", None, "http://localhost:8123/back?tab=1", code_challenge_method="S256"
    )
    async with kiwi.browser() as browser:
        tokens = await log_in(party, browser)
        assert tokens["user"]["aud"] == "kiwi-demo-public"
        fresh = await party.call("refresh_token", "token_endpoint", refresh_token=tokens["refresh_token"])
        assert (await party.userinfo(token=fresh))["sub"] == tokens["user"]["sub"]


async def test_single_sign_on(kiwi: Instance) -> None:
    """Two relying parties and one browser: the second login needs no page of Kanidm's, and both tell the same user."""
    first, second = confidential(kiwi, code_challenge_method="S256"), confidential(kiwi)
    async with kiwi.browser() as browser:
        one = await log_in(first, browser)
        page = await browser.send("GET", await second.begin(prompt="none"))
        two = await second.finish(page.headers["location"])
        assert (one["user"]["sub"], one["user"]["sid"]) == (two["user"]["sub"], two["user"]["sid"])


async def test_service_logs_in_by_itself(kiwi: Instance) -> None:
    """The client_credentials grant gives a service a token that introspects as its own."""
    party = confidential(kiwi, scope=None)  # the scopes of the demo are its users', not the client's own
    token = await party.call("fetch_token", "token_endpoint", grant_type="client_credentials")
    assert "refresh_token" not in token
    told = (await party.call("introspect_token", "introspection_endpoint", token=token["access_token"])).json()
    assert (told["active"], told["client_id"]) == (True, "kiwi-demo")
