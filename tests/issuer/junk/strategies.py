"""What may come: parameters, values, tokens, headers, cookies, bodies, right and wrong and in between.

Every invented value holds ``MARK``, so that a log in which any of them stands is found by one word.
"""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any
from urllib.parse import quote_from_bytes

from hypothesis import strategies as st

MARK = "Zq7kLeak"
METHODS = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "QUERY", "get"]
KINDS = [
    *("application/x-www-form-urlencoded", "application/x-www-form-urlencoded; charset=UTF-8", "APPLICATION/X-WWW-FORM-URLENCODED"),
    *(
        "application/json",
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded, text/html",
        "",
        "\xff/\xfe",
    ),
]
NAMES = [
    *(
        "client_id",
        "client_secret",
        "redirect_uri",
        "response_type",
        "response_mode",
        "scope",
        "state",
        "nonce",
        "prompt",
        "max_age",
    ),
    *(
        "ui_locales",
        "claims_locales",
        "claims",
        "request",
        "request_uri",
        "registration",
        "id_token_hint",
        "login_hint",
        "acr_values",
    ),
    *("code_challenge", "code_challenge_method", "grant_type", "code", "code_verifier", "refresh_token", "access_token", "display"),
    *("token", "token_type_hint", "post_logout_redirect_uri", "box", "decision", "logout_hint", "client_assertion", "resource", ""),
]
WORDS = [
    *("code", "token", "id_token", "code id_token", "query", "fragment", "form_post", "none", "login", "consent", "select_account"),
    *("none login", "S256", "plain", "authorization_code", "refresh_token", "client_credentials", "password", "allow", "yes", "no"),
    *("openid", "openid profile email groups", "openid offline_access", "0", "-1", "1e999", "999999999", "9" * 40, "NaN", "true"),
    *("urn:ietf:params:oauth:grant-type:device_code", "urn:ietf:params:oauth:grant-type:token-exchange"),
    *(
        "https://evil.example/cb",
        "javascript:alert(1)",
        "data:text/html,x",
        "//evil.example",
        "https://[::1",
        "http://localhost:1/x",
    ),
]


def packed(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forgeries(token: str, secret: bytes) -> list[str]:
    """Return what an attacker makes of a JWT of ours whose public key is ``secret``: other headers, other types, pieces."""
    head, body, signature = token.split(".")
    ours: dict[str, Any] = json.loads(base64.urlsafe_b64decode(head + "=="))

    def made(**change: Any) -> str:
        signed = packed(json.dumps({**ours, **change}).encode()) + "." + body
        return f"{signed}.{packed(hmac.digest(secret, signed.encode(), 'sha256'))}"

    odd: list[Any] = [None, [], {"a": 1}, 7, ""]
    extras: list[dict[str, Any]] = [
        *({"crit": ["exp"]}, {"crit": []}, {"b64": False}, {"jku": "https://evil.example/"}, {"zip": "DEF"}, {"x5c": ["AAAA"]}),
        {"jwk": {"kty": "oct", "k": "AAAA"}},
    ]
    return [
        *(made(alg=alg) for alg in ["none", "NONE", "HS256", "RS256", "ES256", "EdDSA", *odd]),
        *(made(kid=kid) for kid in ["../../etc/passwd", "x" * 5000, "' OR 1=1 --", *odd]),
        *(made(typ=typ) for typ in ["JWT", "at+jwt", "logout+jwt", "at+jwt ", *odd]),
        *(made(**extra) for extra in extras),
        *(f"{head}.{body}.", f"{head}.{body}", f"{head}.", token[:-3], token + "A", f".{body}.", "..", token + "." + token),
        *(f"{packed(junk)}.{body}.{signature}" for junk in (b"[" * 20000, b"null", b"\xff", b"[]", b"7", b"")),
        *(f"{head}.{packed(junk)}.{signature}" for junk in (b"{" * 3000, b"null", token.encode())),
        base64.b64encode(base64.b64encode(token.encode())).decode(),
    ]


COOKIES = [
    *(f"e30.{packed(payload)}.x" for payload in (b"null", b"[]", b"[" * 9000, b"\xff", b"7", b'{"issued_at":1e999}', b'"x"')),
    "e30." + packed(b'{"session_id":"a","uuid":"b","spn":"<script>c","issued_at":1}') + ".x",
    "e30." + packed(b'{"session_id":"\\ud800","uuid":"b","spn":"c","issued_at":1}') + ".x",
    "e30." + packed(b'{"session_id":[],"uuid":{},"spn":3,"issued_at":"x","expiry":{}}') + ".x",
]


def values(known: list[str]) -> st.SearchStrategy[bytes]:
    """Return values of parameters as raw bytes; ``known`` are tokens, boxes and names that are right somewhere."""
    right = st.sampled_from(known) if known else st.nothing()
    changed = st.tuples(right, st.integers(0, 200), st.sampled_from("Aa0-_=.+/\x00é")).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] + 1 :]
    )
    odd = st.sampled_from(
        ["", "\x00", "\r\nSet-Cookie: a=b", "é\U0001f95d", "<script>alert(1)</script>", '"\\', "%00", "{}", "[1]", "null"]
    )
    texts = st.one_of(
        right, right, changed, st.sampled_from(WORDS), odd.map(lambda text: text + MARK), st.text(max_size=30).map(_encodable)
    )
    huge = st.sampled_from([MARK + char * size for char in ("a", "é", "\x01", "[") for size in (300, 3000, 15000)])
    raw = st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\x00\xff\xfe"]) | st.binary(max_size=12)
    return st.one_of(texts.map(str.encode), texts.map(str.encode), huge.map(str.encode), raw.map(lambda data: data + MARK.encode()))


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode() + MARK


