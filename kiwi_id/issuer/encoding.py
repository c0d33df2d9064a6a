"""The few encodings that the issuer's modules share."""

from __future__ import annotations

import base64
import hashlib

# What our states, codes and refresh tokens begin with: whoever sees one knows whose it is without opening it.
PREFIX = "kiwi-"


def base64url(data: bytes) -> str:
    """Return base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def s256(verifier: str) -> str:
    """Return the PKCE challenge of a verifier (RFC 7636 §4.2)."""
    return base64url(hashlib.sha256(verifier.encode()).digest())
