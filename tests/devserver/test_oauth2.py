"""OAuth2 beyond the recordings; each test runs over the stand-in and, where there is one, over the real kanidmd 1.5.0."""

from typing import Any

import jwt
import pytest

from .client import CHALLENGE, REDIRECT, VERIFIER, Kanidm, parameters
from .servers import Server


async def test_authorization_is_checked_before_anyone_logs_in(kanidm: Server) -> None:
    """The JSON API says 401 for a good request without a session and 400 for a bad client, redirect URI or PKCE."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        assert (await client.authorise(None)).status_code == 401
        assert (await client.authorise(None, scope="nonsense")).status_code == 401
        changes: tuple[dict[str, str | None], ...] = (
            {"client_id": "nobody"},
            {"redirect_uri": "https://evil.example/"},
            {"redirect_uri": REDIRECT + "/more"},
            {"code_challenge": None},
            {"code_challenge_method": "plain"},
            {"response_type": "token"},
        )
        for change in changes:
            answer = await client.authorise(None, **change)
            assert (answer.status_code, answer.content) == (400, b""), change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": None}, "missing field `state`"),
        ({"scope": None}, "missing field `scope`"),
        ({"response_type": "zork"}, "unknown variant `zork`, expected one of `code`, `token`, `id_token`"),
        ({"redirect_uri": "mail"}, 'relative URL without a base: "mail"'),
        ({"claims_locales": "en"}, 'invalid type: string "en", expected unit'),
        ({"max_age": "soon"}, "invalid digit found in string"),
    ],
)
async def test_parser_messages(kanidm: Server, change: dict[str, str | None], message: str) -> None:
    """What 1.5.0 cannot parse is 400 with serde's own words."""
    async with Kanidm(kanidm) as client:
        answer = await client.authorise(None, **change)
    assert (answer.status_code, answer.text) == (400, f"Failed to deserialize query string: {message}")


async def test_repeated_parameter_is_refused(kanidm: Server) -> None:
    """A parameter that comes twice is a parse error, not a choice."""
    async with kanidm.client() as client:
        answer = await client.get("/oauth2/authorise?response_type=code&client_id=mail&state=a&state=b")
    assert (answer.status_code, answer.text) == (400, "Failed to deserialize query string: duplicate field `state`")


