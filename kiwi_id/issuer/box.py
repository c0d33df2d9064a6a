"""Sealed boxes: what must travel through browsers and relying parties and come back as we sent it, unread and unchanged.

They are the reason why the facade has no database: a login's state, a code, the token of Kanidm inside ours. AES-256-GCM with a
random nonce, keyed by HKDF-SHA256 from the instance's signing key with one label per purpose, so that a box of one purpose never
opens as another; any replica with the same keys opens what another has sealed.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import time
import zlib
from typing import Any

from kiwi_id.issuer.encoding import base64url
from kiwi_id.issuer.http import OAuthError
from kiwi_id.issuer.keys import KeySet

# The first bytes of the key's thumbprint tell which key to try; they say no more than the published key set does.
_HINT = 4
_NONCE = 12
_MOST = 16384
# Sealing refuses what is larger, and opening stops there: a box that we did not make must not blow up even if its key were known.
_MOST_PLAIN = 65536
_PLAIN, _DEFLATED = b"\x00", b"\x01"


class NotOurs(Exception):
    """Not a box of this instance and purpose, changed on its way, or too old."""


class TooOld(NotOurs):
    """A box of this instance and purpose, unchanged, but past its lifetime."""


class Sealer:
    """Seals and opens boxes for one purpose with the keys of a set."""

    def __init__(self, purpose: str, keys: KeySet) -> None:
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - heavy, and wanted late
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

        self._ciphers: dict[bytes, AESGCM] = {}
        for key in keys.keys:
            kdf = HKDF(hashes.SHA256(), 32, salt=b"kiwi-id sealed box 1", info=purpose.encode())
            self._ciphers[_hint(key.kid)] = AESGCM(kdf.derive(key.seed))
        self._current = _hint(keys.current.kid)

    def seal(self, content: dict[str, Any], *, lifetime: float) -> str:
        """Return ``content`` (JSON types) sealed for ``lifetime`` seconds, as URL-safe text. Raises OAuthError: too large."""
        plain = json.dumps({**content, "exp": int(time.time() + lifetime)}, separators=(",", ":")).encode()
        packed = zlib.compress(plain, 6)
        body = _DEFLATED + packed if len(packed) < len(plain) else _PLAIN + plain
        nonce = os.urandom(_NONCE)
        data = self._current + nonce + self._ciphers[self._current].encrypt(nonce, body, self._current)
        text = base64url(data)
        if len(text) > _MOST or len(plain) > _MOST_PLAIN:
            raise OAuthError("invalid_request", "The request is too long: shorten state, redirect_uri, nonce or scope.")
        return text

    def open(self, text: str) -> dict[str, Any]:
        """Return what was sealed. Raises NotOurs, and TooOld when it is ours but too old."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415

        try:
            raw = text.encode("ascii")
            if len(raw) > _MOST:
                raise NotOurs
            data = base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True)
            # One spelling only: base64 has several for the same bytes, and a used code must not pass for a new one in another.
            if base64url(data) != text:
                raise NotOurs
            hint, nonce, body = data[:_HINT], data[_HINT : _HINT + _NONCE], data[_HINT + _NONCE :]
            plain = self._ciphers[hint].decrypt(nonce, body, hint)
        except (KeyError, ValueError, binascii.Error, InvalidTag):
            raise NotOurs from None
        content: dict[str, Any] = json.loads(_inflated(plain[1:]) if plain[:1] == _DEFLATED else plain[1:])
        if content.pop("exp") < time.time():
            raise TooOld
        return content


def _inflated(packed: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(packed, _MOST_PLAIN)
    except zlib.error:
        raise NotOurs from None
    if not inflater.eof:
        raise NotOurs
    return plain


def _hint(kid: str) -> bytes:
    return base64.urlsafe_b64decode(kid + "=")[:_HINT]
