"""What RFC 7515, RFC 7519, RFC 8725 and RFC 9068 have refused: each token here is rightly signed by a key that is trusted."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from kiwi_id.verify import BadSignature, MalformedToken, TokenError, UnknownKey, WrongType, jose
from tests.verify.craft import ED, NOW, SIGNERS, STRANGER, Signer, b64, payload, unb64, verifier

VERIFIER = verifier()


def refused(token: str | bytes, kind: type[TokenError], words: str = ".") -> None:
    """A token is refused for this reason, twice alike, and the message holds none of its parts."""
    for _ in range(2):
        with pytest.raises(kind, match=words) as caught:
            VERIFIER.verify(token)
        text = str(caught.value)
        assert type(caught.value) is kind
        assert text.isascii()
        assert len(text) < 300
        for part in (token if isinstance(token, str) else token.decode("latin-1")).split("."):
            assert len(part) < 20 or part not in text


@pytest.mark.parametrize("alg", SIGNERS)
def test_what_is_right_passes(alg: str) -> None:
    """The tokens that all others here are made from pass with a key of each kind, so each is refused for what was changed alone."""
    signer = SIGNERS[alg]
    assert verifier(signer).verify(signer.token()).subject == payload()["sub"]
    assert verifier(signer).verify(signer.token().encode()).subject == payload()["sub"]


# -- the compact form (RFC 7515 §7.1) and base64url (§2) ----------------------------------------------------------------------

GOOD = ED.token()
HEAD, BODY, SIGNATURE = GOOD.split(".")


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "junk",
        f"{HEAD}.{BODY}",
        f"{HEAD}.{BODY}.",
        f"{HEAD}..{SIGNATURE}",
        f".{BODY}.{SIGNATURE}",
        f"{GOOD}.",
        f".{GOOD}",
        f"{GOOD}.{SIGNATURE}",
        f"{GOOD}.{BODY}.{SIGNATURE}",  # five parts: JWE
        f" {GOOD}",
        f"{GOOD} ",
        f"{GOOD}\n",
        f"\t{GOOD}",
        f"{HEAD}. {BODY}.{SIGNATURE}",
        f"{HEAD}.{BODY}.{SIGNATURE[:40]}\n{SIGNATURE[40:]}",
        f"{GOOD}=",
        f"{GOOD}==",
        f"{HEAD}=.{BODY}.{SIGNATURE}",
        f"{HEAD}.{BODY}=.{SIGNATURE}",
        f"{GOOD}\0",
        f"Bearer {GOOD}",
        f'"{GOOD}"',
        GOOD.replace(".", "%2E"),
        GOOD.replace(".", "\u2024"),
        GOOD + "é",
        f"{HEAD}.{BODY}.{SIGNATURE[:-1]}",
        f"{HEAD}.{BODY}.{SIGNATURE}A",
    ],
)
def test_the_form(token: str) -> None:
    """Anything but three parts of base64url, with exactly two dots and nothing around, is malformed."""
    with pytest.raises((MalformedToken, BadSignature)):
        VERIFIER.verify(token)


@pytest.mark.parametrize("foreign", ["+", "/", "=", " ", "\n", "*"])
def test_the_alphabet_is_base64urls(foreign: str) -> None:
    """A signed payload with a character of base64, padding or white space among its own is refused, not skipped."""
    body = b64(json.dumps(payload()))
    for place in (0, 7, len(body) - 1):
        refused(ED.parts(HEAD, body[:place] + foreign + body[place + 1 :]), MalformedToken)
        refused(ED.parts(HEAD, body[:place] + foreign + body[place:]), MalformedToken)


def test_the_other_alphabet_never_means_the_same() -> None:
    """A payload whose base64url has - and _ is refused when it is spelt with + and /, though both decode alike elsewhere."""
    claims = json.dumps(payload(name="\u00bf\u00be\u00ff?>~" * 8), ensure_ascii=False)
    body = b64(claims)
    assert "-" in body or "_" in body
    assert VERIFIER.verify(ED.parts(HEAD, body)).name
    refused(ED.parts(HEAD, body.replace("-", "+").replace("_", "/")), MalformedToken)


@pytest.mark.parametrize("filler", ["", "x", "xx"])
def test_one_spelling_only(filler: str) -> None:
    """Unused bits at the end of a part must be zero (RFC 4648 §3.5): otherwise one token had several spellings, and revocation
    lists and caches could be walked around.
    """
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    body = b64(json.dumps(payload(filler=filler)))
    spellings = [body[:-1] + last for last in alphabet if unb64(body[:-1] + last) == unb64(body)]
    assert len(spellings) == {0: 1, 2: 16, 3: 4}[len(body) % 4]
    for spelling in spellings:
        token = ED.parts(HEAD, spelling)
        if spelling == body:
            assert VERIFIER.verify(token).raw["filler"] == filler
        else:
            refused(token, MalformedToken)


@pytest.mark.parametrize("token", ["x", "x.y", f"{GOOD}.x", ED.parts(HEAD, "a.b"), "a.b.c.d.e"])
def test_other_numbers_of_parts_are_told(token: str) -> None:
    """What is no JWS in compact form, an opaque token or an encrypted one, is told so."""
    refused(token, MalformedToken, "not of three parts")


def test_signatures_have_one_spelling() -> None:
    """The same of the signature, where no signature protects it: 86 characters of 64 bytes leave four bits over."""
    same = [SIGNATURE[:-1] + last for last in "AQgwBCDEFRShixyz" if unb64(SIGNATURE[:-1] + last) == unb64(SIGNATURE)]
    for signature in same:
        if signature != SIGNATURE:
            refused(f"{HEAD}.{BODY}.{signature}", MalformedToken)
    assert SIGNATURE[-1] in "AQgw"


def test_length_is_bounded() -> None:
    """A token of about 16384 characters passes; a longer one is refused before anything of it is decoded."""
    fits = [size for size in range(11700, 12000) if len(ED.token(pad="p" * size)) <= jose.MAX_TOKEN]
    longest = ED.token(pad="p" * fits[-1])
    assert len(longest) > jose.MAX_TOKEN - 4
    assert VERIFIER.verify(longest).raw["pad"]
    refused(ED.token(pad="p" * (fits[-1] + 3)), MalformedToken, "16384")
    refused("A" * 10_000_000, MalformedToken, "10000000 characters; allowed: 16384")


@pytest.mark.parametrize("token", [None, 1, [GOOD], {"token": GOOD}])
def test_only_text_is_a_token(token: Any) -> None:
    """What is no text is a mistake in the program, and never passes."""
    with pytest.raises((TypeError, AttributeError, TokenError)):
        VERIFIER.verify(token)


# -- JSON (RFC 8259; RFC 7515 §4: no member twice) ----------------------------------------------------------------------------

BODY_TEXT = json.dumps(payload())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"text"',
        "1",
        "{",
        "{}}",
        BODY_TEXT + "{}",
        BODY_TEXT + "x",
        BODY_TEXT[:-1] + ",}",
        BODY_TEXT.replace('"', "'"),
        "\ufeff" + BODY_TEXT,
        BODY_TEXT[:-1] + ', "n": NaN}',
        BODY_TEXT[:-1] + ', "n": Infinity}',
        BODY_TEXT[:-1] + ', "n": -Infinity}',
        BODY_TEXT[:-1] + ', "n": 1e999}',
        BODY_TEXT[:-1] + ', "n": [{"deep": -1e999}]}',
        BODY_TEXT[:-1] + ', "n": 01}',
        BODY_TEXT[:-1] + ', "n": 0x1}',
        BODY_TEXT[:-1] + ', "n": 9007199254740993}',
        BODY_TEXT[:-1] + ', "n": [[-9007199254740993]]}',
        BODY_TEXT[:-1] + ', "n": ' + "9" * 5000 + "}",
        BODY_TEXT[:-1] + ', "n": "a\nb"}',
        BODY_TEXT[:-1] + ', "n": "\\ud800"}',
        BODY_TEXT[:-1] + ', "n": {"\\udfff": 1}}',
        BODY_TEXT[:-1] + ', "n": "\\x41"}',
        BODY_TEXT[:-1] + ', "n": 1} // comment',
        "\u00a0" + BODY_TEXT,
        BODY_TEXT + "\u2003",
        BODY_TEXT + "\0",
    ],
)
def test_payloads_that_are_not_strict_json(text: str) -> None:
    """What some parser takes and another does not, or reads otherwise, is no payload."""
    refused(ED.raw(json.dumps(ED.header()), text), MalformedToken)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_other_encodings(encoding: str) -> None:
    """JSON in UTF-16 or UTF-32, which Python's json takes from bytes, and in Latin-1, is refused: RFC 7515 §3 says UTF-8."""
    text = json.dumps(payload(name="Ällice"), ensure_ascii=False)
    refused(ED.raw(json.dumps(ED.header()), text.encode(encoding)), MalformedToken)


