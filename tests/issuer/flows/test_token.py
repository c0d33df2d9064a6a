"""The token endpoint: who may exchange what, how often, and what is said to whom may not."""

from __future__ import annotations

import base64
from urllib.parse import quote

import httpx
import jwt
import pytest
import trio

from kiwi_id.issuer import keys
from kiwi_id.issuer.box import Sealer
from tests.issuer.flows.checks import basic, refused
from tests.issuer.flows.tab import Asked, Client, arrived
from tests.issuer.flows.world import ALICE, BOB, World

FORM = {"content-type": "application/x-www-form-urlencoded"}


def encoded(text: str) -> str:
    """Encode every character, as RFC 6749 §2.3.1 allows and some clients do."""
    return "".join(f"%{byte:02X}" for byte in text.encode())


@pytest.mark.parametrize("how", ["basic", "basic, encoded", "basic, lower case", "basic and client_id", "post"])
async def test_client_authentication(world: World, how: str) -> None:
    """A confidential client names itself by Basic, form-encoded within or not, or in the form; the answer is cached nowhere."""
    secret = world.demo.secret or ""
    form: dict[str, str] = {}
    headers = basic("kiwi-demo", secret)
    if how == "basic, encoded":
        headers = basic(encoded("kiwi-demo"), encoded(secret))
    elif how == "basic, lower case":
        headers = {"authorization": headers["authorization"].replace("Basic", "basic")}
    elif how == "basic and client_id":
        form = {"client_id": "kiwi-demo"}
    elif how == "post":
        form, headers = {"client_id": "kiwi-demo", "client_secret": secret}, {}
    async with world.tab() as tab:
        asked = world.asked()
        came = await tab.log_in(asked, ALICE)
        form |= {
            "grant_type": "authorization_code",
            "code": came.parameters["code"],
            "redirect_uri": asked.client.redirect_uri,
            "code_verifier": asked.verifier,
        }
        answer = await tab.post("/oauth2/token", form, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["pragma"] == "no-cache"
        assert answer.headers["access-control-allow-origin"] == "*"
        got = answer.json()
        assert (got["token_type"], got["expires_in"]) == ("Bearer", 900)
        assert set(got) == {"access_token", "token_type", "expires_in", "scope", "refresh_token", "id_token"}


async def test_the_request_of_the_mission(world: World) -> None:
    """A public client without PKCE gets tokens for grant_type, code, redirect_uri and client_id and nothing else."""
    async with world.tab() as tab:
        asked = world.asked(world.public, code_challenge=None, code_challenge_method=None)
        came = await tab.log_in(asked, BOB)
        form = {
            "grant_type": "authorization_code",
            "code": came.parameters["code"],
            "redirect_uri": world.public.redirect_uri,
            "client_id": world.public.client_id,
        }
        answer = await tab.post("/oauth2/token", form)
        assert answer.status_code == 200, answer.text
        claims = world.verified(answer.json()["id_token"], audience=world.public.client_id)
        assert (claims["preferred_username"], claims["nonce"]) == ("bob@localhost", asked.nonce)
        await tab.assert_alive(world.public, answer.json())


async def test_refused_clients_may_try_again(world: World) -> None:
    """Wrong, missing, doubled or unreadable credentials are refused, and use up neither the code nor the refresh token."""
    async with world.tab() as tab:
        asked = world.asked()
        came = await tab.log_in(asked, ALICE)
        code = {
            "grant_type": "authorization_code",
            "code": came.parameters["code"],
            "redirect_uri": asked.client.redirect_uri,
            "code_verifier": asked.verifier,
        }
        secret = world.demo.secret or ""

        async def check(form: dict[str, str]) -> None:
            for headers in (
                basic("kiwi-demo", "wrong-secret"),
                basic("kiwi-demo", ""),
                basic("kiwi-demo", secret + ":"),
                basic("nobody", secret),
                basic("KIWI-DEMO", secret),
                basic("", ""),
                {"authorization": "Basic"},
                {"authorization": "Basic ???"},
                {"authorization": "Basic " + base64.b64encode(b"\xff\xfe:x").decode()},
            ):
                answer = await tab.post("/oauth2/token", form, headers=headers)
                if answer.status_code == 400:  # another client's name beside this one's code
                    assert refused(answer, "invalid_grant")
                    continue
                assert refused(answer, "invalid_client", 401)
            assert refused(await tab.post("/oauth2/token", form), "invalid_client", 401)
            assert refused(await tab.post("/oauth2/token", {**form, "client_id": "kiwi-demo"}), "invalid_client", 401)
            wrong = {**form, "client_id": "kiwi-demo", "client_secret": "wrong-secret"}
            assert refused(await tab.post("/oauth2/token", wrong), "invalid_client", 401)
            twice = {**form, "client_secret": secret}
            assert refused(await tab.post("/oauth2/token", twice, headers=basic("kiwi-demo", secret)), "invalid_request")
            other = {**form, "client_id": "flow-other"}
            assert refused(await tab.post("/oauth2/token", other, headers=basic("kiwi-demo", secret)), "invalid_request")

        await check(code)
        tokens = await tab.post("/oauth2/token", code, world.demo)
        assert tokens.status_code == 200
        await check({"grant_type": "refresh_token", "refresh_token": tokens.json()["refresh_token"]})
        assert (await tab.refresh(world.demo, tokens.json()["refresh_token"])).status_code == 200


async def test_malformed_requests(world: World) -> None:
    """Missing, unknown and repeated parameters have their own errors; another method is 405; OPTIONS is for browsers."""
    async with world.tab() as tab:
        demo = world.demo
        assert refused(await tab.post("/oauth2/token", {"code": "x"}, demo), "invalid_request")
        assert refused(await tab.post("/oauth2/token", {"grant_type": "authorization_code"}, demo), "invalid_request")
        assert refused(await tab.post("/oauth2/token", {"grant_type": "refresh_token"}, demo), "invalid_request")
        assert refused(await tab.post("/oauth2/token", {"grant_type": "password"}, demo), "unsupported_grant_type")
        twice = "grant_type=refresh_token&grant_type=refresh_token&refresh_token=x"
        answer = await tab.http.post("/oauth2/token", content=twice, headers=FORM, auth=demo.auth)
        assert refused(answer, "invalid_request")
        for junk in ("junk", "kiwi-", "kiwi-" + "A" * 200, "kiwi-" + "A" * 30000, "kiwi-ü"):
            form = {"grant_type": "authorization_code", "code": junk, "redirect_uri": demo.redirect_uri}
            assert refused(await tab.post("/oauth2/token", form, demo), "invalid_grant")
            assert refused(await tab.refresh(demo, junk), "invalid_grant")
        preflight = await tab.http.options("/oauth2/token", headers={"origin": "https://spa.example"})
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "*"
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "authorization" in preflight.headers["access-control-allow-headers"]


# -- codes ----------------------------------------------------------------------------------------------------------------------


async def test_a_code_works_once(world: World) -> None:
    """The second use of a code is refused, and ends the session that the first one gave (RFC 6749 §4.1.2)."""
    async with world.tab() as tab:
        asked = world.asked()
        came = await tab.log_in(asked, ALICE)
        tokens = (await tab.redeem(asked, came)).json()
        bystander = await tab.more_tokens(world.asked())
        await tab.assert_alive(world.demo, tokens)
        assert refused(await tab.redeem(asked, came), "invalid_grant")
        await tab.assert_dead(world.demo, tokens)
        await tab.assert_alive(world.demo, bystander)
        assert refused(await tab.redeem(asked, came), "invalid_grant")


async def test_a_code_sent_twice_at_once(world: World) -> None:
    """Of ten exchanges of one code at the same moment one gets tokens, and they are as dead as after any other replay."""
    async with world.tab() as tab:
        asked = world.asked()
        came = await tab.log_in(asked, ALICE)
        answers: list[httpx.Response] = []

        async def redeem() -> None:
            answers.append(await tab.redeem(asked, came))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(redeem)
        assert sorted(answer.status_code for answer in answers) == [200] + [400] * 9
        (won,) = [answer.json() for answer in answers if answer.status_code == 200]
        await tab.assert_dead(world.demo, won)


async def test_a_wrong_secret_at_the_same_moment(world: World) -> None:
    """Whoever tries a code with a wrong secret while its client exchanges it is refused, and the client gets what is its own."""
    async with world.tab() as tab:
        asked = world.asked()
        came = await tab.log_in(asked, ALICE)
        stranger = Asked(Client("kiwi-demo", "wrong-secret", asked.client.redirect_uri), verifier=asked.verifier)
        answers: dict[str, list[httpx.Response]] = {"stranger": [], "client": []}

        async def redeem(who: str) -> None:
            answers[who].append(await tab.redeem(stranger if who == "stranger" else asked, came))

        async with trio.open_nursery() as nursery:
            for who in ("stranger", "stranger", "client", "stranger", "stranger"):
                nursery.start_soon(redeem, who)
        (got,) = answers["client"]
        assert got.status_code == 200, got.text
        assert all(refused(answer, "invalid_client", 401) for answer in answers["stranger"])
        await tab.assert_alive(world.demo, got.json())


async def test_a_code_is_bound(world: World) -> None:
    """A code is good for its own client and its own redirect URI only; what was refused so can still be exchanged properly."""
    async with world.tab() as tab:
        asked = world.asked()
        came = await tab.log_in(asked, ALICE)
        as_other = Asked(Client(world.other.client_id, world.other.secret, asked.client.redirect_uri), verifier=asked.verifier)
        assert refused(await tab.redeem(as_other, came), "invalid_grant")
        as_public = Asked(Client(world.public.client_id, None, asked.client.redirect_uri), verifier=asked.verifier)
        assert refused(await tab.redeem(as_public, came), "invalid_grant")
        for uri in ("https://app.localhost/callback/", "https://evil.example/", "x", world.other.redirect_uri):
            assert refused(await tab.redeem(asked, came, redirect_uri=uri), "invalid_grant")
        assert (await tab.redeem(asked, came)).status_code == 200


async def test_redirect_uri_may_be_left_out_with_pkce_only(world: World) -> None:
    """RFC 6749 §4.1.3 wants the redirect_uri again, OAuth 2.1 does not: without it only where PKCE binds the code."""
    async with world.tab() as tab:
        asked = world.asked()
        assert (await tab.redeem(asked, await tab.log_in(asked, ALICE), redirect_uri=None)).status_code == 200
        plain = world.asked(code_challenge=None, code_challenge_method=None)
        came = arrived(await tab.authorize(plain))
        assert refused(await tab.redeem(plain, came, redirect_uri=None), "invalid_grant")
        assert (await tab.redeem(plain, came)).status_code == 200


async def test_an_old_code(world: World) -> None:
    """A code that has expired is refused, and so is a box that was sealed for another purpose."""
    places = world.places
    key_set = keys.load(places.jwt_private_key, places.jwt_public_key, places.config.parent / "none")
    codes, states = Sealer("authorization code", key_set), Sealer("authorization state", key_set)
    async with world.tab() as tab:
        asked = world.asked()
        came = await tab.log_in(asked, ALICE)
        box = codes.open(came.parameters["code"].removeprefix("kiwi-"))
        for code in (codes.seal(box, lifetime=-1), states.seal(box, lifetime=60)):
            came.parameters["code"] = "kiwi-" + code
            assert refused(await tab.redeem(asked, came), "invalid_grant")
        came.parameters["code"] = "kiwi-" + codes.seal(box, lifetime=60)
        assert (await tab.redeem(asked, came)).status_code == 200


# -- client credentials ---------------------------------------------------------------------------------------------------------


async def test_client_credentials(world: World) -> None:
    """A client gets a JWT for itself, without refresh or ID token or claims; introspection knows it, revocation ends it."""
    async with world.tab() as tab:
        answer = await tab.post("/oauth2/token", {"grant_type": "client_credentials"}, world.demo)
        assert answer.status_code == 200, answer.text
        got = answer.json()
        assert not {"refresh_token", "id_token"} & set(got)
        assert jwt.get_unverified_header(got["access_token"])["typ"] == "at+jwt"
        claims = world.verified(got["access_token"])
        assert (claims["sub"], claims["client_id"], claims["aud"]) == ("kiwi-demo",) * 3
        assert not {"auth_time", "sid", "email", "groups", "name"} & set(claims)
        told = await tab.introspect(world.demo, got["access_token"])
        assert (told["active"], told["client_id"], told["sub"]) == (True, "kiwi-demo", "kiwi-demo")
        userinfo = await tab.userinfo(got["access_token"])
        assert userinfo.status_code == 403
        assert 'error="insufficient_scope"' in userinfo.headers["www-authenticate"]
        assert (await tab.post("/oauth2/revoke", {"token": got["access_token"]}, world.demo)).status_code == 200
        assert await tab.introspect(world.demo, got["access_token"]) == {"active": False}


async def test_a_scope_of_nothing_is_left_out(world: World) -> None:
    """A scope has one token or more (RFC 6749 §3.3): for a client without any there is none, in answer, token, introspection."""
    async with world.tab() as tab:
        got = (await tab.post("/oauth2/token", {"grant_type": "client_credentials"}, world.demo)).json()
        for told in (got, world.verified(got["access_token"]), await tab.introspect(world.demo, got["access_token"])):
            assert told.get("scope") != ""
            assert "scope" not in told


async def test_client_credentials_refused(world: World) -> None:
    """Not for a public client, not with a wrong secret, not for scopes that the client does not have, not in capitals."""
    async with world.tab() as tab:
        form = {"grant_type": "client_credentials"}
        assert refused(await tab.post("/oauth2/token", form, world.public), "unauthorized_client")
        assert refused(await tab.post("/oauth2/token", form, headers=basic("kiwi-demo", "wrong")), "invalid_client", 401)
        assert refused(await tab.post("/oauth2/token", {**form, "scope": "openid"}, world.demo), "invalid_scope")
        headers = basic("KIWI-DEMO", world.demo.secret or "")
        assert refused(await tab.post("/oauth2/token", form, headers=headers), "invalid_client", 401)
        headers = basic(quote("kiwi-demo/../x", safe=""), "y")
        assert refused(await tab.post("/oauth2/token", form, headers=headers), "invalid_client", 401)


# -- what is refused in the words of RFC 6749 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_other_methods(world: World, method: str) -> None:
    """405, with the methods that there are, in JSON (RFC 9110 §15.5.6, RFC 6749 §3.2)."""
    async with world.tab() as tab:
        answer = await tab.http.request(method, "/oauth2/token")
        assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")
        assert answer.json()["error"] == "invalid_request"
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "multipart/form-data; boundary=x", None])
async def test_other_content_types(world: World, kind: str | None) -> None:
    """A body that is no form is an invalid_request in JSON, whatever is in it."""
    body = b'{"grant_type":"authorization_code","code":"gAAAAABm"}'
    async with world.tab() as tab:
        headers = {} if kind is None else {"content-type": kind}
        assert refused(await tab.http.post("/oauth2/token", content=body, headers=headers), "invalid_request")