async def test_redirect_uri_matches_exactly_without_being_told(kanidm: Server) -> None:
    """1.5.0's domain level compares whole URIs even for clients that are not marked strict; a URI's spelling is normalised."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        await client.do("PATCH", "/v1/oauth2/mail", {"attrs": {"oauth2_strict_redirect_uri": []}})
        assert (await client.authorise(None, redirect_uri="https://mail.example.com/other")).status_code == 400
        assert (await client.authorise(None, redirect_uri="https://MAIL.example.com:443/callback")).status_code == 401


async def test_consent_then_code_then_no_more_questions(kanidm: Server) -> None:
    """Consent is asked for once for each set of scopes; the answers carry state, also as a fragment, and by cookie."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        bearer = await client.login("alice", client.password)
        headers = {"authorization": f"Bearer {bearer}"}
        asked = (await client.authorise(bearer)).json()["ConsentRequested"]
        assert {name: asked[name] for name in ("client_name", "scopes", "pii_scopes")} == {
            "client_name": "Mail",
            "scopes": ["openid"],
            "pii_scopes": [],
        }
        rejected = await client.http.get("/oauth2/authorise/reject", params={"token": asked["consent_token"]}, headers=headers)
        assert rejected.status_code == 200
        assert parameters(rejected) == {"error": "access_denied", "error_description": "authorisation rejected"}
        permitted = await client.http.post("/oauth2/authorise/permit", json=asked["consent_token"], headers=headers)
        assert permitted.status_code == 200
        assert parameters(permitted)["state"] == "a b&c"
        again = await client.authorise(bearer)
        assert (again.status_code, again.text) == (302, '"Permitted"')
        fragment = await client.authorise(bearer, response_mode="fragment")
        assert fragment.headers["location"].startswith(f"{REDIRECT}#code=")
        assert "state" not in parameters(await client.authorise(bearer, state=""))
        more = (await client.authorise(bearer, scope="openid email")).json()["ConsentRequested"]
        assert more["pii_scopes"] == ["email", "email_verified"]
        assert (await client.authorise(bearer, scope="openid groups")).status_code == 403
        by_cookie = {"response_type": "code", "client_id": "mail", "redirect_uri": REDIRECT, "scope": "openid", "state": "s"}
        by_cookie |= {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
        cookie = {"cookie": f"bearer={bearer}"}
        assert (await client.http.get("/oauth2/authorise", params=by_cookie, headers=cookie)).status_code == 302


async def test_consent_of_another_session_is_refused(kanidm: Server) -> None:
    """A consent token works only in the session that it was made for."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        first, second = [await client.login("alice", client.password) for _ in range(2)]
        ticket = {"token": (await client.authorise(first)).json()["ConsentRequested"]["consent_token"]}
        answer = await client.http.get("/oauth2/authorise/permit", params=ticket, headers={"authorization": f"Bearer {second}"})
        assert answer.status_code == 500
        assert (await client.http.get("/oauth2/authorise/permit", params=ticket)).status_code == 401


async def test_tokens_are_really_signed(kanidm: Server) -> None:
    """ID and access token verify with the client's published key, and with no other; sizes are those of the real server."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        bearer = await client.login("alice", client.password)
        code = await client.code(bearer, scope="openid email profile")
        tokens = (await client.exchange(code)).json()
        key = jwt.PyJWK((await client.http.get("/oauth2/openid/mail/public_key.jwk")).json()["keys"][0])
        issuer = "https://id.example.com/oauth2/openid/mail"
        # 1.5.0 writes `"jti": null` into access tokens, which PyJWT would refuse.
        options: Any = {"verify_jti": False}
        claims: dict[str, Any] = jwt.decode(tokens["id_token"], key, ["ES256"], audience="mail", issuer=issuer)
        assert (claims["nonce"], claims["email"], claims["name"]) == ("n1", "alice@example.com", "Alice")
        assert claims["exp"] - claims["iat"] == tokens["expires_in"] == 900
        access: dict[str, Any] = jwt.decode(tokens["access_token"], key, ["ES256"], options, audience="mail", issuer=issuer)
        assert access["sub"] == claims["sub"]
        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(bearer, key, ["ES256"], options={"verify_aud": False})
        assert 300 <= len(tokens["refresh_token"]) <= 600
        assert 350 <= len(code) <= 700


async def test_pkce_is_enforced_and_codes_are_not_single_use(kanidm: Server) -> None:
    """The verifier must match; a code works twice, as in the real server; a code of another client does not."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        code = await client.code(await client.login("alice", client.password))
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT}
        for wrong in ({}, {"code_verifier": "w" * 43}):
            answer = await client.token(**form, **wrong)
            assert (answer.status_code, answer.json()) == (400, {"error": "invalid_request"})
        assert [(await client.exchange(code)).status_code for _ in range(2)] == [200, 200]
        other = {"name": ["other"], "displayname": ["Other"], "oauth2_rs_origin_landing": [REDIRECT]}
        await client.do("POST", "/v1/oauth2/_basic", {"attrs": other})
        secret = await client.do("GET", "/v1/oauth2/other/_basic_secret")
        stolen = {**form, "code_verifier": VERIFIER}
        answer = await client.http.post("/oauth2/token", data=stolen, auth=("other", secret))
        assert (answer.status_code, answer.json()) == (400, {"error": "invalid_request"})


async def test_pkce_can_be_switched_off_for_basic_clients(kanidm: Server) -> None:
    """Without PKCE a request passes, one with a challenge is still held to it, and discovery says so."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        off = {"attrs": {"oauth2_allow_insecure_client_disable_pkce": ["true"]}}
        await client.do("PATCH", "/v1/oauth2/mail", off)
        bearer = await client.login("alice", client.password)
        form = {"grant_type": "authorization_code", "redirect_uri": REDIRECT}
        code = await client.code(bearer, code_challenge=None, code_challenge_method=None)
        assert (await client.token(code=code, **form)).status_code == 200
        assert (await client.exchange(code)).status_code == 400
        assert (await client.token(code=await client.code(bearer), **form)).status_code == 400
        discovery = await client.http.get("/oauth2/openid/mail/.well-known/openid-configuration")
        assert discovery.json()["code_challenge_methods_supported"] == []


async def test_refresh_narrows_but_never_widens(kanidm: Server) -> None:
    """A refresh may ask for fewer scopes, not for more; an access token is no refresh token."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        bearer = await client.login("alice", client.password)
        tokens = (await client.exchange(await client.code(bearer, scope="openid email"))).json()
        wider = await client.refresh(tokens["refresh_token"], scope="openid email profile")
        assert (wider.status_code, wider.json()) == (400, {"error": "invalid_scope"})
        narrow = (await client.refresh(tokens["refresh_token"], scope="email")).json()
        assert narrow["scope"] == "email"
        assert "id_token" not in narrow
        junk = await client.refresh(tokens["access_token"])
        assert (junk.status_code, junk.json()) == (400, {"error": "invalid_request"})


async def test_logout_ends_the_tokens(kanidm: Server) -> None:
    """When the login session ends, userinfo, introspection and refresh are over."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        bearer = await client.login("alice", client.password)
        tokens = (await client.exchange(await client.code(bearer))).json()
        headers = {"authorization": f"Bearer {bearer}"}
        assert (await client.http.get("/v1/logout", headers=headers)).status_code == 200
        answer = await client.http.get("/v1/self", headers=headers)
        assert (answer.status_code, answer.json()) == (401, "sessionexpired")
        answer = await client.refresh(tokens["refresh_token"])
        assert (answer.status_code, answer.json()) == (400, {"error": "invalid_grant"})


async def test_public_clients_need_no_secret(kanidm: Server) -> None:
    """A public client is known by its name alone, must use PKCE, and cannot have client credentials."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        app = {"name": ["app"], "displayname": ["App"], "oauth2_rs_origin_landing": ["https://app.example.com/"]}
        await client.do("POST", "/v1/oauth2/_public", {"attrs": app})
        await client.do("PATCH", "/v1/oauth2/app", {"attrs": {"oauth2_allow_localhost_redirect": ["true"]}})
        await client.do("POST", "/v1/oauth2/app/_scopemap/readers", ["openid"])
        bearer = await client.login("alice", client.password)
        there = {"client_id": "app", "redirect_uri": "http://localhost:9999/back"}
        assert (await client.authorise(bearer, **there, code_challenge=None)).status_code == 400
        code = await client.code(bearer, **there)
        form = {"grant_type": "authorization_code", "code": code, "code_verifier": VERIFIER}
        assert (await client.http.post("/oauth2/token", data={**form, **there})).status_code == 200
        own = {"grant_type": "client_credentials", "client_id": "app"}
        assert (await client.http.post("/oauth2/token", data=own)).status_code == 401


async def test_client_credentials(kanidm: Server) -> None:
    """A basic client gets an opaque token for itself: introspection knows it, userinfo does not, and no refresh."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        answer = (await client.token(grant_type="client_credentials")).json()
        assert sorted(answer) == ["access_token", "expires_in", "scope", "token_type"]
        token = {"token": answer["access_token"]}
        found = await client.http.post("/oauth2/token/introspect", data=token, auth=("mail", client.secret))
        assert (found.json()["active"], found.json()["client_id"]) == (True, "mail")
        assert (await client.userinfo(answer["access_token"])).status_code == 401
        assert (await client.http.post("/oauth2/token/revoke", data=token, auth=("mail", client.secret))).status_code == 200
        found = await client.http.post("/oauth2/token/introspect", data=token, auth=("mail", client.secret))
        assert found.json() == {"active": False, "scope": ""}


async def test_claims_of_maps_and_short_names(kanidm: Server) -> None:
    """Claim maps, supplementary scopes and the short username reach ID token and userinfo."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        await client.do("POST", "/v1/oauth2/mail/_claimmap/role/readers", ["boss", "reader"])
        await client.do("POST", "/v1/oauth2/mail/_claimmap/area/readers", ["north", "south"])
        await client.do("POST", "/v1/oauth2/mail/_claimmap/area", "csv")
        await client.do("POST", "/v1/oauth2/mail/_sup_scopemap/readers", ["groups"])
        await client.do("PATCH", "/v1/oauth2/mail", {"attrs": {"oauth2_prefer_short_username": ["true"]}})
        tokens = (await client.exchange(await client.code(await client.login("alice", client.password)))).json()
        assert tokens["scope"] == "groups openid"
        claims = (await client.userinfo(tokens["access_token"])).json()
        assert (claims["role"], claims["area"], claims["preferred_username"]) == (["boss", "reader"], "north,south", "alice")
        assert "readers@id.example.com" in claims["groups"]
        assert jwt.decode(tokens["id_token"], options={"verify_signature": False})["role"] == ["boss", "reader"]


async def test_legacy_crypto_signs_rs256(kanidm: Server) -> None:
    """A client with legacy crypto publishes an RSA key, and its tokens verify with it."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        await client.do("PATCH", "/v1/oauth2/mail", {"attrs": {"oauth2_jwt_legacy_crypto_enable": ["true"]}})
        tokens = (await client.exchange(await client.code(await client.login("alice", client.password)))).json()
        key = jwt.PyJWK((await client.http.get("/oauth2/openid/mail/public_key.jwk")).json()["keys"][0])
        assert jwt.decode(tokens["id_token"], key, ["RS256"], audience="mail")["aud"] == "mail"
