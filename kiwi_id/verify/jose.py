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
MIN_INTEGER, MAX_INTEGER = -(2**53) + 1, 2**53 - 1

# The characters whose unused bits are zero, by how many characters are left over after whole groups of four.
_LAST = {2: b"AQgw", 3: b"AEIMQUYcgkosw048"}
_PADDING = {0: b"", 2: b"==", 3: b"="}
# As numbers, for a search for a number in bytes takes a fifth of the time of one for a byte.
_DOT, _PLUS, _SLASH, _EQUALS = b".+/="
# A token that brings its own key, or says where to get it, asks to be believed (RFC 8725 §3.10); an extension that must be
# understood (RFC 7515 §4.1.11), and an unencoded payload (RFC 7797) or a compressed one, are none that we understand.
_REFUSED = ("jwk", "jku", "x5u", "x5c", "crit", "b64", "zip")


@dataclass(frozen=True, slots=True)
class Header:
    """What counts of a JOSE header: nothing of it is believed, ``alg`` least of all."""

    alg: str
    kid: str | None
    typ: str | None


def split(token: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Return what was signed, and the three parts of a token, still encoded (RFC 7515 §5.2)."""
    signed, _, signature = token.rpartition(b".")
    head, dot, payload = signed.partition(b".")
    if not dot or _DOT in payload:
        raise MalformedToken("the token is not of three parts with a dot between each two")
    return signed, head, payload, signature


def decode(part: bytes) -> bytes:
    """Decode base64url without padding (RFC 7515 §2), in its one canonical spelling (RFC 4648 §3.5, §12)."""
    left = len(part) % 4
    if left == 1 or not part or (left and part[-1] not in _LAST[left]):
        raise MalformedToken("a part of the token is empty, cut off, or not spelt as base64url must be")
    try:
        if _PLUS in part or _SLASH in part or _EQUALS in part:  # base64's own, which the decoder would take
            raise binascii.Error
        # Two searches for rare bytes; a table that translates every byte takes as long as the decoding.
        return binascii.a2b_base64(part.replace(b"-", b"+").replace(b"_", b"/") + _PADDING[left], strict_mode=True)
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
    _, head, payload, signature = split(ascii_bytes(token))
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
    return MappingProxyType(members(data)[0])


def members(data: bytes) -> tuple[dict[str, Any], list[str]]:
    """Do what parse() does; return the members, and the names of those that are not strings."""
    try:
        text = data.decode().strip(" \t\r\n")
        value, end = _DECODER.raw_decode(text)
        if end != len(text):
            raise ValueError("more than one value")
        if "\\" in text:  # half of a surrogate pair is no text: it could not be written anywhere
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise MalformedToken("found something that is not JSON in UTF-8") from None
    if type(value) is not tuple:
        raise MalformedToken("found JSON that is not an object")
    return _object(value, 1)


def _object(pairs: tuple[tuple[str, Any], ...], depth: int) -> tuple[dict[str, Any], list[str]]:
    if depth > MAX_DEPTH:
        raise MalformedToken(f"found JSON nested deeper than {MAX_DEPTH} levels")
    found, others = {}, []
    for name, value in pairs:
        if type(value) is not str:
            others.append(name)
            value = _frozen(value, depth)  # noqa: PLW2901
        found[name] = value
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MalformedToken(f"found JSON with the member {quoted(twice)} twice")
    return found, others


def _frozen(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is int or kind is float:
        if not MIN_INTEGER <= value <= MAX_INTEGER:  # infinity, which 1e999 is to Python, is beyond as well
            raise MalformedToken("found JSON with a number that is too large")
    elif kind is tuple:
        return MappingProxyType(_object(value, depth + 1)[0])
    elif kind is list:
        if depth >= MAX_DEPTH:
            raise MalformedToken(f"found JSON nested deeper than {MAX_DEPTH} levels")
        return tuple([item if type(item) is str else _frozen(item, depth + 1) for item in value])
    return value


def _constant(name: str) -> NoReturn:
    raise MalformedToken(f"found {name}, which is not JSON")


# An object comes as a tuple of its members, where one that is there twice can still be seen; a list comes as a list.
_DECODER = json.JSONDecoder(object_pairs_hook=tuple, parse_constant=_constant)