@pytest.mark.parametrize("bad", [b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xff"])
def test_broken_utf8(bad: bytes) -> None:
    """Overlong forms, surrogates and what UTF-8 has not are refused."""
    refused(ED.raw(json.dumps(ED.header()), BODY_TEXT.encode().replace(b"Alice", bad)), MalformedToken)


@pytest.mark.parametrize(
    "twice",
    [
        '"aud": "mail", "aud": "other"',
        '"aud": "mail", "aud": "mail"',
        '"a\\u0075d": "other"',
        '"exp": 9999999999',
        '"deep": {"a": 1, "a": 1}',
        '"deep": [{"a": {"b": 1, "\\u0062": 2}}]',
    ],
)
def test_no_member_twice(twice: str) -> None:
    """A member that is there twice, however it is spelt and wherever it is, is refused: parsers differ in which one counts."""
    refused(ED.raw(json.dumps(ED.header()), BODY_TEXT[:-1] + f", {twice}}}"), MalformedToken, "twice")


@pytest.mark.parametrize("twice", ['"alg": "none"', '"kid": "one"', '"typ": "JWT"', '"x": 1, "x": 2'])
def test_no_header_member_twice(twice: str) -> None:
    """The same of the header."""
    refused(ED.raw(json.dumps(ED.header())[:-1] + f", {twice}}}", BODY_TEXT), MalformedToken, "twice")


@pytest.mark.parametrize("nested", [lambda n: "[" * n + "]" * n, lambda n: '{"a":' * n + "1" + "}" * n])
@pytest.mark.parametrize("where", ["header", "payload"])
def test_nesting_is_bounded(nested: Callable[[int], str], where: str) -> None:
    """Fifteen levels within the object pass, one more does not, nor do thousands; brackets in strings are text."""
    head, body = json.dumps(ED.header())[:-1], BODY_TEXT[:-1]

    def token(depth: int) -> str:
        extra = f', "deep": {nested(depth)}}}'
        return ED.raw(head + extra, body + "}") if where == "header" else ED.raw(head + "}", body + extra)

    assert VERIFIER.verify(token(jose.MAX_DEPTH - 1)).subject
    for depth in (jose.MAX_DEPTH, 100, 1500):
        refused(token(depth), MalformedToken)
    if where == "payload":
        assert VERIFIER.verify(ED.token(name="[{" * 2000)).name == "[{" * 2000


def test_unclosed_brackets_by_the_thousand() -> None:
    """What makes Python's parser run out of stack is refused in words like anything else."""
    refused(ED.raw(json.dumps(ED.header()), "[" * 11000), MalformedToken)
    refused(ED.raw('{"a":' * 2200, BODY_TEXT), MalformedToken)


def test_white_space_inside_json_is_jsons() -> None:
    """Line ends and indentation, as in RFC 7515's own examples, are no padding; they pass."""
    token = ED.raw(json.dumps(ED.header(), indent=2), "\r\n\t " + json.dumps(payload(), indent=4) + " \n")
    assert VERIFIER.verify(token).subject == payload()["sub"]


# -- the header (RFC 7515 §4, RFC 8725 §3) ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "HS256", "HS384", "HS512", "RS256", "PS256", "ES256", "ES512", "eddsa"]
)
def test_the_algorithm_is_the_keys(alg: str) -> None:
    """A token that says another algorithm than its key is for is refused, though the signature is right (RFC 8725 §3.1)."""
    refused(ED.token({"alg": alg}), BadSignature, "EdDSA only")


@pytest.mark.parametrize("alg", ["none", "None", "", "HS256"])
@pytest.mark.parametrize("signature", ["", "AA", b64(b"")])
def test_unsigned(alg: str, signature: str) -> None:
    """An unsecured token (RFC 7519 §6) is refused in every spelling."""
    token = f"{b64(json.dumps(ED.header(alg=alg)))}.{BODY}.{signature}"
    with pytest.raises((BadSignature, MalformedToken)):
        VERIFIER.verify(token)


@pytest.mark.parametrize("alg", SIGNERS)
def test_hmac_with_the_public_key(alg: str) -> None:
    """The public key in PEM or DER as the secret of an HMAC, the oldest attack of all, does not pass (RFC 8725 §2.1)."""
    signer = SIGNERS[alg]
    for secret in (signer.pem(), signer.pem().strip(), signer.pem().decode().replace("\n", "").encode()):
        signed = f"{b64(json.dumps(signer.header(alg='HS256')))}.{BODY}"
        token = f"{signed}.{b64(hmac.digest(secret, signed.encode(), 'sha256'))}"
        with pytest.raises(BadSignature, match="HS256"):
            verifier(signer).verify(token)


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c", "crit", "b64", "zip"])
@pytest.mark.parametrize("value", [None, "https://evil.example/keys", ["exp"], [], {"kty": "OKP"}, True])
def test_members_that_lead_astray(name: str, value: Any) -> None:
    """A key that comes with the token, an address of one, and extensions that must be understood are refused, even when empty."""
    refused(ED.token({name: value}), MalformedToken, f"'{name}'")


def test_a_key_of_the_senders_own() -> None:
    """A token signed with a stranger's key that it brings along, under the name of ours, is refused before it is looked at."""
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64(STRANGER.public.public_bytes_raw())}
    refused(STRANGER.token({"jwk": jwk}), MalformedToken, "'jwk'")
    refused(STRANGER.token(), BadSignature, "signature")


