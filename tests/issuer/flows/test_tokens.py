"""What the tokens hold, and that one public key is enough to check them: RS256, ES256 and EdDSA."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest

from kiwi_id.instance import layout
from kiwi_id.instance.keys import Kind
from tests.issuer.flows.tab import Tab
from tests.issuer.flows.world import ALICE, PROTOCOL_CLAIMS, World


def header(token: str) -> dict[str, Any]:
    """Return a token's header, unchecked."""
    found: dict[str, Any] = jwt.get_unverified_header(token)
    return found


async def by_jwks(tab: Tab, token: str, audience: str = "kiwi-demo") -> dict[str, Any]:
    """Check a token with the published key set, found by discovery, as a relying party does."""
    discovery = (await tab.http.get("/.well-known/openid-configuration")).json()
    answer = await tab.http.get(discovery["jwks_uri"].removeprefix(discovery["issuer"]))
    key = jwt.PyJWKSet.from_dict(answer.json())[header(token)["kid"]]
    algorithms = discovery["id_token_signing_alg_values_supported"]
    claims: dict[str, Any] = jwt.decode(token, key, algorithms=algorithms, audience=audience, issuer=discovery["issuer"])
    return claims


async def test_id_token(world: World) -> None:
    """Every claim of the ID token, checked by the one public key file and by the key set: what there is, and nothing else."""
    async with world.tab() as tab:
        asked = world.asked()
        tokens = await tab.tokens(asked, ALICE)
        claims = world.verified(tokens["id_token"])
        assert claims == await by_jwks(tab, tokens["id_token"])
        assert header(tokens["id_token"])["typ"] == "JWT"
        now = time.time()
        assert abs(claims["iat"] - now) < 60
        assert claims["exp"] - claims["iat"] == 900
        assert abs(claims["auth_time"] - now) < 60
        me = await tab.http.get("/v1/self/_uat", headers={"authorization": "Bearer " + tab.cookies["bearer"]})
        session = me.json()
        assert (claims["sub"], claims["sid"]) == (session["uuid"], session["session_id"])
        assert int(session["issued_at"]) == claims["auth_time"]
        told = {name: claims[name] for name in ("iss", "aud", "azp", "nonce", "name", "preferred_username", "email")}
        assert told == {
            "iss": world.issuer,
            "aud": "kiwi-demo",
            "azp": "kiwi-demo",
            "nonce": asked.nonce,
            "name": "Alice Demo",
            "preferred_username": "alice@localhost",
            "email": "alice@example.com",
        }
        assert claims["email_verified"] is True
        known = {"sub", "sid", "iat", "exp", "auth_time", "at_hash", "email_verified", "groups"} | set(told)
        assert set(claims) - known <= {"updated_at"}
        assert len(tokens["id_token"]) < 3072


async def test_access_token(world: World) -> None:
    """The access token is an RFC 9068 JWT of at most 3 KB that a service can check by itself; Kanidm's own is sealed inside."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        token = tokens["access_token"]
        claims = world.verified(token)
        assert claims == await by_jwks(tab, token)
        assert header(token)["typ"] == "at+jwt"
        assert set(header(token)) == {"alg", "kid", "typ"}
        same = world.verified(tokens["id_token"])
        for name in ("iss", "sub", "aud", "sid", "auth_time", "name", "preferred_username", "email", "email_verified", "groups"):
            assert claims[name] == same[name], name
        assert claims["client_id"] == "kiwi-demo"
        assert set(claims["scope"].split()) == {"openid", "profile", "email", "groups"} == set(tokens["scope"].split())
        assert claims["exp"] - claims["iat"] == tokens["expires_in"] == 900
        assert claims["jti"] != world.verified((await tab.more_tokens(world.asked()))["access_token"])["jti"]
        assert "nonce" not in claims
        # Neither Kanidm's token nor what is in it can be read.
        assert "eyJ" not in claims["kiwi"]
        assert len(token) <= 3072
        assert len(tokens["refresh_token"]) <= 3072


async def test_scopes_decide_what_is_told(world: World) -> None:
    """Without email, profile or groups in the scope those claims are neither in the tokens nor in userinfo."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(scope="openid"), ALICE)
        told = (world.verified(tokens["id_token"]), world.verified(tokens["access_token"]))
        for claims in (*told, (await tab.userinfo(tokens["access_token"])).json()):
            assert not {"email", "email_verified", "groups"} & set(claims)


async def test_without_openid(world: World) -> None:
    """Without the scope openid it is plain OAuth 2.0: an access token, no ID token, and no userinfo."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(scope="email groups"), ALICE)
        assert "id_token" not in tokens
        assert world.verified(tokens["access_token"])["sub"]
        answer = await tab.userinfo(tokens["access_token"])
        assert answer.status_code == 403
        assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
        assert (await tab.introspect(world.demo, tokens["access_token"]))["active"] is True
        assert "id_token" not in (await tab.refresh(world.demo, tokens["refresh_token"])).json()


async def test_claim_map_is_kept(world: World) -> None:
    """A claim map of the client's in Kanidm comes through as it is: in the ID token and in userinfo."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(world.other), ALICE)
        claims = world.verified(tokens["id_token"], audience="flow-other")
        assert sorted(claims["role"]) == ["reader", "writer"]
        assert sorted((await tab.userinfo(tokens["access_token"])).json()["role"]) == ["reader", "writer"]