def forms(known: list[str]) -> st.SearchStrategy[bytes]:
    """Return query strings and bodies: well-formed, half-formed, or none at all."""
    name = st.sampled_from(NAMES).map(str.encode) | st.binary(max_size=5)
    pair = st.tuples(name, values(known)).map(lambda pair: quote_from_bytes(pair[0]) + "=" + quote_from_bytes(pair[1]))
    usual = st.lists(pair, max_size=9).map("&".join)
    broken = st.sampled_from(
        ["=", "&&&", "%", "a=%zz", "a=%f", "a&b&a", ";", "code=a;b", "+=+", '{"a":1}', "&".join(["p=1"] * 120)]
    )
    return st.one_of(usual, usual, usual, broken, st.tuples(usual, broken).map("&".join)).map(str.encode)


def like(base: dict[str, str], known: list[str]) -> st.SearchStrategy[bytes]:
    """Return forms that are ``base`` but for a few parameters: what gets past the first checks."""

    def encode(change: dict[str, bytes | None]) -> bytes:
        whole: dict[str, bytes | None] = {**{name: value.encode() for name, value in base.items()}, **change}
        return "&".join(f"{name}={quote_from_bytes(value)}" for name, value in whole.items() if value is not None).encode()

    names = st.sampled_from([*base, *base, *base, *NAMES[:-1]])
    return st.dictionaries(names, st.none() | values(known), min_size=1, max_size=3).map(encode)


def header_values(known: list[str]) -> st.SearchStrategy[bytes]:
    """Return values of an Authorization header."""
    secret = values(known).map(lambda data: bytes(byte for byte in data if byte >= 32 and byte != 127)[:20000].strip())
    pairs = st.tuples(values(known), values(known)).map(lambda pair: pair[0][:500] + b":" + pair[1][:500])
    basic = (pairs | values(known)).map(lambda data: b"Basic " + base64.b64encode(data[:900]))
    scheme = st.sampled_from([b"Bearer ", b"bearer ", b"Bearer", b"Basic ", b"DPoP ", b"", b"Bearer  ", b"Digest "])
    return st.one_of(basic, st.tuples(scheme, secret).map(b"".join))


def cookie_values(known: list[str]) -> st.SearchStrategy[bytes]:
    """Return Cookie headers, with a ``bearer`` that is right, wrong or odd."""
    name = st.sampled_from(["bearer", "bearer", "__Host-kiwi-clients", "__Host-kiwi-state-x", "x", ""]).map(str.encode)
    odd = st.sampled_from([b"\xff\xfe", b'"quoted"', b"a b", b"=" * 40, b"x" * 9000])
    value = st.one_of(st.sampled_from([*known, *COOKIES]).map(str.encode), odd)
    return st.lists(st.tuples(name, value).map(b"=".join), min_size=1, max_size=3).map(b"; ".join)
