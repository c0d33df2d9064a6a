"""What is asked about tokens: userinfo, introspection and revocation; and that an ended session is dead at all three at once."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kiwi_id.kanidm.rest import Kanidm
from tests.issuer.flows.checks import basic, refused
from tests.issuer.flows.tab import Client, Person, Tab, arrived
from tests.issuer.flows.world import ALICE, World

FORM = {"content-type": "application/x-www-form-urlencoded"}


# -- userinfo -------------------------------------------------------------------------------------------------------------------


async def test_userinfo(world: World) -> None:
    """GET and POST, the token in the header or in a form, all tell the same, and what the ID token told; browsers may ask."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        access = tokens["access_token"]
        bearer = {"authorization": f"Bearer {access}"}
        answers = [
            await tab.http.get("/oauth2/userinfo", headers=bearer),
            await tab.http.get("/oauth2/userinfo", headers={"authorization": f"bearer {access}"}),
            await tab.http.post("/oauth2/userinfo", headers=bearer),
            await tab.http.post("/oauth2/userinfo", data={"access_token": access}),
            # The header counts whatever the body is (RFC 6750 §2.1).
            await tab.http.post("/oauth2/userinfo", headers=bearer, json={"claims": ["email"]}),
            await tab.http.post("/oauth2/userinfo", headers=bearer, content=b"\xff"),
        ]
        for answer in answers:
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["access-control-allow-origin"] == "*"
            assert answer.json() == answers[0].json()
        claims = world.verified(tokens["id_token"])
        told = answers[0].json()
        assert {"sub", "name", "preferred_username", "email", "email_verified", "groups"} <= set(told)
        told.pop("updated_at", None)  # Kanidm 1.10 counts each login as a change of the account
        assert told == {name: claims[name] for name in told}
        preflight = await tab.http.options("/oauth2/userinfo", headers={"origin": "https://spa.example"})
        assert preflight.status_code == 204


async def test_userinfo_refused(world: World) -> None:
    """Without a token the bare challenge (RFC 6750 §3.1), with two or a malformed form 400; one in the query counts for nothing."""
    async with world.tab() as tab:
        access = (await tab.tokens(world.asked(), ALICE))["access_token"]
        for bare in (
            await tab.http.get("/oauth2/userinfo"),
            await tab.http.get("/oauth2/userinfo", params={"access_token": access}),
            await tab.http.get("/oauth2/userinfo", headers=basic("kiwi-demo", "x")),
            await tab.http.post("/oauth2/userinfo"),
            await tab.http.post("/oauth2/userinfo", json={"access_token": access}),
        ):
            assert bare.status_code == 401
            assert bare.headers["www-authenticate"] == 'Bearer realm="Kiwi ID"'
        bearer = {"authorization": f"Bearer {access}"}
        twice = await tab.http.post("/oauth2/userinfo", headers=bearer, data={"access_token": access})
        doubled = await tab.http.post("/oauth2/userinfo", content=f"access_token={access}&access_token={access}", headers=FORM)
        for wrong in (twice, doubled):
            assert wrong.status_code == 400
            assert 'error="invalid_request"' in wrong.headers["www-authenticate"]
        assert (await tab.http.put("/oauth2/userinfo", headers=bearer)).status_code == 405


# -- introspection --------------------------------------------------------------------------------------------------------------


async def test_introspection(world: World) -> None:
    """The token's own client, another one, and a public one learn the same of a live access token (RFC 7662 §2.2)."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        claims = world.verified(tokens["access_token"])
        for client in (world.demo, world.other, world.public):
            told = await tab.introspect(client, tokens["access_token"])
            assert told == {
                "active": True,
                "token_type": "Bearer",
                "username": "alice@localhost",
                **{name: claims[name] for name in ("scope", "client_id", "sub", "aud", "iss", "exp", "iat", "jti")},
            }
        hinted = {"token": tokens["access_token"], "token_type_hint": "refresh_token"}
        assert (await tab.post("/oauth2/introspect", hinted, world.demo)).json()["active"] is True
        answer = await tab.post("/oauth2/token/introspect", {"token": tokens["access_token"]}, world.demo)
        assert answer.json()["iss"] == world.issuer
        assert answer.headers["cache-control"] == "no-store"


async def test_introspection_of_a_public_clients_token(world: World) -> None:
    """A public client's token is known to be active by the client itself and by a service that has credentials."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(world.public), ALICE)
        for client in (world.public, world.demo):
            told = await tab.introspect(client, tokens["access_token"])
            assert (told["active"], told["client_id"]) == (True, world.public.client_id)