@pytest.mark.parametrize("changes", [{"alg": ...}, {"alg": None}, {"alg": 1}, {"alg": ["EdDSA"]}, {"alg": "A" * 300}, {"alg": ""}])
def test_alg_is_a_name(changes: dict[str, Any]) -> None:
    """RFC 7515 §4.1.1: ``alg`` must be there, and a string."""
    refused(ED.token(changes), MalformedToken, "'alg'")


@pytest.mark.parametrize("kid", [None, 1, {}, [], "", "k" * 257, True])
def test_kid_is_a_name(kid: Any) -> None:
    """RFC 7515 §4.1.4: ``kid`` is a string; one that is none is no way to name a key."""
    refused(ED.token({"kid": kid}), MalformedToken, "'kid'")


@pytest.mark.parametrize("kid", ["two", "ONE", "one ", "../../dev/null", "one\0", "' OR 1=1 --", "k" * 256])
def test_unknown_keys(kid: str) -> None:
    """A name that is not among the keys is refused, whoever signed; it is nothing but a name."""
    refused(ED.token({"kid": kid}), UnknownKey, "known: 'one'")


@pytest.mark.parametrize(
    "typ", ["JWT", "jwt", "logout+jwt", "AT+JWT", "at+JWT", " at+jwt", "at+jwt ", "application/application/at+jwt", "dpop+jwt"]
)
def test_other_types(typ: str) -> None:
    """An ID token, a logout token and whatever else the issuer signs with the same key is no access token (RFC 8725 §3.11)."""
    refused(ED.token({"typ": typ}), WrongType, "wanted: at")


