"""Discovery and the key set: complete, true, readable by browsers, and there while Kanidm is not."""

from __future__ import annotations

import os
import signal

import jwt
import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.issuer.flows.world import ALICE, World

DOCUMENTS = ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server")


async def test_complete(world: World) -> None:
    """Everything that OIDC Discovery 1.0 and RFC 8414 ask for, one document for both, with the origin for an issuer."""
    async with world.tab() as tab:
        documents = [(await tab.http.get(path)).json() for path in DOCUMENTS]
        assert documents[0] == documents[1]
        found = documents[0]
        for name in ("authorization", "token", "userinfo", "introspection", "revocation", "end_session"):
            assert found[f"{name}_endpoint"].startswith(world.issuer + "/oauth2/")
        assert found["issuer"] == world.issuer == world.instance.origin
        assert found["jwks_uri"] == world.issuer + "/oauth2/keys"
        assert found["response_types_supported"] == ["code"]
        assert found["response_modes_supported"] == ["query", "fragment", "form_post"]
        assert found["grant_types_supported"] == ["authorization_code", "refresh_token", "client_credentials"]
        assert found["subject_types_supported"] == ["public"]
        assert found["id_token_signing_alg_values_supported"] == ["RS256"]
        assert found["code_challenge_methods_supported"] == ["S256"]
        assert found["authorization_response_iss_parameter_supported"] is True
        assert found["backchannel_logout_supported"] is True
        assert found["backchannel_logout_session_supported"] is True
        for name in ("token", "introspection", "revocation"):
            methods = found[f"{name}_endpoint_auth_methods_supported"]
            assert methods == ["client_secret_basic", "client_secret_post", "none"]
        for name in ("request_parameter", "request_uri_parameter", "claims_parameter"):
            assert found[f"{name}_supported"] is False


async def test_true(world: World) -> None:
    """Every endpoint that is named exists, every claim that is named is in the tokens, every scope may be asked for."""
    async with world.tab() as tab:
        found = (await tab.http.get(DOCUMENTS[0])).json()
        for name, value in found.items():
            if name.endswith(("_endpoint", "_uri")):
                answer = await tab.http.get(value)
                assert answer.status_code != 404, name
        tokens = await tab.tokens(world.asked(scope=" ".join(found["scopes_supported"])), ALICE)
        assert set(tokens["scope"].split()) == set(found["scopes_supported"])
        # RECOMMENDED are those that may be there (Discovery 1.0 §3), and Kanidm tells updated_at from 1.10 on.
        assert set(found["claims_supported"]) - {"updated_at"} <= set(world.verified(tokens["id_token"]))


@pytest.mark.parametrize("path", [*DOCUMENTS, "/oauth2/keys"])
async def test_for_browsers_and_caches(world: World, path: str) -> None:
    """Any origin may read it, a cache may keep it for less than a next key waits, an unchanged one costs no bytes."""
    async with world.tab() as tab:
        answer = await tab.http.get(path, headers={"origin": "https://spa.example"})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["cache-control"] == "public, max-age=300"
        for known in (answer.headers["etag"], "W/" + answer.headers["etag"], '"x", ' + answer.headers["etag"], "*"):
            again = await tab.http.get(path, headers={"if-none-match": known})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == answer.headers["etag"]
        assert (await tab.http.get(path, headers={"if-none-match": '"x"'})).status_code == 200
        head = await tab.http.head(path)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(answer.content)))
        assert (await tab.http.options(path)).status_code == 204
        assert (await tab.http.post(path)).status_code == 405


async def test_key_set(world: World) -> None:
    """The key set holds the one public key file, by its RFC 7638 thumbprint, and no private part."""
    async with world.tab() as tab:
        found = (await tab.http.get("/oauth2/keys")).json()["keys"]
    assert len(found) == 1
    assert set(found[0]) == {"kty", "n", "e", "use", "alg", "kid"}
    pem = jwt.PyJWK(found[0]).key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert pem == world.places.jwt_public_key.read_bytes()


async def test_while_kanidm_does_not_answer(world: World) -> None:
    """Discovery and the key set need no Kanidm; what does need it goes on where it was once Kanidm answers again."""
    pid = world.instance.kanidmd_pid()
    async with world.tab() as tab:
        asked = world.asked()
        came = await tab.log_in(asked, ALICE)
        os.kill(pid, signal.SIGSTOP)
        try:
            with trio.fail_after(5):
                for path in (*DOCUMENTS, "/oauth2/keys"):
                    assert (await tab.http.get(path)).status_code == 200
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (await tab.redeem(asked, came)).status_code == 200
