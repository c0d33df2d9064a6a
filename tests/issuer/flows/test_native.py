"""Kanidm's own issuers, one per client, behave behind Kiwi ID as they do without it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest

from tests.issuer.flows.checks import basic
from tests.issuer.flows.tab import Arrived, Client, Tab, is_login, is_mistake, show
from tests.issuer.flows.world import ALICE, World

# What differs from one request to the next, or belongs to one connection.
_OWN = {"date", "x-request-id", "x-kanidm-opid", "connection", "keep-alive", "set-cookie"}
FORM = "application/x-www-form-urlencoded"
NATIVE = "/oauth2/openid/kiwi-demo"
FERNET = "gAAAAABm" + "A" * 120
JWE = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..AAAA.AAAA.AAAA"


@asynccontextmanager
async def direct(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A client that speaks with kanidmd itself."""
    context = ssl.create_default_context(cafile=str(world.instance.ca))
    url = f"https://localhost:{world.instance.server.bind_addresses[0].port}"
    async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False, timeout=30) as client:
        yield client


def told(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    """Return what has to be the same of an answer."""
    return answer.status_code, answer.content, {name: value for name, value in answer.headers.items() if name not in _OWN}


def _form(path: str, **fields: str) -> tuple[str, str, dict[str, Any]]:
    return "POST", path, {"data": fields}


def _native(grant: str, client: str = "kiwi-demo", **fields: str) -> tuple[str, str, dict[str, Any]]:
    return "POST", "/oauth2/token", {"data": {"grant_type": grant, **fields}, "headers": basic(client, "wrong-secret")}


REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", f"{NATIVE}/.well-known/openid-configuration", {}),
    ("GET", f"{NATIVE}/.well-known/oauth-authorization-server", {}),
    ("OPTIONS", f"{NATIVE}/.well-known/openid-configuration", {"headers": {"origin": "https://spa.example"}}),
    ("GET", f"{NATIVE}/public_key.jwk", {}),
    ("OPTIONS", f"{NATIVE}/public_key.jwk", {}),
    ("GET", "/oauth2/openid/nobody/.well-known/openid-configuration", {}),
    ("GET", f"{NATIVE}/userinfo", {}),
    ("GET", f"{NATIVE}/userinfo", {"headers": {"authorization": "Bearer junk"}}),
    ("POST", f"{NATIVE}/userinfo", {"headers": {"authorization": "Bearer a.b.c"}}),
    ("OPTIONS", f"{NATIVE}/userinfo", {}),
    ("GET", "/oauth2/authorise?response_type=code&client_id=nobody", {}),
    ("GET", "/oauth2/authorise?response_type=code&client_id=nobody&redirect_uri=https%3A%2F%2Fx%2F&scope=openid&state=s", {}),
    _native("authorization_code", code=FERNET, redirect_uri="https://app.localhost/callback", code_verifier="x"),
    _native("authorization_code", code=JWE, redirect_uri="https://app.localhost/callback", code_verifier="x"),
    _native("authorization_code", "kiwi-demo-public", code=FERNET, redirect_uri="http://localhost/x", code_verifier="x"),
    _native("authorization_code", code=FERNET),
    _native("refresh_token", refresh_token=FERNET),
    _native("refresh_token", refresh_token=JWE, scope="openid"),
    _native("urn:ietf:params:oauth:grant-type:device_code", device_code="x"),
    _native("urn:ietf:params:oauth:grant-type:token-exchange", subject_token="x"),
    _form("/oauth2/token/introspect", token="junk"),
    _form("/oauth2/token/introspect", token=FERNET),
    _form("/oauth2/token/introspect"),
    _form("/oauth2/token/revoke", token="junk"),
    _form("/oauth2/token/revoke"),
    ("POST", "/oauth2/token/revoke", {"data": {"token": JWE}, "headers": basic("kiwi-demo", "wrong")}),
    ("POST", "/oauth2/token/introspect", {"json": {"token": "x"}}),
    ("GET", "/oauth2/token/introspect", {}),
    ("GET", "/oauth2/nothing", {}),
    ("GET", "/.well-known/nothing", {}),
]


@pytest.mark.parametrize("at", range(len(REQUESTS)), ids=lambda at: f"{at}-{REQUESTS[at][0]}-{REQUESTS[at][1].partition('?')[0]}")
async def test_same_answers(world: World, at: int) -> None:
    """Status, body and headers of Kanidm's OAuth2 paths are the same through the front as from kanidmd itself."""
    method, path, arguments = REQUESTS[at]
    async with world.tab() as tab, direct(world) as kanidmd:
        assert told(await tab.http.request(method, path, **arguments)) == told(await kanidmd.request(method, path, **arguments))