async def test_introspection_of_a_refresh_token(world: World) -> None:
    """A refresh token is active for its own client, and nothing at all for another."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        told = await tab.introspect(world.demo, tokens["refresh_token"])
        assert told == {"active": True, "client_id": "kiwi-demo", "iss": world.issuer}
        assert await tab.introspect(world.other, tokens["refresh_token"]) == {"active": False}
        assert await tab.introspect(world.public, tokens["refresh_token"]) == {"active": False}


async def test_introspection_and_revocation_refused(world: World) -> None:
    """Both demand a client that Kanidm knows, with its right secret, and exactly one token; junk is inactive, and revoked."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        for path in ("/oauth2/introspect", "/oauth2/revoke"):
            for token in (tokens["access_token"], tokens["refresh_token"], "junk"):
                form = {"token": token}
                assert refused(await tab.post(path, form), "invalid_client", 401)
                for name, secret in (("kiwi-demo", "wrong"), ("kiwi-demo", ""), ("nobody", "x")):
                    answer = await tab.post(path, form, headers=basic(name, secret))
                    if name == "nobody" and answer.status_code == 400:  # it is not this client's token
                        assert refused(answer, "invalid_grant")
                        continue
                    assert refused(answer, "invalid_client", 401)
                assert refused(await tab.post(path, {**form, "client_id": "kiwi-demo"}), "invalid_client", 401)
            assert refused(await tab.post(path, {"x": "y"}, world.demo), "invalid_request")
            doubled = await tab.http.post(path, content="token=a&token=b", headers=FORM, auth=world.demo.auth)
            assert refused(doubled, "invalid_request")
            assert (await tab.http.get(path)).status_code == 405
            assert (await tab.post(path, {"token": "junk"}, world.demo)).status_code == 200
        assert await tab.introspect(world.demo, "junk") == {"active": False}
        await tab.assert_alive(world.demo, tokens)


# -- revocation -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/oauth2/revoke", "/oauth2/token/revoke"])
@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
@pytest.mark.parametrize("client", ["demo", "public"])
async def test_revocation(world: World, which: str, path: str, client: str) -> None:
    """Revoking either token ends that session everywhere at once, and no other; another client cannot; twice does no harm."""
    chosen: Client = getattr(world, client)
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(chosen), ALICE)
        bystander = await tab.more_tokens(world.asked(chosen))
        assert refused(await tab.post(path, {"token": tokens[which]}, world.other), "invalid_grant")
        await tab.assert_alive(chosen, tokens)
        for _ in range(2):
            answer = await tab.post(path, {"token": tokens[which]}, chosen)
            assert answer.status_code == 200, answer.text
            await tab.assert_dead(chosen, tokens)
        await tab.assert_alive(chosen, bystander)


# -- a session that ends in Kanidm -------------------------------------------------------------------------------------------------


async def _two_clients(world: World, tab: Tab, person: Person) -> list[tuple[Client, dict[str, Any]]]:
    return [
        (world.demo, await tab.tokens(world.asked(), person)),
        (world.public, await tab.more_tokens(world.asked(world.public))),
    ]


@pytest.mark.parametrize("path", ["/ui/logout", "/v1/logout", "/v1/account"])
async def test_ended_by_the_user(world: World, path: str) -> None:
    """A logout in Kanidm's UI or API, or this session deleted from elsewhere, ends what each client got from it, and no more."""
    async with world.tab() as tab, world.tab() as elsewhere, world.instance.rest() as rest:
        held = await _two_clients(world, tab, ALICE)
        bystander = await elsewhere.tokens(world.asked(), ALICE)
        if path == "/ui/logout":
            await tab.send("GET", path)
        elif path == "/v1/account":
            await rest.login(ALICE.name, ALICE.password)
            sid = world.verified(held[0][1]["id_token"])["sid"]
            await rest.call("DELETE", f"/v1/account/{ALICE.name}/_user_auth_token/{sid}")
        else:
            await tab.http.get(path, headers={"authorization": "Bearer " + tab.cookies["bearer"]})
        for client, tokens in held:
            await tab.assert_dead(client, tokens)
        await tab.assert_alive(world.demo, bystander)


async def _expire_account(rest: Kanidm, person: Person) -> None:
    past = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - 60))
    await rest.call("PUT", f"/v1/person/{person.name}/_attr/account_expire", [past])


async def _delete_account(rest: Kanidm, person: Person) -> None:
    await rest.call("DELETE", f"/v1/person/{person.name}")


@pytest.mark.parametrize("end", [_expire_account, _delete_account], ids=lambda end: end.__name__[1:])
async def test_ended_by_an_administrator(world: World, end: Any) -> None:
    """An administrator who expires or deletes the account ends all its tokens at once.

    Neither version lets an administrator delete one session of somebody else (measured: nomatchingentries).
    """
    person = await world.person(f"leaver{end.__name__.replace('_', '-')}")
    async with world.tab() as tab, world.rest_as_admin() as rest:
        held = await _two_clients(world, tab, person)
        for client, tokens in held:
            await tab.assert_alive(client, tokens)
        await end(rest, person)
        for client, tokens in held:
            await tab.assert_dead(client, tokens)


@pytest.mark.parametrize("path", ["/ui/logout", "/oauth2/logout"])
async def test_a_code_dies_with_its_session(world: World, path: str) -> None:
    """A code that was not exchanged yet gives nothing any more once the session that it came from has ended."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        asked = world.asked()
        came = arrived(await tab.ask(asked))
        await tab.send("GET", path, params={"id_token_hint": tokens["id_token"]})
        answer = await tab.redeem(asked, came)
        if answer.status_code == 200:  # Kanidm looks at the session only when the tokens are used
            await tab.assert_dead(world.demo, answer.json())
        else:
            assert refused(answer, "invalid_grant")
