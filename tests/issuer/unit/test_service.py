"""issuer/service.py and discovery.py: routing, methods, preflights, what is Kanidm's own, and the two public documents."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kiwi_id.issuer.http import Request
from kiwi_id.issuer.keys import JWKS_MAX_AGE, PUBLISH_AHEAD, KeySet
from tests.issuer.unit.issuer import ISSUER, World, basic, content, header, key

DISCOVERY = ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"]
PUBLIC = [*DISCOVERY, "/oauth2/keys"]
POSTED = [
    "/oauth2/consent",
    "/oauth2/token",
    "/oauth2/introspect",
    "/oauth2/revoke",
    "/oauth2/token/introspect",
    "/oauth2/token/revoke",
]
FERNET = b"gAAAAABm" + b"A" * 120
JWE = b"eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..AAAA.AAAA.AAAA"
CORS = [*PUBLIC, *POSTED[1:], "/oauth2/userinfo"]


@pytest.mark.parametrize("path", World().service.paths)
async def test_another_method_is_405_with_allow(path: str) -> None:
    """RFC 9110 §15.5.6, for every endpoint; the answer names both; HEAD goes with GET, OPTIONS with CORS."""
    world = World()
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "BREW-" + "x" * 100):
        answer = await world.send(method, path)
        assert answer.status == 405
        allowed = set(header(answer, "allow").split(", "))
        assert ("GET" in allowed) == ("HEAD" in allowed) == (path not in POSTED)
        assert ("OPTIONS" in allowed) == (path in CORS)
        assert path in content(answer)["error_description"]
        assert len(answer.body) < 200
    if path in POSTED:
        assert (await world.send("GET", path)).status == 405


@pytest.mark.parametrize("path", World().service.paths)
async def test_preflights(path: str) -> None:
    """Where browser applications call: any origin, no credentials; not where people decide."""
    answer = await World().send("OPTIONS", path, origin="https://spa.example")
    if path in CORS:
        assert (answer.status, header(answer, "access-control-allow-origin")) == (204, "*")
        assert "authorization" in header(answer, "access-control-allow-headers")
        assert header(answer, "access-control-allow-credentials") == ""
    else:
        assert (answer.status, header(answer, "access-control-allow-origin")) == (405, "")


@pytest.mark.parametrize("path", DISCOVERY)
async def test_discovery_is_complete_and_true(path: str) -> None:
    """Discovery 1.0 §3 and RFC 8414 §2: required members; each endpoint it names is served here; Kanidm is not asked."""
    world = World()
    answer = await world.send("GET", path)
    document = content(answer)
    assert document["issuer"] == ISSUER
    for name, value in document.items():
        if name.endswith("_endpoint") or name == "jwks_uri":
            assert value.removeprefix(ISSUER) in world.service.paths, name
    required = {
        *(
            "authorization_endpoint",
            "token_endpoint",
            "jwks_uri",
            "userinfo_endpoint",
            "end_session_endpoint",
            "revocation_endpoint",
        ),
        *("introspection_endpoint", "response_types_supported", "subject_types_supported", "id_token_signing_alg_values_supported"),
        *("scopes_supported", "claims_supported", "code_challenge_methods_supported", "grant_types_supported"),
    }
    assert required <= document.keys()
    assert document["response_types_supported"] == ["code"]
    assert {"sub", "email_verified", "groups", "updated_at"} <= set(document["claims_supported"])
    assert document["response_modes_supported"] == ["query", "fragment", "form_post"]
    assert document["grant_types_supported"] == ["authorization_code", "refresh_token", "client_credentials"]
    assert document["code_challenge_methods_supported"] == ["S256"]
    assert document["authorization_response_iss_parameter_supported"] is True
    assert (document["request_parameter_supported"], document["request_uri_parameter_supported"]) == (False, False)
    assert [value for value in document.values() if value in ([], None, "")] == []
    assert world.kanidm.calls == []


async def test_algorithms_are_those_of_the_keys() -> None:
    """One that cannot be RS256 does not claim to be; a next key's is told ahead."""
    world = World(kind="es256")
    found = content(await world.send("GET", DISCOVERY[0]))["id_token_signing_alg_values_supported"]
    assert found == ["ES256"]
    world.use(KeySet(key("es256"), [key("rs256")]))
    found = content(await world.send("GET", DISCOVERY[0]))["id_token_signing_alg_values_supported"]
    assert found == ["ES256", "RS256"]


