"""Public keys, and the one algorithm that each is for: from PEM, from a JWK set (RFC 7517), or from objects.

The algorithms are those that Kiwi ID signs with: RS256, ES256 (RFC 7518 §3) and EdDSA with Ed25519 (RFC 8037). A key that is weak,
secret or of a wrong curve raises KeysError, with words: a mistake that nobody must sleep over.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from kiwi_id.issuer.encoding import base64url
from kiwi_id.verify import jose
from kiwi_id.verify.errors import KeysError, MalformedToken, quoted

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192  # RFC 7518 §3.3; and what an attacker's clock must not buy
MIN_RSA_EXPONENT = 65537  # NIST SP 800-56B: with small ones a sloppy padding check was a forgery more than once

_PKCS1, _ECDSA = padding.PKCS1v15(), ec.ECDSA(Prehashed(hashes.SHA256()))
# What stands before the digest in a signature of RS256: DigestInfo for SHA-256 (RFC 8017 §9.2, note 1).
_SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
# Ed25519 (RFC 8032 §5.1): the field, and the y of the points whose order divides 8. With such a "key" everybody can sign.
_FIELD = 2**255 - 19
_ORDER_8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
_SMALL_ORDER = frozenset({0, 1, _FIELD - 1, _ORDER_8, _FIELD - _ORDER_8})
_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_LOG = logging.getLogger("kiwi_id.verify")


@dataclass(frozen=True, slots=True)
class Key:
    """A public key: ``kid`` is what tokens call it, ``alg`` its only algorithm, ``size`` of its signatures in bytes."""

    kid: str
    alg: str
    public: PublicKey = field(repr=False)
    size: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Measure the key."""
        bits = self.public.key_size if isinstance(self.public, rsa.RSAPublicKey) else 512
        object.__setattr__(self, "size", (bits + 7) // 8)

    def verifies(self, signing_input: bytes, signature: bytes) -> bool:
        """Tell whether this key signed these bytes; the signature is as in RFC 7518 §3.3, §3.4 and RFC 8037 §3.1."""
        public: Any = self.public
        try:
            if self.alg == "RS256":
                # As strict as verify(), which compares the same encoding as a whole (RFC 8017 §8.2.2), and a microsecond faster.
                if len(signature) != self.size:
                    return False
                signed = public.recover_data_from_signature(signature, _PKCS1, None)
                return bool(signed == _SHA256_INFO + hashlib.sha256(signing_input).digest())
            if self.alg == "ES256":
                if len(signature) != self.size:
                    return False
                r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
                # hashlib's SHA-256 begins faster than cryptography's.
                public.verify(encode_dss_signature(r, s), hashlib.sha256(signing_input).digest(), _ECDSA)
            else:
                public.verify(signature, signing_input)
        except InvalidSignature:
            return False
        return True


class Keys:
    """An unchanging set of keys. Another set, also one with the same keys, is another object: caches go by that."""

    def __init__(self, keys: Iterable[Key], where: str) -> None:
        self.by_kid: dict[str, Key] = {}
        for key in keys:
            if key.kid in self.by_kid:
                raise KeysError(f"{where}: two keys with the kid {quoted(key.kid)}")
            self.by_kid[key.kid] = key
        if not self.by_kid:
            raise KeysError(f"{where}: no key that can be used; wanted: RSA, P-256 or Ed25519, public, in PEM or as a JWK set")

    def find(self, kid: str | None) -> Key | None:
        """Return the key that a token names. A token that names none can mean only the single one, where there is one only."""
        if kid is not None:
            return self.by_kid.get(kid)
        return next(iter(self.by_kid.values())) if len(self.by_kid) == 1 else None


def read(data: bytes, where: str) -> Keys:
    """Return the keys in a file's or answer's content, PEM or JWK set; ``where`` it is from is for messages. Raises KeysError."""
    if data.lstrip()[:1] == b"{":
        return Keys(_from_jwks(data, where), where)
    return Keys(_from_pem(data, where), where)


def given(keys: PublicKey | Sequence[PublicKey] | Mapping[str, PublicKey]) -> Keys:
    """Return keys that are objects already; without a name of the caller's each is called by its thumbprint. Raises KeysError."""
    where = "the keys given"
    if isinstance(keys, Mapping):
        return Keys([make_key(key, where, kid) for kid, key in keys.items()], where)
    return Keys([make_key(key, where) for key in (keys if isinstance(keys, list | tuple) else [keys])], where)


def make_key(public: object, where: str, kid: str | None = None) -> Key:
    """Return the Key around a public key; its ``kid`` is the thumbprint unless told. Raises KeysError."""
    alg, jwk = describe(public, where)
    assert isinstance(public, PublicKey)  # noqa: S101 - for the type checker: describe() has refused all others
    return Key(kid or thumbprint(jwk), alg, public)


def describe(public: object, where: str) -> tuple[str, dict[str, str]]:
    """Return the algorithm that a public key is for, and its required members as a JWK (RFC 7518 §6, RFC 8037 §2).

    Raises KeysError for a weak key, and for a kind that no algorithm of ours uses.
    """
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        if not MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS:
            raise KeysError(f"{where}: an RSA key of {public.key_size} bits; allowed: {MIN_RSA_BITS} to {MAX_RSA_BITS}")
        if numbers.e < MIN_RSA_EXPONENT:
            raise KeysError(f"{where}: an RSA key with the exponent {numbers.e}; allowed: {MIN_RSA_EXPONENT} or larger")
        if numbers.n % 2 == 0:
            raise KeysError(f"{where}: an RSA key with an even modulus, which is no product of two large primes")
        return "RS256", {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
        point = public.public_numbers()
        return "ES256", {"kty": "EC", "crv": "P-256", "x": _number(point.x, 32), "y": _number(point.y, 32)}
    if isinstance(public, ed25519.Ed25519PublicKey):
        raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        y = int.from_bytes(raw, "little") & (2**255 - 1)
        if y >= _FIELD or y in _SMALL_ORDER:
            raise KeysError(f"{where}: an Ed25519 key that everybody can sign for: its point is of small order, or misspelt")
        return "EdDSA", {"kty": "OKP", "crv": "Ed25519", "x": base64url(raw)}
    curve = getattr(public, "curve", None)
    found = f"a key on the curve {curve.name}" if curve is not None else f"a {type(public).__name__}"
    raise KeysError(f"{where}: {found}; allowed: public keys of RSA, P-256 and Ed25519")


def thumbprint(jwk: Mapping[str, str]) -> str:
    """Return the thumbprint of a public key given as its required members (RFC 7638 §3: sorted, without white space)."""
    canonical = json.dumps(dict(jwk), sort_keys=True, separators=(",", ":")).encode()
    return base64url(hashlib.sha256(canonical).digest())


def _number(value: int, length: int | None = None) -> str:
    return base64url(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


def _from_pem(data: bytes, where: str) -> list[Key]:
    found = []
    for block in _PEM_BLOCK.finditer(data):
        label = block[1].decode()
        if "PRIVATE" in label:
            raise KeysError(f"{where}: a private key; a service that checks tokens must have the public half only")
        if not label.endswith("PUBLIC KEY"):
            raise KeysError(f"{where}: found '{label}'; allowed: PUBLIC KEY, or a JWK set")
        try:
            public = serialization.load_pem_public_key(block[0] + b"\n")
        except (ValueError, UnsupportedAlgorithm):
            raise KeysError(f"{where}: a public key in PEM that cannot be read") from None
        found.append(make_key(public, where))
    return found


def _from_jwks(data: bytes, where: str) -> list[Key]:
    try:
        document = jose.parse(data)
    except MalformedToken as error:
        raise KeysError(f"{where}: {error}") from None
    members = document.get("keys")
    if not isinstance(members, tuple) or not all(isinstance(member, Mapping) for member in members):
        raise KeysError(f"{where}: no JWK set, which is an object with the list 'keys' (RFC 7517 §5)")
    return [key for number, member in enumerate(members) if (key := _from_jwk(member, f"{where}: key {number + 1}")) is not None]


def _from_jwk(jwk: Mapping[str, Any], where: str) -> Key | None:
    """Return one key; None for one that is not for signatures, or of a kind that is unknown here (RFC 7517 §5: ignore it)."""
    if jwk.get("kty") == "oct" or "d" in jwk or "k" in jwk:
        raise KeysError(f"{where}: a secret key; a service that checks tokens must have public keys only")
    operations = jwk.get("key_ops", ("verify",))
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, tuple) or "verify" not in operations:
        return None
    kid = jwk.get("kid")
    if kid is not None and (not isinstance(kid, str) or not 0 < len(kid) <= jose.MAX_NAME):
        raise KeysError(f"{where}: its 'kid' is not a short string")
    kind = (jwk.get("kty"), jwk.get("crv"))
    try:
        if kind[0] == "RSA":
            public: PublicKey = rsa.RSAPublicNumbers(_uint(jwk["e"]), _uint(jwk["n"])).public_key()
        elif kind == ("EC", "P-256"):
            public = ec.EllipticCurvePublicNumbers(_uint(jwk["x"], 32), _uint(jwk["y"], 32), ec.SECP256R1()).public_key()
        elif kind == ("OKP", "Ed25519"):
            public = ed25519.Ed25519PublicKey.from_public_bytes(_octets(jwk["x"]))
        else:
            _LOG.warning("%s: left out, for its kind %s is not one of RSA, P-256 and Ed25519", where, quoted(kind))
            return None
    except (KeyError, ValueError, MalformedToken):
        raise KeysError(f"{where}: its numbers are missing, misspelt, or no point of the curve") from None
    key = make_key(public, where, kid)
    if jwk.get("alg", key.alg) != key.alg:
        raise KeysError(f"{where}: it is for {quoted(jwk['alg'])}; allowed for this kind of key: {key.alg}")
    return key


def _octets(value: object) -> bytes:
    if not isinstance(value, str) or not value.isascii():
        raise ValueError("not base64url")
    return jose.decode(value.encode())


def _uint(value: object, length: int | None = None) -> int:
    """Read a Base64urlUInt (RFC 7518 §2): no needless zero in front, or, for a coordinate (§6.2.1.2), exactly ``length`` bytes."""
    octets = _octets(value)
    if (len(octets) != length) if length else octets[0] == 0:
        raise ValueError("not the octets that the number has")
    return int.from_bytes(octets, "big")
