"""Reading a JWS in compact form (RFC 7515 §7.1) so strictly that each token has one spelling only.

Nothing here checks a signature. Every function raises MalformedToken, with words, for what it does not accept.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

from kiwi_id.verify.errors import MalformedToken, quoted

# Our own tokens have 3 KB at most; servers cut header fields at 8 to 64 KB.
MAX_TOKEN = 16384
# Deeper than any claim, and far from where Python's parsers run out of stack.
MAX_DEPTH = 16
MAX_NAME = 256
# The integers that every JSON implementation reads alike (RFC 7493 §2.2).
MAX_INTEGER = 2**53 - 1

# base64url to base64; what only the other alphabet has, and padding, become something that is in neither.
_TO_BASE64 = bytes.maketrans(b"-_+/=", b"+/!!!")
# The characters whose unused bits are zero, by how many characters are left over after whole groups of four.
_LAST = {2: b"AQgw", 3: b"AEIMQUYcgkosw048"}
_PADDING = {0: b"", 2: b"==", 3: b"="}
# A token that brings its own key, or says where to get it, asks to be believed (RFC 8725 §3.10); an extension that must be
# understood (RFC 7515 §4.1.11), and an unencoded payload (RFC 7797) or a compressed one, are none that we understand.
_REFUSED = ("jwk", "jku", "x5u", "x5c", "crit", "b64", "zip")


@dataclass(frozen=True, slots=True)
class Header:
    """What counts of a JOSE header: nothing of it is believed, ``alg`` least of all."""

    alg: str
    kid: str | None
    typ: str | None


def split(signing_input: bytes) -> tuple[bytes, bytes]:
    """Return header and payload, still encoded, of what stands before the last dot of a token (RFC 7515 §5.2)."""
    header, dot, payload = signing_input.partition(b".")
    if not dot or b"." in payload:
        raise MalformedToken("the token is not of three parts with a dot between each two")
    return header, payload


def decode(part: bytes) -> bytes:
    """Decode base64url without padding (RFC 7515 §2), in its one canonical spelling (RFC 4648 §3.5, §12)."""
    left = len(part) % 4
    if left == 1 or not part or (left and part[-1] not in _LAST[left]):
        raise MalformedToken("a part of the token is empty, cut off, or not spelt as base64url must be")
    try:
        return binascii.a2b_base64(part.translate(_TO_BASE64) + _PADDING[left], strict_mode=True)
    except binascii.Error:
        raise MalformedToken("a part of the token has characters that base64url does not have") from None


def header(part: bytes) -> Header:
    """Read the first part of a token."""
    return checked_header(parse(decode(part)))


def checked_header(members: Mapping[str, Any]) -> Header:
    """Return what counts of a header's members; those that would lead us astray are refused."""
    for name in _REFUSED:
        if name in members:
            raise MalformedToken(f"the token's header has '{name}', which is not accepted")
    found = []
    for name in ("alg", "kid", "typ"):
        value = members.get(name)
        if name in members and (type(value) is not str or not 0 < len(value) <= MAX_NAME):
            raise MalformedToken(f"'{name}' in the token's header is not a short string")
        found.append(value)
    alg, kid, typ = found
    if alg is None:
        raise MalformedToken("the token's header has no 'alg'")
    return Header(alg, kid, typ)


def unverified(token: str | bytes) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return header and claims of a token WITHOUT checking anything but its form: to show them to a person, never to decide."""
    signing_input, _, signature = ascii_bytes(token).rpartition(b".")
    head, payload = split(signing_input)
    decode(signature)
    return parse(decode(head)), parse(decode(payload))


def ascii_bytes(token: str | bytes) -> bytes:
    """Return a token as bytes; only ASCII, and not beyond MAX_TOKEN, can be one."""
    if not isinstance(token, str | bytes):  # a bytearray may change while it is read; anything else is a mistake of the caller's
        raise TypeError(f"a token is str or bytes, not {type(token).__name__}")
    if len(token) > MAX_TOKEN:
        raise MalformedToken(f"the token has {len(token)} characters; allowed: {MAX_TOKEN}")
    if isinstance(token, bytes):
        return token
    try:
        return token.encode("ascii")
    except UnicodeEncodeError:
        raise MalformedToken("the token has characters that are not ASCII") from None


def parse(data: bytes) -> Mapping[str, Any]:
    """Parse a JSON object (RFC 8259) in UTF-8: no member twice (RFC 7515 §4), no NaN, no number beyond what all can read.

    What is returned cannot be changed, lists having become tuples: checked tokens are remembered and shared.
    """
    try:
        text = data.decode("utf-8").strip(" \t\r\n")
        value, end = _DECODER.raw_decode(text)
        if end != len(text):
            raise ValueError("more than one value")
        if b"\\" in data:  # half of a surrogate pair is no text: it could not be written anywhere
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise MalformedToken("found something that is not JSON in UTF-8") from None
    if type(value) is not dict:
        raise MalformedToken("found JSON that is not an object")
    return _frozen(value, 1)


def _frozen(members: dict[str, Any], depth: int) -> Mapping[str, Any]:
    if depth > MAX_DEPTH:
        raise MalformedToken(f"found JSON nested deeper than {MAX_DEPTH} levels")
    for name, value in members.items():
        if type(value) is not str:
            members[name] = _frozen_value(value, depth)
    return MappingProxyType(members)


def _frozen_value(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is int or kind is float:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:  # infinity, which 1e999 is to Python, is beyond as well
            raise MalformedToken("found JSON with a number that is too large")
    elif kind is dict:
        return _frozen(value, depth + 1)
    elif kind is list:
        if depth >= MAX_DEPTH:
            raise MalformedToken(f"found JSON nested deeper than {MAX_DEPTH} levels")
        return tuple([item if type(item) is str else _frozen_value(item, depth + 1) for item in value])
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MalformedToken(f"found JSON with the member {quoted(twice)} twice")
    return members


def _constant(name: str) -> NoReturn:
    raise MalformedToken(f"found {name}, which is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