async def _login(world: World, tab: Tab, client: Client, state: str) -> tuple[Any, Arrived]:
    asked = world.asked(client, state=state)
    page = await tab.send("GET", "/ui/oauth2", params=asked.parameters)
    if is_login(page):
        page = await tab.sign_in_as(ALICE, page)
    page = await tab.agree(page)
    assert page.status_code in (302, 303), show(page)
    location = page.headers["location"]
    query = {name: values[-1] for name, values in parse_qs(urlsplit(location).query).items()}
    return asked, Arrived(location.partition("?")[0], "query", query)


@pytest.mark.parametrize("state", ["plain", "kiwi-", "kiwi-AAAA", "kiwi-" + "A" * 300, "kiwi-%20ü"])
async def test_a_whole_login(world: World, state: str) -> None:
    """A client of Kanidm's per-client issuer logs in as ever: its own code, state, issuer and keys; nothing is ours in it.

    Also when its state happens to begin as ours do.
    """
    async with world.tab() as tab, direct(world) as kanidmd:
        for _ in range(2):
            asked, came = await _login(world, tab, world.demo, state)
            assert came.parameters["state"] == state
            assert "iss" not in came.parameters
            assert came.parameters["code"].startswith(("gAAAA", "eyJ"))
        answer = await tab.redeem(asked, came)
        assert answer.status_code == 200, answer.text
        tokens = answer.json()
        keys = (await tab.http.get(f"{NATIVE}/public_key.jwk")).json()
        kid = jwt.get_unverified_header(tokens["id_token"])["kid"]
        key = jwt.PyJWKSet.from_dict(keys)[kid]
        claims = jwt.decode(tokens["id_token"], key, algorithms=["ES256"], audience="kiwi-demo", issuer=world.issuer + NATIVE)
        assert claims["nonce"] == asked.nonce
        bearer = {"authorization": f"Bearer {tokens['access_token']}"}
        client = {"auth": world.demo.auth}
        for method, path, arguments in (
            ("GET", f"{NATIVE}/userinfo", {"headers": bearer}),
            ("POST", f"{NATIVE}/userinfo", {"headers": bearer}),
            ("POST", "/oauth2/token/introspect", {"data": {"token": tokens["access_token"]}, **client}),
            ("POST", "/oauth2/token/introspect", {"data": {"token": tokens["refresh_token"]}, **client}),
        ):
            through, past = await tab.http.request(method, path, **arguments), await kanidmd.request(method, path, **arguments)
            assert through.status_code == past.status_code == 200 or "refresh" in str(arguments)
            assert told(through) == told(past)
        refreshed = (await tab.refresh(world.demo, tokens["refresh_token"])).json()
        assert jwt.decode(refreshed["id_token"], key, algorithms=["ES256"], audience="kiwi-demo")["iss"] == world.issuer + NATIVE
        revoked = await tab.post("/oauth2/token/revoke", {"token": refreshed["access_token"]}, world.demo)
        assert (revoked.status_code, revoked.content) == (200, b"")
        gone = {"authorization": f"Bearer {refreshed['access_token']}"}
        through = await tab.http.get(f"{NATIVE}/userinfo", headers=gone)
        past = await kanidmd.get(f"{NATIVE}/userinfo", headers=gone)
        assert told(through) == told(past)
        assert through.status_code in (400, 401)


async def test_the_two_kinds_do_not_mix(world: World) -> None:
    """Kanidm's tokens and codes are nothing to our endpoints, and ours nothing to Kanidm's; each says so in its own way."""
    async with world.tab() as tab:
        asked, came = await _login(world, tab, world.demo, "s")
        native = (await tab.redeem(asked, came)).json()
        ours = await tab.more_tokens(world.asked())
        assert (await tab.userinfo(native["access_token"])).status_code == 401
        assert await tab.introspect(world.demo, native["access_token"]) == {"active": False}
        assert (await tab.post("/oauth2/revoke", {"token": native["access_token"]}, world.demo)).status_code == 200
        bearer = {"authorization": f"Bearer {native['access_token']}"}
        assert (await tab.http.get(f"{NATIVE}/userinfo", headers=bearer)).status_code == 200
        bearer = {"authorization": f"Bearer {ours['access_token']}"}
        assert (await tab.http.get(f"{NATIVE}/userinfo", headers=bearer)).status_code in (400, 401)


async def test_native_errors_are_kanidms(world: World) -> None:
    """What Kanidm refuses at its own authorization page it refuses in its own words; ours are not put in their place."""
    async with world.tab() as tab:
        for extra in ({"client_id": "nobody"}, {"redirect_uri": "https://evil.example/"}, {"response_type": "token"}):
            page = await tab.send("GET", "/ui/oauth2", params=world.asked(**extra).parameters)
            assert not is_mistake(page)
            assert "location" not in page.headers
