"""Checking Kiwi ID's tokens in any Python service: with the issuer's public key, without a network call (see docs/verify.md).

    from kiwi_id.verify import TokenError, Verifier

    verifier = Verifier("/etc/kiwi/jwt-public.pem", issuer="https://id.example.com", audience="mail")
    claims = verifier.verify(token)

Needs nothing but the package ``cryptography``: what the server needs is never imported here.
"""

from kiwi_id.verify.claims import Claims
from kiwi_id.verify.errors import (
    BadSignature,
    ExpiredToken,
    KeysError,
    MalformedToken,
    NotYetValid,
    TokenError,
    UnknownKey,
    WrongAudience,
    WrongIssuer,
    WrongType,
)
from kiwi_id.verify.remote import JwksUrl
from kiwi_id.verify.source import KeyFile, KeySource
from kiwi_id.verify.verifier import Verifier

__all__ = [
    "BadSignature",
    "Claims",
    "ExpiredToken",
    "JwksUrl",
    "KeyFile",
    "KeySource",
    "KeysError",
    "MalformedToken",
    "NotYetValid",
    "TokenError",
    "UnknownKey",
    "Verifier",
    "WrongAudience",
    "WrongIssuer",
    "WrongType",
]
