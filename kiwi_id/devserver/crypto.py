"""Keys, signatures and secrets of the stand-in: JWS, Fernet boxes, password hashes, one-time codes."""

import base64
import hashlib
import hmac
import json
import secrets
import struct
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

__all__ = [
    "CookieKey",
    "SigningKey",
    "b64",
    "check_password",
    "fernet_open",
    "fernet_seal",
    "hash_password",
    "new_secret",
    "totp",
    "unb64",
]

_LETTERS = "abcdefghijkmnopqrstuvwxyzABCDEFGHIJKLMNPQRSTUVWXYZ0123456789"


def b64(data: bytes) -> str:
    """Encode as base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    """Decode base64url without padding; raise ValueError for anything else."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def new_secret(length: int = 48) -> str:
    """A random secret of `length` letters and digits, as Kanidm makes for clients and recovered accounts."""
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


class SigningKey:
    """A private key that signs compact JWS: ES256, or RS256 for clients with legacy crypto."""

    def __init__(self, private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
        self._private = private
        self.alg = "ES256" if isinstance(private, ec.EllipticCurvePrivateKey) else "RS256"
        public = private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.kid = hashlib.sha256(public).hexdigest()[:32]

    @classmethod
    def generate(cls, alg: str = "ES256") -> "SigningKey":
        """Make a new key for `alg`, "ES256" or "RS256"."""
        if alg == "RS256":
            return cls(rsa.generate_private_key(public_exponent=65537, key_size=2048))
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: str) -> "SigningKey":
        """Load what `pem` wrote; raise ValueError for another kind of key."""
        private = serialization.load_pem_private_key(pem.encode(), None)
        if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise ValueError("an EC P-256 or RSA private key is expected")
        return cls(private)

    def pem(self) -> str:
        """The private key as PKCS #8 PEM."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    def jwk(self) -> dict[str, str]:
        """The public key as Kanidm publishes it in `public_key.jwk`."""
        if isinstance(self._private, ec.EllipticCurvePrivateKey):
            point = self._private.public_key().public_numbers()
            members = {
                "kty": "EC",
                "crv": "P-256",
                "x": b64(point.x.to_bytes(32, "big")),
                "y": b64(point.y.to_bytes(32, "big")),
            }
        else:
            numbers = self._private.public_key().public_numbers()
            members = {"kty": "RSA", "n": b64(numbers.n.to_bytes(256, "big")), "e": b64(numbers.e.to_bytes(3, "big"))}
        return {**members, "alg": self.alg, "use": "sig", "kid": self.kid}

    def sign(self, payload: Any, typ: str | None = None) -> str:
        """Sign `payload` (JSON) into a compact JWS, with `typ` in its header when given."""
        header = {"alg": self.alg, "kid": self.kid}
        if typ:
            header["typ"] = typ
        signed = f"{b64(_json(header))}.{b64(_json(payload))}"
        if isinstance(self._private, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(self._private.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
            signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        else:
            signature = self._private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{b64(signature)}"

    def verify(self, token: str) -> dict[str, Any] | None:
        """The claims of a JWS that this key signed, else None. Times are not looked at."""
        try:
            head, body, tail = token.split(".")
            signature = unb64(tail)
            if json.loads(unb64(head)).get("alg") != self.alg:
                return None
            data = f"{head}.{body}".encode()
            if isinstance(self._private, ec.EllipticCurvePrivateKey):
                der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
                self._private.public_key().verify(der, data, ec.ECDSA(hashes.SHA256()))
            else:
                self._private.public_key().verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
            claims = json.loads(unb64(body))
        except (ValueError, AttributeError, InvalidSignature):
            return None
        return claims if isinstance(claims, dict) else None


class CookieKey:
    """The HS256 key of the login cookies. Made anew at each start, as Kanidm does (server/core/src/lib.rs)."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def _mac(self, data: str) -> str:
        return b64(hmac.digest(self._key, data.encode(), "sha256"))

    def sign(self, value: Any) -> str:
        """Sign any JSON value into a compact JWS."""
        data = f"{b64(_json({'alg': 'HS256'}))}.{b64(_json(value))}"
        return f"{data}.{self._mac(data)}"

    def verify(self, token: str) -> Any:
        """The signed value, or None for a token of another key or run."""
        data, _, mac = token.rpartition(".")
        if not data or not hmac.compare_digest(mac.encode(), self._mac(data).encode()):
            return None
        return json.loads(unb64(data.partition(".")[2]))


def fernet_seal(key: str, value: Any) -> str:
    """Seal a JSON value; Kanidm 1.5.0 makes codes, refresh and consent tokens in this way."""
    return Fernet(key).encrypt(_json(value)).decode()


def fernet_open(key: str, token: str, ttl: int | None = None) -> dict[str, Any] | None:
    """Open what `fernet_seal` made, at most `ttl` seconds ago; None when it is foreign or too old."""
    try:
        value = json.loads(Fernet(key).decrypt(token.encode(), ttl))
    except (InvalidToken, ValueError):
        return None
    return value if isinstance(value, dict) else None


def hash_password(password: str) -> str:
    """Hash a password with scrypt, cheaply: a stand-in guards no real accounts and should answer fast."""
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(password.encode(), salt=salt, n=2**10, r=8, p=1)
    return f"{b64(salt)}${b64(digest)}"


def check_password(password: str, hashed: str) -> bool:
    """Whether `password` is the one that `hash_password` made `hashed` from."""
    salt, _, digest = hashed.partition("$")
    return hmac.compare_digest(hashlib.scrypt(password.encode(), salt=unb64(salt), n=2**10, r=8, p=1), unb64(digest))


def totp(secret: bytes, now: float, step: int = 30, digits: int = 6) -> int:
    """The one-time code of RFC 6238 with SHA-256, which is what Kanidm registers, at Unix time `now`."""
    mac = hmac.digest(secret, struct.pack(">Q", int(now) // step), "sha256")
    offset = mac[-1] & 15
    number = int.from_bytes(mac[offset : offset + 4], "big")
    return int((number & 0x7FFFFFFF) % 10**digits)