async def test_tokens_that_are_no_refresh_tokens(world: World) -> None:
    """Our own access and ID token, and what only looks like one of Kanidm's, are an invalid_grant, as a code, too."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        for sent in (tokens["access_token"], tokens["id_token"], "eyJ", "eyJhbGciOiJkaXIifQ.e30.x", "gAAAA", "gAAAA" + "x" * 40):
            assert refused(await tab.refresh(world.demo, sent), "invalid_grant")
            form = {"grant_type": "authorization_code", "code": sent, "redirect_uri": world.demo.redirect_uri}
            assert refused(await tab.post("/oauth2/token", form, world.demo), "invalid_grant")
        await tab.assert_alive(world.demo, tokens)


async def test_who_one_is_comes_before_what_one_has(world: World) -> None:
    """A confidential client without its secret, or with a wrong one, is told so, whatever it carries (RFC 6749 §3.2.1, §5.2)."""
    async with world.tab() as tab:
        for carried in ({"code": "eyJhbGciOiJkaXIifQ.e30.x"}, {"code": "junk"}, {"code": "kiwi-AAAA"}, {"code": "gAAAA"}):
            form = {"grant_type": "authorization_code", "redirect_uri": world.demo.redirect_uri, **carried}
            assert refused(await tab.post("/oauth2/token", {**form, "client_id": "kiwi-demo"}), "invalid_client", 401)
            assert refused(await tab.post("/oauth2/token", form, headers=basic("kiwi-demo", "wrong")), "invalid_client", 401)
            assert refused(await tab.post("/oauth2/token", form, headers=basic("nobody", "wrong")), "invalid_client", 401)
            assert refused(await tab.post("/oauth2/token", {**form, "client_id": world.public.client_id}), "invalid_grant")


async def test_a_public_client_has_no_secret(world: World) -> None:
    """One that is sent all the same is a wrong one, at every endpoint and for every grant; an empty one is none."""
    name = world.public.client_id
    async with world.tab() as tab:
        asked = world.asked(world.public)
        came = await tab.log_in(asked, ALICE)
        code = {
            "grant_type": "authorization_code",
            "code": came.parameters["code"],
            "redirect_uri": world.public.redirect_uri,
            "code_verifier": asked.verifier,
        }

        async def check(path: str, form: dict[str, str]) -> None:
            assert refused(await tab.post(path, form, headers=basic(name, "guessed")), "invalid_client", 401)
            wrong = {**form, "client_id": name, "client_secret": "guessed"}
            assert refused(await tab.post(path, wrong), "invalid_client", 401)

        await check("/oauth2/token", code)
        answer = await tab.post("/oauth2/token", code, headers=basic(name, ""))
        assert answer.status_code == 200, answer.text
        tokens = answer.json()
        await check("/oauth2/token", {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]})
        await check("/oauth2/token", {"grant_type": "client_credentials"})
        await check("/oauth2/introspect", {"token": tokens["access_token"]})
        await check("/oauth2/revoke", {"token": tokens["access_token"]})
        await tab.assert_alive(world.public, tokens)