async def test_a_claim_map_takes_no_claim_of_ours(world: World) -> None:
    """One that is called ``sub`` or ``exp`` or like another claim of the protocol changes none of them, in whatever is told."""
    async with world.tab() as tab:
        asked = world.asked(world.mapped)
        tokens = await tab.tokens(asked, ALICE)
        plain = world.verified((await tab.more_tokens(world.asked()))["id_token"])
        claims = world.verified(tokens["id_token"], audience="flow-mapped")
        access = world.verified(tokens["access_token"], audience="flow-mapped")
        userinfo = (await tab.userinfo(tokens["access_token"])).json()
        introspected = await tab.introspect(world.mapped, tokens["access_token"])
        for told in (claims, access, userinfo, introspected):
            assert told["sub"] == plain["sub"]
            assert not [name for name in PROTOCOL_CLAIMS if told.get(name) in ("mapped", ["mapped"])]
        assert (claims["nonce"], claims["sid"]) == (asked.nonce, plain["sid"])
        assert set(userinfo) & set(PROTOCOL_CLAIMS) == {"sub"}


async def test_groups_by_name(world: World) -> None:
    """By default each group is there once, by its plain name."""
    async with world.tab() as tab:
        claims = world.verified((await tab.tokens(world.asked(), ALICE))["id_token"])
        assert {"kiwi_users", "mail_users"} <= set(claims["groups"])
        assert len(claims["groups"]) == len(set(claims["groups"]))
        assert not any("@" in group or group.count("-") == 4 for group in claims["groups"])


@pytest.mark.parametrize("form", ["spn", "uuid"])
async def test_groups_as_configured(world: World, form: str) -> None:
    """groups_claim in config.toml names groups by SPN or by UUID instead, in both tokens and in userinfo, each once."""
    replica = await world.replica(settings=[f'groups_claim = "{form}"'])
    async with world.rest_as_admin() as rest:
        group = await rest.get("group", "mail_users")
    assert group is not None
    wanted = "mail_users@localhost" if form == "spn" else group["uuid"][0]
    async with world.tab(replica) as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        userinfo = (await tab.userinfo(tokens["access_token"])).json()
        for claims in (world.verified(tokens["id_token"]), world.verified(tokens["access_token"]), userinfo):
            assert wanted in claims["groups"]
            assert all(("@" in name) is (form == "spn") for name in claims["groups"])
            assert len(claims["groups"]) == len(set(claims["groups"]))


@pytest.mark.parametrize(("kind", "algorithm", "digest"), [("es256", "ES256", "sha256"), ("eddsa", "EdDSA", "sha512")])
async def test_other_keys(world: World, kind: Kind, algorithm: str, digest: str) -> None:
    """An instance with a P-256 or Ed25519 key signs everything with it, says so in discovery, and computes at_hash by it."""
    replica = await world.replica(kind=kind)
    public = layout.Places.under(replica.directory).jwt_public_key
    async with world.tab(replica) as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        discovery = (await tab.http.get("/.well-known/openid-configuration")).json()
        assert discovery["id_token_signing_alg_values_supported"] == [algorithm]
        for name in ("id_token", "access_token"):
            assert header(tokens[name])["alg"] == algorithm
            assert world.verified(tokens[name], public) == await by_jwks(tab, tokens[name])
        assert world.verified(tokens["id_token"], public)["at_hash"] == at_hash(tokens["access_token"], digest)
        assert len(tokens["access_token"]) <= 3072
        await tab.assert_alive(world.demo, (await tab.refresh(world.demo, tokens["refresh_token"])).json())
    # Tokens of another key are none of this issuer's.
    async with world.tab() as tab:
        assert (await tab.userinfo(tokens["access_token"])).status_code == 401
        assert await tab.introspect(world.demo, tokens["access_token"]) == {"active": False}
        assert (await tab.refresh(world.demo, tokens["refresh_token"])).json()["error"] == "invalid_grant"


async def test_at_hash(world: World) -> None:
    """at_hash is the left half of the access token's SHA-256 for RS256, at the first exchange and at a refresh."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        assert header(tokens["id_token"])["alg"] == "RS256"
        for answer in (tokens, (await tab.refresh(world.demo, tokens["refresh_token"])).json()):
            assert world.verified(answer["id_token"])["at_hash"] == at_hash(answer["access_token"], "sha256")


def at_hash(access: str, digest: str) -> str:
    """Return what OIDC Core §3.1.3.6 says."""
    whole = hashlib.new(digest, access.encode()).digest()
    return base64.urlsafe_b64encode(whole[: len(whole) // 2]).decode().rstrip("=")


async def test_forged_tokens(world: World) -> None:
    """No token passes at userinfo that was not signed by this issuer as an access token: changed, unsigned, of another type."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        head, body, signature = tokens["access_token"].split(".")

        def packed(content: dict[str, Any]) -> str:
            return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

        claims = world.verified(tokens["access_token"])
        public = world.places.jwt_public_key.read_bytes()
        confused = packed({**header(tokens["access_token"]), "alg": "HS256"}) + "." + body
        mac = base64.urlsafe_b64encode(hmac.digest(public, confused.encode(), "sha256")).decode().rstrip("=")
        for forged in (
            tokens["id_token"],
            tokens["refresh_token"],
            tab.cookies["bearer"],
            f"{head}.{packed({**claims, 'exp': claims['exp'] + 9000})}.{signature}",
            f"{packed({**header(tokens['access_token']), 'alg': 'none'})}.{body}.",
            f"{confused}.{mac}",
            f"{head}.{body}.{signature[:-8]}AAAAAAAA",
            claims["kiwi"],
            "a.b.c",
        ):
            answer = await tab.userinfo(forged)
            assert answer.status_code == 401, forged
            assert answer.headers["www-authenticate"].startswith("Bearer realm=")
            if forged != tokens["refresh_token"]:  # that one is a live token, only not for userinfo
                assert await tab.introspect(world.demo, forged) == {"active": False}
