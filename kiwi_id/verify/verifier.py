"""The one way to check a token: form, type, key, signature, claims, in this order; nothing is believed before it is proven.

RFC 7515 §5.2, RFC 7519 §7.2, RFC 9068 §4, RFC 8725 §3.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from kiwi_id.verify import jose, keys
from kiwi_id.verify.cache import Cache, Entry
from kiwi_id.verify.claims import Claims, claims_of, seconds
from kiwi_id.verify.errors import (
    BadSignature,
    ExpiredToken,
    MalformedToken,
    NotYetValid,
    TokenError,
    UnknownKey,
    WrongAudience,
    WrongIssuer,
    WrongType,
    quoted,
)
from kiwi_id.verify.keys import Key, Keys, PublicKey
from kiwi_id.verify.source import FixedKeys, KeyFile, KeySource

ACCESS_TYPE = "at+jwt"
MAX_LEEWAY = 300.0
# Headers of tokens found good, to spare reading the same one again: an issuer has one for each of its keys.
_HEADERS = 32


class _State:
    """What is remembered under one set of keys, and forgotten with it as a whole: no token can outlive its key here."""

    __slots__ = ("cache", "headers", "keys")

    def __init__(self, found: Keys, cache_size: int) -> None:
        self.keys = found
        self.cache = Cache(cache_size)
        self.headers: dict[bytes, Key] = {}


class Verifier:
    """Checks tokens of one issuer for one service; make one and keep it. Safe across threads, and never waits for anything.

    ``keys``: the path of a PEM or JWKS file, which is read again when it changes; a public key of ``cryptography``, several, or a
    mapping of ``kid`` to key; or a source such as :class:`kiwi_id.verify.JwksUrl`. ``audience``: what the service is called, one
    name or several of which the token must have one; ``None``, which must be said, takes any token of the issuer. ``token_type``:
    the header's ``typ``, where ``application/`` may stand in front (RFC 9068 §4). ``leeway``: seconds by which clocks may differ,
    as much as Kiwi ID itself allows. ``cache_size``: tokens that are remembered; 0 for none. ``clock`` gives Unix seconds.
    Raises KeysError, and ValueError for an argument that cannot be meant.
    """

    def __init__(
        self,
        keys: str | Path | PublicKey | Sequence[PublicKey] | Mapping[str, PublicKey] | KeySource,
        *,
        issuer: str,
        audience: str | Collection[str] | None,
        token_type: str = ACCESS_TYPE,
        leeway: float = 5.0,
        cache_size: int = 1024,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not (issuer and token_type and isinstance(issuer, str) and isinstance(token_type, str)):
            raise ValueError("issuer and token_type must be texts that are not empty")
        if not 0 <= leeway <= MAX_LEEWAY:
            raise ValueError(f"leeway: found {leeway}; allowed: 0 to {MAX_LEEWAY:g} seconds")
        self._audience = None if audience is None else _names(audience)
        self._issuer, self._leeway, self._cache_size, self._clock = issuer, leeway, cache_size, clock
        self._types = (token_type, f"application/{token_type}")
        self._access = token_type == ACCESS_TYPE
        self._source = _source(keys)
        self._state = _State(self._source.current(), cache_size)

    def verify(self, token: str | bytes) -> Claims:
        """Return the claims of a token that may be accepted. Raises TokenError otherwise, TypeError for what is no str or bytes."""
        found = self._source.current()
        state = self._state
        if found is not state.keys:
            state = self._state = _State(found, self._cache_size)
        data = jose.ascii_bytes(token)
        now = self._clock()
        if not self._cache_size:
            return self._check(data, state, now)[0]
        digest = hashlib.sha256(data).digest()
        entry = state.cache.get(digest)
        if entry is not None and entry.begins <= now < entry.ends:
            return entry.claims
        entry = Entry(*self._check(data, state, now))
        state.cache.put(digest, entry)
        return entry.claims

    def _check(self, data: bytes, state: _State, now: float) -> tuple[Claims, float, float]:
        """Return a token's claims, and between which times they may be given out."""
        signing_input, head, payload, signature = jose.split(data)
        known = state.headers.get(head)
        key = known or self._key(jose.header(head), state.keys)
        if not key.verifies(signing_input, jose.decode(signature)):
            raise BadSignature("the token's signature is not the issuer's")
        if known is None and len(state.headers) < _HEADERS:
            state.headers[head] = key
        claims = claims_of(jose.decode(payload))
        raw = claims.raw
        if self._access and not (raw.get("jti") and raw.get("client_id")):
            name = "client_id" if raw.get("jti") else "jti"
            raise MalformedToken(f"the claim '{name}' is empty" if name in raw else f"the token has no claim '{name}'")
        if raw["iss"] != self._issuer:
            raise WrongIssuer(f"the token is of the issuer {quoted(raw['iss'])}, not of {quoted(self._issuer)}")
        if self._audience is not None and self._audience.isdisjoint(claims.audience):
            raise WrongAudience(f"the token is for {quoted(claims.audience)}, not for {quoted(sorted(self._audience))}")
        begins, ends = raw["iat"], raw["exp"] + self._leeway
        if "nbf" in raw:
            begins = max(begins, seconds(raw, "nbf"))
        begins -= self._leeway
        if not begins <= now < ends:
            raise _out_of_time(raw, now, ends)
        return claims, begins, ends

    def _key(self, header: jose.Header, found: Keys) -> Key:
        """Return the key that a header names, which alone says what the algorithm is (RFC 8725 §3.1)."""
        if header.typ not in self._types:
            kind = "no type" if header.typ is None else f"the type {quoted(header.typ)}"
            raise WrongType(f"the token has {kind}; wanted: {self._types[0]}")
        key = found.find(header.kid)
        if key is None:
            self._source.missed()
            named = "names no key, and there are several" if header.kid is None else f"names the key {quoted(header.kid)}"
            raise UnknownKey(f"the token {named}; known: {', '.join(quoted(kid) for kid in list(found.by_kid)[:8])}")
        if header.alg != key.alg:
            raise BadSignature(f"the token says algorithm {quoted(header.alg)}; its key is for {key.alg} only")
        return key


def _out_of_time(raw: Mapping[str, Any], now: float, ends: float) -> TokenError:
    if now >= ends:
        return ExpiredToken(timedelta(seconds=now - raw["exp"]))
    return NotYetValid(timedelta(seconds=max(raw["iat"], raw.get("nbf", 0)) - now))


def _names(audience: object) -> frozenset[str]:
    names = [audience] if isinstance(audience, str) else audience
    if not isinstance(names, Collection) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"audience: found {quoted(audience)}; allowed: a name, several, or None for any; as text, and none empty")
    return frozenset(names)


def _source(given: object) -> KeySource:
    if isinstance(given, str | Path):
        return KeyFile(given)
    if hasattr(given, "current") and hasattr(given, "missed"):
        source: KeySource = given
        return source
    return FixedKeys(keys.given(given))  # type: ignore[arg-type]  # whatever it is, it is looked at there
