"""issuer/tokens.py and token.py over a fake Kanidm: what tokens hold, and which tokens and codes are taken."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from kiwi_id.issuer import tokens
from kiwi_id.issuer.box import NotOurs
from kiwi_id.issuer.keys import KeySet
from tests.issuer.unit.fake_kanidm import ALICE
from tests.issuer.unit.issuer import ISSUER, World, basic, came, content, header, key


def claims(token: str) -> dict[str, Any]:
    """Return a token's claims, unchecked."""
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


def packed(content: Any) -> str:
    """Return JSON as a part of a JWS."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("kind", "alg", "digest"), [("rs256", "RS256", "sha256"), ("es256", "ES256", "sha256"), ("eddsa", "EdDSA", "sha512")]
)
async def test_both_tokens(kind: str, alg: str, digest: str) -> None:
    """OIDC Core §2 and §3.1.3.6, RFC 9068 §2: every claim that must be there, the types, and at_hash by the key's algorithm."""
    world = World(kind=kind)
    got = await world.tokens()
    assert (got["token_type"], got["expires_in"]) == ("Bearer", 900)
    identity, access = claims(got["id_token"]), claims(got["access_token"])
    assert jwt.get_unverified_header(got["id_token"]) == {"alg": alg, "typ": "JWT", "kid": key(kind).kid}
    assert jwt.get_unverified_header(got["access_token"]) == {"alg": alg, "typ": "at+jwt", "kid": key(kind).kid}
    assert {"iss", "sub", "aud", "azp", "iat", "exp", "nonce", "auth_time", "at_hash", "sid"} <= identity.keys()
    assert {"iss", "sub", "aud", "client_id", "iat", "exp", "jti", "scope", "auth_time"} <= access.keys()
    assert (identity["iss"], identity["sub"], identity["aud"], identity["nonce"]) == (ISSUER, ALICE, "mail", "no")
    assert identity["groups"] == access["groups"] == ["mail_users"]
    half = hashlib.new(digest, got["access_token"].encode()).digest()
    assert identity["at_hash"] == base64.urlsafe_b64encode(half[: len(half) // 2]).rstrip(b"=").decode()
    assert "kiwi" not in identity
    assert "nonce" not in access
    assert len(got["access_token"]) < 3072


async def test_forgeries_are_not_ours() -> None:
    """RFC 8725: no alg none, no HS256 with the public key, no foreign kid or key, no crit, no other typ, nothing cut off."""
    world = World(kind="es256")
    got = await world.tokens()
    token = got["access_token"]
    assert tokens.open_access(world.ctx, token).client_id == "mail"
    head, body, signature = token.split(".")
    ours = jwt.get_unverified_header(token)
    public = key("es256").private.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def mac(header: dict[str, Any], secret: bytes) -> str:
        signed = f"{packed(header)}.{body}"
        return f"{signed}.{packed(hmac.digest(secret, signed.encode(), 'sha256'))}"

    own = {**claims(token), "kiwi": claims(token)["kiwi"]}
    foreign = key("es256", 7)
    forged = [
        got["id_token"],
        got["refresh_token"],
        *(f"{packed({**ours, 'alg': alg})}.{body}." for alg in ("none", "None", "NONE", "")),
        mac({**ours, "alg": "HS256"}, pem),
        mac({**ours, "alg": "HS256"}, key("es256").jwk["x"].encode()),
        foreign.sign(own, "at+jwt"),
        jwt.encode(own, foreign.private, "ES256", headers={"kid": ours["kid"], "typ": "at+jwt"}),
        jwt.encode(own, foreign.private, "ES256", headers={"typ": "at+jwt"}),
        jwt.encode(own, key("es256").private, "ES256", headers={"kid": ours["kid"], "typ": "at+jwt", "crit": ["exp"]}),
        jwt.encode(own, key("es256").private, "ES256", headers={"kid": ours["kid"], "typ": "JWT"}),
        jwt.encode(own, key("es256").private, "ES256", headers={"kid": ours["kid"], "typ": None}),
        key("es256").sign({**own, "iss": "https://other.example"}, "at+jwt"),
        key("es256").sign({**own, "exp": int(time.time()) - 60}, "at+jwt"),
        key("es256").sign({**own, "kiwi": "x"}, "at+jwt"),
        key("es256").sign({**own, "kiwi": got["refresh_token"].removeprefix("kiwi-")}, "at+jwt"),
        key("es256").sign({name: value for name, value in own.items() if name != "exp"}, "at+jwt"),
        f"{packed({**ours, 'kid': ['x']})}.{body}.{signature}",
        f"{packed({**ours, 'kid': None})}.{body}.{signature}",
        f"{packed(b'[' * 30000)}.{body}.{signature}",
        f"{head}.{packed({**own, 'sub': 'root'})}.{signature}",
        # One token has one spelling: no padding, no other alphabet, no bits that nobody reads, no name twice.
        f"{token}=",
        f"{token[:-1]}{chr(ord(token[-1]) + 1)}",
        f"{token}\n",
        key("es256").sign({**own, "exp": float(own["exp"])}, "at+jwt"),
        key("es256").sign({**own, "exp": str(own["exp"])}, "at+jwt"),
        key("es256").sign({**own, "iat": int(time.time()) + 60}, "at+jwt"),
        f"{head}.{body}.{signature[:-4]}",
        f"{head}.{body}.",
        f"{head}.{body}",
        *(token[:end] for end in range(0, len(token), 97)),
        *(
            "",
            ".",
            "..",
            "...",
            "a.b.c",
            "\xff.\xff.\xff",
            "\ud800",
            "e30.e30.",
            f"{packed(token.encode())}.{packed(token.encode())}.x",
        ),
    ]
    for one in forged:
        with pytest.raises(NotOurs):
            tokens.open_access(world.ctx, one)
        if one != got["refresh_token"]:
            with pytest.raises(NotOurs):
                tokens.open_refresh(world.ctx, one)


async def test_an_id_token_opens_nothing() -> None:
    """At userinfo it is refused with 401 invalid_token; introspection calls it inactive."""
    world = World()
    got = await world.tokens()
    for sent in (got["id_token"], got["refresh_token"]):
        answer = await world.send("GET", "/oauth2/userinfo", authorization=f"Bearer {sent}")
        assert answer.status == 401
        assert 'error="invalid_token"' in header(answer, "www-authenticate")
    secret = world.kanidm.clients["mail"].secret or ""
    answer = await world.send("POST", "/oauth2/introspect", {"token": got["id_token"]}, authorization=basic("mail", secret))
    assert content(answer) == {"active": False}


async def test_a_code_is_used_once_in_any_spelling() -> None:
    """RFC 6749 §4.1.2: the second use is refused and revokes the first; base64 that decodes alike is no other code."""
    world = World()
    world.log_in("mail")
    code = await world.code()
    first = content(await world.redeem(code))
    for other in (code, code + "=", code.replace("-", "+"), code[:-1] + chr(ord(code[-1]) + 1)):
        assert content(await world.redeem(other))["error"] == "invalid_grant"
    assert world.kanidm.dead
    answer = await world.send("GET", "/oauth2/userinfo", authorization=f"Bearer {first['access_token']}")
    assert answer.status == 401


async def test_a_code_is_bound() -> None:
    """To client, redirect URI and verifier; and it survives the attempt of who has not got them."""
    world = World()
    world.log_in("mail")
    code = await world.code()
    for change in (
        {"redirect_uri": "https://mail.example/other"},
        {"code_verifier": "w" * 43},
        {"code_verifier": "é" * 50},
        {"code_verifier": ""},
    ):
        assert content(await world.redeem(code, **change))["error"] == "invalid_grant"
    assert content(await world.redeem(code, "wiki", redirect_uri="https://mail.example/cb"))["error"] == "invalid_grant"
    assert (await world.redeem(code)).status == 200


async def test_a_verifier_without_a_challenge_is_refused() -> None:
    """RFC 9700 §2.1.1 and §4.8.2: it may be a downgrade."""
    world = World()
    world.log_in("mail")
    code = await world.code(code_challenge=None, code_challenge_method=None)
    assert content(await world.redeem(code))["error"] == "invalid_grant"
    assert (await world.redeem(code, code_verifier="")).status == 200


async def test_tokens_survive_a_rotation_of_the_key() -> None:
    """Codes, refresh tokens, access tokens and states made before it are good after it; new tokens carry the new kid."""
    world = World()
    got = await world.tokens()
    code = await world.code()
    page = await world.authorize(prompt="consent")
    state = came(await world.authorize(prompt="login"))["state"]
    new = key("es256", 3)
    world.use(KeySet(new, [key()]))
    assert world.ctx.states.open(state.removeprefix("kiwi-"))["c"] == "mail"
    assert page.status == 200
    for answer in (
        await world.redeem(code),
        await world.token({"grant_type": "refresh_token", "refresh_token": got["refresh_token"]}),
    ):
        assert jwt.get_unverified_header(content(answer)["access_token"])["kid"] == new.kid
    answer = await world.send("GET", "/oauth2/userinfo", authorization=f"Bearer {got['access_token']}")
    assert answer.status == 200
    world.use(KeySet(new, []))
    answer = await world.send("GET", "/oauth2/userinfo", authorization=f"Bearer {got['access_token']}")
    assert answer.status == 401
