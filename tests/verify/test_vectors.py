"""The examples of RFC 7515 (appendix A), RFC 7520 (§4) and RFC 8037 (appendix A): what we take of them, and what not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from jwt.algorithms import get_default_algorithms

from kiwi_id.verify import KeysError, MalformedToken, TokenError, Verifier, jose, keys
from tests.verify.craft import unb64

DIRECTORY = Path(__file__).parent / "vectors"
CASES: list[Any] = [
    pytest.param(case, id=f"{path.stem} {case['section']} {case['alg']}")
    for path in sorted(DIRECTORY.glob("*.json"))
    for case in json.loads(path.read_text())["cases"]
]
OURS = ("RS256", "ES256", "EdDSA")


def jwks(case: dict[str, Any]) -> bytes:
    """Return the key set with a case's key."""
    return json.dumps({"keys": [{"kid": "example", **case["key"]}]}).encode()


@pytest.mark.parametrize("case", [case for case in CASES if case.values[0]["key"] and ".." not in case.values[0]["token"]])
def test_the_data_is_right(case: dict[str, Any]) -> None:
    """Each signature was copied without a slip: PyJWT finds it good under the copied key, over the copied payload."""
    signed, _, signature = case["token"].rpartition(".")
    algorithm = get_default_algorithms()[case["alg"]]
    assert unb64(signed.partition(".")[2]).decode() == case["payload"]
    assert algorithm.verify(signed.encode(), algorithm.from_jwk(case["key"]), unb64(signature))


@pytest.mark.parametrize("case", [case for case in CASES if case.values[0]["alg"] in OURS and ".." not in case.values[0]["token"]])
def test_signatures_of_our_algorithms(case: dict[str, Any]) -> None:
    """RS256, ES256 and Ed25519 examples check out; with any bit of the signature or of what was signed turned they do not."""
    (key,) = keys.read(jwks(case), "vectors").by_kid.values()
    assert key.alg == case["alg"]
    signed, _, encoded = case["token"].encode().rpartition(b".")
    signature = jose.decode(encoded)
    assert key.verifies(signed, signature)
    for number in range(8 * len(signature)):
        turned = bytearray(signature)
        turned[number // 8] ^= 1 << number % 8
        assert not key.verifies(signed, bytes(turned))
    for number in range(len(signed)):
        turned = bytearray(signed)
        turned[number] ^= 1
        assert not key.verifies(bytes(turned), signature)


@pytest.mark.parametrize("case", CASES)
def test_no_example_is_an_access_token(case: dict[str, Any]) -> None:
    """Rightly signed or not, none has the type, and most not the form, of what a service may accept; other keys are refused."""
    if case["alg"] in OURS:
        source: Any = keys.read(jwks(case), "vectors").by_kid[case["key"].get("kid", "example")].public
    else:
        if case["key"] is not None and case["alg"] != "PS384":
            # HMAC secrets are refused aloud, P-521 is left out and then nothing is left.
            with pytest.raises(KeysError):
                keys.read(jwks(case), "vectors")
        source = keys.read(jwks({"key": RSA}), "vectors").by_kid["example"].public
    for token_type in ("at+jwt", "JWT"):
        verifier = Verifier(source, issuer="joe", audience=None, token_type=token_type, clock=lambda: 1300819000)
        with pytest.raises(TokenError):
            verifier.verify(case["token"])


RSA = json.loads((DIRECTORY / "rfc7515.json").read_text())["cases"][1]["key"]


def test_header_and_claims_of_appendix_a() -> None:
    """White space and line ends inside the JSON of RFC 7515 A.1 are JSON's own, and read; ``typ`` comes through."""
    case = json.loads((DIRECTORY / "rfc7515.json").read_text())["cases"][0]
    header, claims = jose.unverified(case["token"])
    assert header == {"typ": "JWT", "alg": "HS256"}
    assert claims == {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}
    assert jwt.get_unverified_header(case["token"]) == header


def test_an_unsecured_jws_is_not_even_read() -> None:
    """The example of RFC 7515 A.5 (alg none, nothing after the second dot) has no signature to check, so it is malformed."""
    case = json.loads((DIRECTORY / "rfc7515.json").read_text())["cases"][4]
    assert case["alg"] == "none"
    with pytest.raises(MalformedToken):
        jose.unverified(case["token"])


def test_the_thumbprint_of_rfc_8037() -> None:
    """RFC 8037 A.3: an unnamed key is called by the thumbprint that the RFC computed."""
    case = json.loads((DIRECTORY / "rfc8037.json").read_text())["cases"][0]
    (key,) = keys.given(keys.read(jwks(case), "vectors").by_kid["example"].public).by_kid.values()
    assert key.kid == case["thumbprint"]