@pytest.mark.parametrize("path", PUBLIC)
async def test_public_documents_are_cached_by_etag(path: str) -> None:
    """200 with ETag and a max-age far below the publish-ahead time; 304 without a body for who has it; CORS for all."""
    world = World()
    answer = await world.send("GET", path)
    etag = header(answer, "etag")
    assert (answer.status, header(answer, "access-control-allow-origin")) == (200, "*")
    assert header(answer, "cache-control") == f"public, max-age={JWKS_MAX_AGE}"
    assert header(answer, "x-content-type-options") == "nosniff"
    assert PUBLISH_AHEAD.total_seconds() > JWKS_MAX_AGE * 10
    for sent in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        again = await world.send("GET", path, if_none_match=sent)
        assert (again.status, again.body, header(again, "etag")) == (304, b"", etag)
    for sent in ('"x"', "", etag[1:-1], "\xff"):
        assert (await world.send("GET", path, if_none_match=sent.encode("latin-1"))).status == 200
    assert (await world.send("HEAD", path)).status == 200


async def test_the_key_set_holds_public_halves_only() -> None:
    """RFC 7517: kty, use, alg, kid and the public numbers; never a private one. Both keys after a rotation, and another ETag."""
    world = World(kind="rs256")
    before = await world.send("GET", "/oauth2/keys")
    world.use(KeySet(key("es256"), [key("rs256"), key("eddsa")]))
    after = await world.send("GET", "/oauth2/keys")
    assert header(before, "etag") != header(after, "etag")
    found = json.loads(after.body)["keys"]
    assert {one["kid"] for one in found} == {key("es256").kid, key("rs256").kid, key("eddsa").kid}
    members = {"RSA": {"n", "e"}, "EC": {"crv", "x", "y"}, "OKP": {"crv", "x"}}
    for one in found:
        assert set(one) == {"kty", "use", "alg", "kid", *members[one["kty"]]}


# -- what passes by ------------------------------------------------------------------------------------------------------------


def passes(world: World, method: str, path: str, body: bytes, kind: bytes = b"application/x-www-form-urlencoded") -> bool:
    """Tell whether a request goes on to Kanidm."""
    return world.service.passes_by(Request(method, path, b"", [(b"content-type", kind)], body, "192.0.2.1", b"r"))


@pytest.mark.parametrize(
    ("body", "native"),
    [
        (b"grant_type=authorization_code&code=" + FERNET, True),
        (b"grant_type=authorization_code&code=" + JWE, True),
        (b"grant_type=refresh_token&refresh_token=" + FERNET, True),
        (b"grant_type=refresh_token&refresh_token=" + JWE, True),
        (b"grant_type=refresh_token&refresh_token=eyJabc.eyJabc.AAAA", False),
        (b"grant_type=authorization_code&code=eyJabc.eyJabc.AAAA", False),
        (b"grant_type=authorization_code&code=eyJabc.x", False),
        (b"grant_type=authorization_code&code=gAAAAAbc", False),
        (b"grant_type=urn:ietf:params:oauth:grant-type:token-exchange", True),
        (b"grant_type=authorization_code&code=kiwi-abc", False),
        (b"grant_type=authorization_code&code=", False),
        (b"grant_type=refresh_token&refresh_token=kiwi-x&code=" + FERNET, False),
        (b"grant_type=client_credentials", False),
        (b"grant_type=password&code=" + FERNET, False),
        (b"grant_type=authorization_code&code=" + FERNET + b"&code=kiwi-", False),
        (b"", False),
        (b"\xff", False),
    ],
)
def test_kanidms_own_at_the_token_endpoint(body: bytes, native: bool) -> None:
    """Codes and refresh tokens of Kanidm's own and its own grants go on to it; what is malformed is answered here."""
    assert passes(World(), "POST", "/oauth2/token", body) is native