def test_no_type() -> None:
    """A token without ``typ`` could be anything."""
    refused(ED.token({"typ": ...}), WrongType, "no type")
    for typ in (None, 1, "", ["at+jwt"]):
        refused(ED.token({"typ": typ}), MalformedToken, "'typ'")


def test_the_long_form_of_the_type() -> None:
    """RFC 9068 §4 takes application/at+jwt as well."""
    assert VERIFIER.verify(ED.token({"typ": "application/at+jwt"})).subject


def test_unknown_header_members_mean_nothing() -> None:
    """RFC 7515 §4: what is not understood is ignored, if it is not critical: a certificate's thumbprint, say."""
    assert VERIFIER.verify(ED.token({"x5t": "abc", "cty": "JSON", "future": {"a": [1]}})).subject


# -- signatures ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", SIGNERS)
def test_signatures_of_other_lengths(alg: str) -> None:
    """Cut, lengthened, empty and zero signatures do not pass, nor one in DER where RFC 7518 §3.4 has two numbers."""
    signer = SIGNERS[alg]
    head, body, signature = signer.token().split(".")
    raw = unb64(signature)
    broken = [
        raw[:-1],
        raw[1:],
        raw + b"\0",
        b"\0" + raw,
        bytes(len(raw)),
        b"\0",
        raw * 2,
        raw[: len(raw) // 2],
        b"\xff" * len(raw),
    ]
    if alg == "ES256":
        r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
        broken += [raw[:32] + b"\0" + raw[32:]]  # the same two numbers, with a needless zero
        broken += [encode_dss_signature(r, s), raw[32:] + raw[:32], bytes(32) + raw[32:], raw[:32] + bytes(32)]
        broken += [order.to_bytes(32, "big") + raw[32:], raw[:32] + order.to_bytes(32, "big")]
    for wrong in broken:
        with pytest.raises(BadSignature):
            verifier(signer).verify(f"{head}.{body}.{b64(wrong)}")


def test_parts_of_two_tokens() -> None:
    """Header, payload and signature of different good tokens make none."""
    one, two = ED.token().split("."), ED.token({"x": 1}, sub="somebody else").split(".")
    for mixed in ([one[0], two[1], one[2]], [two[0], one[1], one[2]], [one[0], one[1], two[2]], [two[0], two[1], one[2]]):
        refused(".".join(mixed), BadSignature)


def test_a_key_of_another_kind_under_the_same_name() -> None:
    """Tokens of each kind against the keys of the others, under one kid, are refused."""
    for mine in SIGNERS.values():
        for other in SIGNERS.values():
            if mine is not other:
                with pytest.raises(BadSignature):
                    verifier(mine).verify(other.token())
                with pytest.raises(BadSignature):
                    verifier(mine).verify(other.token({"alg": mine.alg}))
        with pytest.raises(BadSignature):
            verifier(mine).verify(Signer(mine.alg).token())


def test_order_of_refusal_says_nothing_before_the_signature() -> None:
    """A forged token is a bad signature whatever else is wrong with it: expired, for others, or no JSON at all."""
    for forged in (
        STRANGER.token(exp=NOW - 99),
        STRANGER.token(aud="x"),
        STRANGER.token(iss="x"),
        STRANGER.raw(json.dumps(ED.header()), "junk"),
    ):
        refused(forged, BadSignature)
