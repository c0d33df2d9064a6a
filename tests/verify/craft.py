"""Tokens made by hand, right ones and such as no library would make, signed with cryptography alone."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from kiwi_id.verify import Verifier

ISSUER = "https://id.example.com"
AUDIENCE = "mail"
NOW = 1_800_000_000
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def b64(data: bytes | str) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data.encode() if isinstance(data, str) else data).decode().rstrip("=")


def unb64(text: str) -> bytes:
    """Return what base64url without padding stands for."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Signer:
    """A private key that signs anything."""

    def __init__(self, alg: str, kid: str = "one", private: Private | None = None) -> None:
        self.alg, self.kid = alg, kid
        self.private: Private = private or _new(alg)

    @property
    def public(self) -> Any:
        """The public half."""
        return self.private.public_key()

    def pem(self) -> bytes:
        """The public half in PEM."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return bytes(self.public.public_bytes(serialization.Encoding.PEM, form))

    def signature(self, data: bytes) -> bytes:
        """Sign as RFC 7518 and RFC 8037 say."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(data, padding.PKCS1v15(), hashes.SHA256())
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return self.private.sign(data)

    def parts(self, head: str, body: str) -> str:
        """Sign two parts as they are, whether or not they are base64url of anything."""
        signed = f"{head}.{body}"
        return f"{signed}.{b64(self.signature(signed.encode()))}"

    def raw(self, header: str | bytes, payload: str | bytes) -> str:
        """Sign a header and a payload given as the text, or bytes, that they are."""
        return self.parts(b64(header), b64(payload))

    def token(self, header: dict[str, Any] | None = None, /, **claims: Any) -> str:
        """Return a good access token; ``header`` and ``claims`` replace members, ``...`` takes one away."""
        return self.raw(json.dumps(self.header(**(header or {}))), json.dumps(payload(**claims)))

    def header(self, **changes: Any) -> dict[str, Any]:
        """Return the header of a good token, changed."""
        return _changed({"alg": self.alg, "kid": self.kid, "typ": "at+jwt"}, changes)


def payload(**changes: Any) -> dict[str, Any]:
    """Return the claims of a good token, changed."""
    claims = {
        "iss": ISSUER,
        "sub": "7a3f6c0e-5a3c-4f43-9d3b-0f0b8a3a3c11",
        "aud": AUDIENCE,
        "iat": NOW - 60,
        "exp": NOW + 840,
        "jti": "AAAAAAAAAAAAAAAAAAAAAA",
        "client_id": AUDIENCE,
        "scope": "openid groups",
        "name": "Alice Demo",
        "email": "alice@example.com",
        "groups": ["kiwi_users", "mail_users"],
    }
    return _changed(claims, changes)


def _changed(members: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**members, **changes}.items() if value is not ...}


def _new(alg: str) -> Private:
    if alg == "RS256":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1()) if alg == "ES256" else ed25519.Ed25519PrivateKey.generate()


SIGNERS = {alg: Signer(alg) for alg in ("RS256", "ES256", "EdDSA")}
ED = SIGNERS["EdDSA"]
STRANGER = Signer("EdDSA")


class Clock:
    """A clock that a test turns."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def verifier(signer: Signer = ED, **changes: Any) -> Verifier:
    """Return a verifier that knows one key by its name, at the time NOW."""
    settings: dict[str, Any] = {"issuer": ISSUER, "audience": AUDIENCE, "clock": lambda: NOW, **changes}
    keys = settings.pop("keys", {signer.kid: signer.public})
    return Verifier(keys, **settings)


def real_now() -> int:
    """The time of the machine, for tests of things that have no clock of their own."""
    return int(time.time())