async def test_other_methods_and_types_at_the_token_endpoint_are_refused_in_json() -> None:
    """RFC 6749 §3.2, §5.2: POST of a form only; a 405 names what is allowed, and everything else is invalid_request."""
    world = World()
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert not passes(world, method, "/oauth2/token", b"")
    for method in ("GET", "PUT"):
        answer = await world.send(method, "/oauth2/token")
        assert (answer.status, header(answer, "allow")) == (405, "OPTIONS, POST")
        assert content(answer)["error"] == "invalid_request"
    for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x", ""):
        assert not passes(world, "POST", "/oauth2/token", b"{}", kind.encode())
        answer = await world.send("POST", "/oauth2/token", {"grant_type": "refresh_token"}, content_type=kind)
        assert (answer.status, content(answer)["error"]) == (400, "invalid_request")
        assert "application/x-www-form-urlencoded" in content(answer)["error_description"]


async def test_only_our_tokens_are_answered_at_kanidms_introspection_and_revocation() -> None:
    """Its own paths stay its own for its own tokens, for junk, and for what cannot be read."""
    world = World()
    got = await world.tokens()
    for path in ("/oauth2/token/introspect", "/oauth2/token/revoke"):
        for ours in (got["access_token"], got["refresh_token"]):
            assert not passes(world, "POST", path, b"token=" + ours.encode())
        for other in (b"token=eyJ.x.y", b"token=", b"", b"token=" + got["id_token"].encode(), b"token=a&token=b", b"\xff"):
            assert passes(world, "POST", path, other)
        assert passes(world, "POST", path, b"token=" + got["access_token"].encode(), b"application/json")


# -- userinfo, introspection, revocation ---------------------------------------------------------------------------------------


async def test_userinfo() -> None:
    """OIDC Core §5.3, RFC 6750 §2: header or form, not both; 401 without a token and without an error code."""
    world = World()
    got = await world.tokens()
    bearer = f"Bearer {got['access_token']}"
    found = content(await world.send("GET", "/oauth2/userinfo", authorization=bearer))
    assert (found["email"], found["groups"]) == ("alice@example.com", ["mail_users"])
    assert not {"iss", "aud", "exp", "iat", "scopes"} & found.keys()
    assert (await world.send("POST", "/oauth2/userinfo", {"access_token": got["access_token"]})).status == 200
    assert (await world.send("POST", "/oauth2/userinfo", {"access_token": got["access_token"]}, authorization=bearer)).status == 400
    for answer in (
        await world.send("GET", "/oauth2/userinfo"),
        await world.send("GET", "/oauth2/userinfo", {"access_token": got["access_token"]}),
    ):
        assert (answer.status, header(answer, "www-authenticate")) == (401, 'Bearer realm="Kiwi ID"')


async def test_introspection_and_revocation() -> None:
    """RFC 7662 and 7009: for clients only; revoked is inactive; another client's token cannot be revoked."""
    world = World()
    got = await world.tokens()
    mail, wiki = (basic(name, world.kanidm.clients[name].secret or "") for name in ("mail", "wiki"))

    async def ask(path: str, token: str, who: str = mail) -> Any:
        return await world.send("POST", path, {"token": token}, authorization=who)

    assert content(await ask("/oauth2/introspect", got["access_token"]))["active"] is True
    assert content(await ask("/oauth2/introspect", got["access_token"], wiki))["client_id"] == "mail"
    assert content(await ask("/oauth2/introspect", got["refresh_token"], wiki)) == {"active": False}
    assert (await ask("/oauth2/introspect", got["access_token"], basic("mail", "wrong"))).status == 401
    assert (await world.send("POST", "/oauth2/introspect", {"token": "x"})).status == 401
    assert (await ask("/oauth2/revoke", got["access_token"], wiki)).status == 400
    assert (await ask("/oauth2/revoke", "unknown")).status == 200
    assert (await ask("/oauth2/revoke", got["refresh_token"])).status == 200
    assert content(await ask("/oauth2/introspect", got["access_token"])) == {"active": False}
