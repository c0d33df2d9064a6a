"""Keys from PEM, from JWK sets and as objects: which are taken, under which name, and which are refused in words."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519

from kiwi_id.issuer import keys as issuer_keys
from kiwi_id.verify import BadSignature, KeysError, UnknownKey, Verifier, keys
from tests.verify.craft import AUDIENCE, ED, ISSUER, SIGNERS, Signer, b64, verifier

RSA, EC = SIGNERS["RS256"], SIGNERS["ES256"]


def jwk(signer: Signer, **changes: Any) -> dict[str, Any]:
    """Return the public half as Kiwi ID publishes it, changed; ``...`` takes a member away."""
    alg, members = keys.describe(signer.public, "test")
    full = {**members, "use": "sig", "alg": alg, "kid": signer.kid, **changes}
    return {name: value for name, value in full.items() if value is not ...}


def jwks(*members: Any) -> bytes:
    """Return a key set."""
    return json.dumps({"keys": members}).encode()


def pem(public: Any) -> bytes:
    """Return a public key in PEM."""
    data: bytes = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return data


@pytest.mark.parametrize("signer", SIGNERS.values(), ids=SIGNERS)
def test_every_way_to_give_a_key(signer: Signer, tmp_path: Path) -> None:
    """One key as PEM file, JWKS file, object, list and mapping: the tokens that name it so pass."""
    thumbprint = keys.thumbprint(keys.describe(signer.public, "test")[1])
    pem_file, set_file = tmp_path / "key", tmp_path / "set"
    pem_file.write_bytes(pem(signer.public))
    set_file.write_bytes(jwks(jwk(signer)))
    named = [set_file, str(set_file), {"one": signer.public}]
    unnamed = [pem_file, str(pem_file), signer.public, [signer.public], (signer.public,)]
    for given in named:
        assert verifier(keys=given).verify(signer.token()).subject
        with pytest.raises(UnknownKey):
            verifier(keys=given).verify(signer.token({"kid": thumbprint}))
    for given in unnamed:
        assert verifier(keys=given).verify(signer.token({"kid": thumbprint})).subject
        with pytest.raises(UnknownKey):
            verifier(keys=given).verify(signer.token())


def test_thumbprints_are_the_issuers_names() -> None:
    """What Kiwi ID calls its keys by is what an unnamed key is called here."""
    for signer in SIGNERS.values():
        (key,) = keys.given(signer.public).by_kid.values()
        made = issuer_keys.make_key(signer.private, issuer_keys.KeyState.CURRENT, datetime.now(UTC), Path())
        assert (key.kid, key.alg) == (made.kid, made.alg)
        assert keys.read(jwks(made.jwk), "test").by_kid[key.kid].public == signer.public


def test_several_keys() -> None:
    """Each token is checked with the key that it names only; one that names none is refused, for it could mean each of them."""
    signers = [Signer(alg, kid) for alg, kid in (("RS256", "one"), ("ES256", "two"), ("EdDSA", "three"), ("EdDSA", "four"))]
    check = verifier(keys={signer.kid: signer.public for signer in signers})
    for signer in signers:
        assert check.verify(signer.token()).subject
        with pytest.raises(UnknownKey, match="names no key"):
            check.verify(signer.token({"kid": ...}))
        for other in signers:
            if other is not signer:
                with pytest.raises(BadSignature):
                    check.verify(signer.token({"kid": other.kid, "alg": other.alg}))


def test_a_token_may_leave_out_the_name_of_a_single_key() -> None:
    """``kid`` is optional (RFC 7515 §4.1.4): with one key there is no doubt."""
    assert verifier().verify(ED.token({"kid": ...})).subject


def test_several_keys_in_pem(tmp_path: Path) -> None:
    """A PEM file with the keys of before and after a rotation, and remarks between them, has them all."""
    file = tmp_path / "keys.pem"
    file.write_bytes(b"the old one\n" + pem(RSA.public) + b"\nthe new one\r\n" + pem(ED.public).replace(b"\n", b"\r\n"))
    found = keys.read(file.read_bytes(), "file")
    assert sorted(key.alg for key in found.by_kid.values()) == ["EdDSA", "RS256"]


def test_what_a_set_may_have_besides(caplog: pytest.LogCaptureFixture) -> None:
    """Keys for encryption, of unknown kinds and curves in a set are left out (RFC 7517 §5), the latter with a warning."""
    others = [
        jwk(RSA, use="enc", kid="enc"),
        jwk(RSA, key_ops=["encrypt"], kid="ops"),
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA", "kid": "future"},
        {"kty": "EC", "crv": "P-384", "x": b64(b"x" * 48), "y": b64(b"y" * 48), "kid": "other curve"},
        {"kty": "EC", "crv": "secp256k1", "x": b64(b"x" * 32), "y": b64(b"y" * 32), "kid": "bitcoin's"},
        {"kty": "OKP", "crv": "X25519", "x": b64(b"x" * 32), "kid": "for agreement"},
        {"kid": "no kind"},
    ]
    with caplog.at_level(logging.WARNING, "kiwi_id.verify"):
        found = keys.read(jwks(*others, jwk(ED)), "set")
    assert list(found.by_kid) == ["one"]
    assert len(caplog.messages) == 5
    assert caplog.messages[0].startswith("set: key 3: left out")
    with pytest.raises(KeysError, match="no key that can be used"):
        keys.read(jwks(*others), "set")


def small_rsa(exponent: int = 65537, bits: int = 1024) -> Any:
    """Return a weak key."""
    return rsa.generate_private_key(exponent, bits).public_key()


WEAK, SMALL_EXPONENT = small_rsa(), small_rsa(3, 2048)
NUMBERS = EC.public.public_numbers()


@pytest.mark.parametrize(
    ("public", "words"),
    [
        (WEAK, "RSA key of 1024 bits; allowed: 2048 to 8192"),
        (SMALL_EXPONENT, "exponent 3; allowed: 65537 or larger"),
        (ec.generate_private_key(ec.SECP384R1()).public_key(), "curve secp384r1; allowed"),
        (ec.generate_private_key(ec.SECP256K1()).public_key(), "curve secp256k1; allowed"),
        (ed448.Ed448PrivateKey.generate().public_key(), "allowed: public keys of RSA, P-256 and Ed25519"),
        (x25519.X25519PrivateKey.generate().public_key(), "allowed: public keys of RSA, P-256 and Ed25519"),
        (dsa.generate_private_key(2048).public_key(), "allowed: public keys of RSA, P-256 and Ed25519"),
    ],
)
def test_weak_and_wrong_keys(public: Any, words: str) -> None:
    """RSA below 2048 bits, small exponents, other curves and kinds are refused in PEM and as objects (RFC 8725 §3.5)."""
    with pytest.raises(KeysError, match=words):
        keys.read(pem(public), "the file")
    for given in (public, [ED.public, public], {"one": public}):
        with pytest.raises(KeysError, match=words):
            keys.given(given)


# The eight points whose order divides 8 (in both signs of x, where there are two), and numbers beyond the field that mean the same.
SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("sign", [0, 0x80])
@pytest.mark.parametrize("point", SMALL_ORDER)
def test_points_of_small_order(point: str, sign: int) -> None:
    """Under such an Ed25519 key everybody can sign: R = the point 1 and S = 0 is good for one text in eight, or for all."""
    raw = bytearray.fromhex(point)
    raw[31] |= sign
    with pytest.raises(KeysError, match="an Ed25519 key that everybody can sign for"):
        keys.read(jwks(jwk(ED, x=b64(bytes(raw)))), "the file")


def test_why_points_of_small_order_are_refused() -> None:
    """What cryptography itself makes of the first of them."""
    forged = ed25519.Ed25519PublicKey.from_public_bytes(b"\1" + bytes(31))
    forged.verify(b"\1" + bytes(63), b"whatever")
    with pytest.raises(KeysError, match="everybody"):
        keys.given(forged)


def test_even_moduli() -> None:
    """A product of two odd primes is odd: such a modulus is cut, shifted, or made to be factored."""
    n = RSA.public.public_numbers().n
    with pytest.raises(KeysError, match=r"an RSA key with an even modulus|its numbers"):
        keys.read(jwks(jwk(RSA, n=b64((n - 1).to_bytes(256, "big")))), "the file")


@pytest.mark.parametrize("given", [ED.private, RSA.private, b"secret", 5, "not a key"])
def test_objects_that_are_no_public_key(given: Any) -> None:
    """A private key, a shared secret, or anything else is refused, not taken for what it could mean."""
    with pytest.raises(KeysError, match="allowed"):
        keys.given({"one": given})
    if not isinstance(given, str | bytes | int):
        with pytest.raises(KeysError, match="allowed"):
            Verifier(given, issuer=ISSUER, audience=AUDIENCE)


def test_private_keys_in_files() -> None:
    """A file with a private key is refused, with what to do: every service that had it could sign."""
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for signer in SIGNERS.values():
        with pytest.raises(KeysError, match="a private key; a service that checks tokens must have the public half only"):
            keys.read(signer.private.private_bytes(*form), "the file")
    for member in (jwk(ED, d=b64(b"d" * 32)), {"kty": "oct", "k": "c2VjcmV0"}, {"kty": "oct"}):
        with pytest.raises(KeysError, match="the file: key 1: a secret key"):
            keys.read(jwks(member), "the file")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no key that can be used"),
        (b"junk", "no key that can be used"),
        (b"-----BEGIN PUBLIC KEY-----\njunk\n-----END PUBLIC KEY-----\n", "cannot be read"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "found 'CERTIFICATE'; allowed: PUBLIC KEY"),
        (b"{", "not JSON"),
        (b"{}", "no JWK set"),
        (b'{"keys": {}}', "no JWK set"),
        (b'{"keys": [1]}', "no JWK set"),
        (b'{"keys": []}', "no key that can be used"),
        (b'{"keys": [], "keys": []}', "'keys' twice"),
        (jwks(jwk(ED), jwk(RSA)), "two keys with the kid 'one'"),
        (jwks(jwk(ED, kid=1)), "key 1: its 'kid' is not a short string"),
        (jwks(jwk(ED, kid="k" * 257)), "key 1: its 'kid' is not a short string"),
        (jwks(jwk(RSA, alg="PS256")), "it is for 'PS256'; allowed for this kind of key: RS256"),
        (jwks(jwk(RSA, alg="HS256")), "it is for 'HS256'; allowed for this kind of key: RS256"),
        (jwks(jwk(ED, alg="ES256")), "it is for 'ES256'; allowed for this kind of key: EdDSA"),
        (jwks(jwk(RSA, e=...)), "key 1: its numbers"),
        (jwks(jwk(RSA, n=5)), "key 1: its numbers"),
        (jwks(jwk(RSA, n="é")), "key 1: its numbers"),
        (jwks(jwk(RSA, n="AAAA")), "key 1: its numbers"),
        (jwks(jwk(RSA, e="AQAB=")), "key 1: its numbers"),
        (jwks(jwk(RSA, e="AAEAAQ")), "key 1: its numbers"),
        (jwks(jwk(RSA, e="AQAA")), "key 1: its numbers"),
        (jwks(jwk(RSA, e="AQ")), "key 1: its numbers"),
        (jwks(jwk(RSA, e="Aw")), "exponent 3"),
        (jwks({"kty": "RSA", "n": b64(WEAK.public_numbers().n.to_bytes(128, "big")), "e": "AQAB"}), "1024 bits"),
        (jwks(jwk(EC, x=b64(b"\1" * 32))), "key 1: its numbers are missing, misspelt, or no point of the curve"),
        (jwks(jwk(EC, x=b64(b"\0" + NUMBERS.x.to_bytes(32, "big")))), "key 1: its numbers"),
        (jwks(jwk(EC, x=b64(bytes(32)), y=b64(bytes(32)))), "key 1: its numbers"),
        (jwks(jwk(EC, y=...)), "key 1: its numbers"),
        (jwks(jwk(ED, x=b64(b"x" * 31))), "key 1: its numbers"),
    ],
)
def test_files_that_are_refused(data: bytes, words: str) -> None:
    """Every mistake of a file is told: which file, which key of it, what is wrong."""
    with pytest.raises(KeysError, match=words) as caught:
        keys.read(data, "the file")
    assert str(caught.value).startswith("the file: ")


def test_no_file(tmp_path: Path) -> None:
    """A missing file, a directory and a giant are told by name when the verifier is made."""
    giant = tmp_path / "giant"
    giant.write_bytes(b" " * (2 << 20))
    for path, words in ((tmp_path / "none.pem", "No such file"), (tmp_path, "not a file"), (giant, "more than 1048576 bytes")):
        with pytest.raises(KeysError, match=words) as caught:
            Verifier(path, issuer=ISSUER, audience=AUDIENCE)
        assert str(caught.value).startswith(f"{path}: ")


def test_a_key_does_not_print_itself() -> None:
    """A key's repr is its name and algorithm."""
    (key,) = keys.given({"one": ed25519.Ed25519PrivateKey.generate().public_key()}).by_kid.values()
    assert repr(key) == "Key(kid='one', alg='EdDSA')"
