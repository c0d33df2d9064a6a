"""Access tokens as the issuer makes them, signed with a key of the tests' own."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kiwi_id.issuer.keys import Key, KeyState, make_key
from kiwi_id.verify import Verifier

ISSUER = "https://id.example.com"
AUDIENCE = "mail"


def _key() -> Key:
    return make_key(ec.generate_private_key(ec.SECP256R1()), KeyState.CURRENT, datetime.now(UTC), Path("jwt-private.pem"))


KEY, STRANGER = _key(), _key()
VERIFIER = Verifier(KEY.private.public_key(), issuer=ISSUER, audience=AUDIENCE)


def public_pem() -> bytes:
    """The public half of the key, as jwt-public.pem holds it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(KEY.private.public_key().public_bytes(serialization.Encoding.PEM, form))


def token(key: Key = KEY, **changes: Any) -> str:
    """Return an access token of alice's, who is in mail_users and may read mail; ``changes`` replace claims."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": "7a3f6c0e-5a3c-4f43-9d3b-0f0b8a3a3c11",
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + 86400,  # some are made when the tests are collected, and the suite takes its time
        "jti": secrets.token_urlsafe(16),
        "client_id": AUDIENCE,
        "scope": "openid mail_read",
        "name": "Alice Demo",
        "groups": ["kiwi_users", "mail_users"],
    }
    return key.sign({**claims, **changes}, "at+jwt")
