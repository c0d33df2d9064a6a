"""What login steps and token requests say, read as Kanidm reads it; and what its answers mean.

Kanidm decides for whom a step is, so a name must never be read in another way here than there: each alias and each way of writing
that it takes (server/lib/src/server/mod.rs, ``name_to_uuid``; serde's of its JSON) has to lead to the same bucket.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import uuid
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

from kiwi_id.proxy.rules import Headers

SESSION_COOKIE = b"auth-session-id"
_SESSION_HEADER = b"x-kanidm-auth-session-id"
_BEARER_COOKIE = b"bearer"
# EXTRACT_VAL_DN of Kanidm: "name=alice,dc=…" is alice.
_DN = re.compile(r"(?:[^=,]+=)?([^=,]+)")
_STATE = re.compile(rb'"state"\s*:\s*\{\s*"(\w+)"')
# As lenient as serde is about members that it does not look at; numbers are never needed, and long ones are slow.
_JSON = json.JSONDecoder(strict=False, parse_int=lambda _: 0, parse_float=lambda _: 0.0)


def account(name: str) -> str:
    """Return the one name of an account, of all under which Kanidm lets it log in: without DN, case and domain."""
    found = _DN.match(name)
    plain = (found[1] if found else name).lower()
    try:
        return str(uuid.UUID(plain))
    except ValueError:
        return plain.partition("@")[0]


def account_of_form(body: bytes) -> str:
    """Return the account of the first login form, or nothing."""
    pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    return next((account(value) for name, value in pairs if name == "username"), "")


def step_of(body: bytes) -> tuple[str, str]:
    """Return a step of ``/v1/auth`` (proto/src/v1/auth.rs): its kind, and the account of ``init`` and ``init2``.

    The kind is empty for JSON that is no step. Raises ValueError for what is no JSON.
    """
    try:
        # What stands behind the value is not looked at: axum 0.7 does not either.
        request, _ = _JSON.raw_decode(body.decode("utf-8", "surrogateescape").lstrip(" \t\r\n"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    step = _member(request, "step", 0)
    if not isinstance(step, dict):
        return "", ""
    for kind in ("init2", "init", "begin", "cred"):
        if kind in step:
            name = _member(step[kind], "username", 0) if kind == "init2" else step[kind] if kind == "init" else ""
            return kind, account(name) if isinstance(name, str) else ""
    return "", ""


def _member(value: Any, name: str, place: int) -> Any:
    """Return a member of a struct of Rust's, which serde takes as an object and as an array."""
    if isinstance(value, dict):
        return value.get(name)
    return value[place] if isinstance(value, list) and len(value) > place else None


def login_tokens(headers: Headers) -> tuple[bytes, ...]:
    """Return what names the login in progress of a request: all of it, since Kanidm looks at one only, and we cannot know which."""
    found = [value for name, value in headers if name == _SESSION_HEADER]
    for name, value in headers:
        if name == b"cookie":
            # Kanidm's cookie jar decodes both halves (cookie::Cookie::split_parse_encoded).
            pairs = (unquote_to_bytes(pair).partition(b"=") for pair in value.split(b";"))
            found += [content for key, _, content in pairs if key.strip() == SESSION_COOKIE]
    return tuple(dict.fromkeys(_digest(token) for token in found if token.strip()))


def next_tokens(headers: Headers) -> tuple[bytes, ...]:
    """Return what names the login in progress after an answer; nothing when it has ended, or never begun."""
    found = [value for name, value in headers if name == _SESSION_HEADER]
    found += [value for name, value in _set_cookies(headers) if name == SESSION_COOKIE and value]
    return tuple(dict.fromkeys(_digest(token) for token in found))


def ends_login(headers: Headers) -> bool:
    """Tell whether an answer takes the login in progress away: Kanidm does so when it has refused what it was shown."""
    return any(name == SESSION_COOKIE and not value for name, value in _set_cookies(headers))


def opens_session(headers: Headers) -> bool:
    """Tell whether an answer brings a session."""
    return any(name == _BEARER_COOKIE and value for name, value in _set_cookies(headers))


def state_of(answer: bytes) -> str:
    """Return the state in an answer of ``/v1/auth``: choose, continue, success or denied; nothing for another answer."""
    found = _STATE.search(answer)
    return found[1].decode() if found else ""


def _set_cookies(headers: Headers) -> Iterable[tuple[bytes, bytes]]:
    for name, value in headers:
        if name == b"set-cookie":
            key, _, content = value.partition(b";")[0].partition(b"=")
            yield key.strip(), content.strip()


def _digest(token: bytes) -> bytes:
    # Without its signature, which might be written in more than one way; and digested, because the cookie of Kanidm's pages may
    # hold what a password manager has filled in (server/core/src/https/views/login.rs, SessionContext).
    signed, _, _ = token.strip().rpartition(b".")
    return hashlib.blake2b(signed, digest_size=16).digest()


def client_of(headers: Headers, body: bytes) -> str:
    """Return the OAuth2 client that a token request says it is (RFC 6749 §2.3.1), or nothing."""
    for name, value in headers:
        scheme, _, rest = value.partition(b" ") if name == b"authorization" else (b"", b"", b"")
        if scheme.lower() == b"basic":
            try:
                pair = base64.b64decode(rest.strip()).decode("utf-8", "replace")
            except binascii.Error:
                return ""
            return unquote(pair.partition(":")[0]).lower()[:256]
    pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    return next((value.lower()[:256] for name, value in pairs if name == "client_id"), "")
