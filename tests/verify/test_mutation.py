"""No token passes that was changed: Hypothesis changes good ones in every way it can think of."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from kiwi_id.verify import MalformedToken, TokenError, Verifier, jose
from tests.verify.craft import AUDIENCE, ISSUER, NOW, SIGNERS, STRANGER, Signer, b64, payload, unb64, verifier

VERIFIERS: dict[str, Verifier] = {alg: verifier(signer, cache_size=0) for alg, signer in SIGNERS.items()}
# With memory, and the good token in it: the memory must not let through what the check would not.
REMEMBERING: dict[str, Verifier] = {alg: verifier(signer) for alg, signer in SIGNERS.items()}
TOKENS = {alg: signer.token() for alg, signer in SIGNERS.items()}
for _alg, _token in TOKENS.items():
    REMEMBERING[_alg].verify(_token)

ALGS = st.sampled_from(sorted(SIGNERS))
URL_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
CHARACTERS = st.one_of(st.sampled_from(URL_SAFE + ".=+/ \n\r\t\0~"), st.characters())


def passes(alg: str, token: str) -> bool:
    """Tell whether a token passes; every refusal must be a TokenError, and the same with a memory."""
    found = []
    for check in (VERIFIERS[alg], REMEMBERING[alg]):
        try:
            check.verify(token)
            found.append(True)
        except TokenError:
            found.append(False)
    assert found[0] is found[1]
    return found[0]


@given(ALGS, st.data())
@settings(max_examples=600, deadline=None)
def test_one_character(alg: str, data: st.DataObject) -> None:
    """With any one character replaced by any other, left out, or put in, it does not pass."""
    token = TOKENS[alg]
    at = data.draw(st.integers(0, len(token) - 1))
    character = data.draw(CHARACTERS)
    kept = token[at + 1 :] if data.draw(st.booleans()) else token[at:]
    for changed in (token[:at] + character + kept, token[:at] + token[at + 1 :], token + character, character + token):
        assert changed == token or not passes(alg, changed)


@given(ALGS, st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 3000)), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_pieces_moved(alg: str, moves: list[tuple[int, int, int]]) -> None:
    """With pieces cut out, doubled and moved, it does not pass."""
    token = TOKENS[alg]
    for first, second, to in moves:
        low, high = sorted((first % (len(token) + 1), second % (len(token) + 1)))
        rest = token[:low] + token[high:]
        place = to % (len(rest) + 1)
        token = rest[:place] + token[low:high] * (1 + to % 2) + rest[place:]
    assume(token != TOKENS[alg])
    assert not passes(alg, token)


@given(ALGS, st.data())
@settings(max_examples=600, deadline=None)
def test_bits_of_what_was_signed(alg: str, data: st.DataObject) -> None:
    """With bits of header, payload or signature turned, and each part rightly encoded again, it does not pass."""
    parts = [bytearray(unb64(part)) for part in TOKENS[alg].split(".")]
    part = parts[data.draw(st.integers(0, 2))]
    for _ in range(data.draw(st.integers(1, 3))):
        part[data.draw(st.integers(0, len(part) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    token = ".".join(b64(bytes(part)) for part in parts)
    assume(token != TOKENS[alg])
    assert not passes(alg, token)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*payload(), "alg", "kid", "typ", "jwk", "jku", "x5c", "crit", "nbf"]) | st.text(max_size=8)


@given(ALGS, NAMES, JSON, st.sampled_from(["header", "payload"]))
@settings(max_examples=500, deadline=None)
def test_members_changed(alg: str, name: str, value: Any, where: str) -> None:
    """With any member of header or payload changed or added, under the old signature, it does not pass."""
    parts = TOKENS[alg].split(".")
    number = 0 if where == "header" else 1
    members = json.loads(unb64(parts[number]))
    assume(name not in members or members[name] != value or type(members[name]) is not type(value))
    parts[number] = b64(json.dumps({**members, name: value}))
    assert not passes(alg, ".".join(parts))


@given(ALGS, st.sampled_from(sorted({"none", "HS256", "HS512", "PS256", "ES512", *SIGNERS})), st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_made_up_signatures(alg: str, says: str, signature: bytes) -> None:
    """Whatever algorithm it says and whatever bytes are its signature, a token that nobody signed does not pass."""
    header = json.dumps(SIGNERS[alg].header(alg=says))
    assert not passes(alg, f"{b64(header)}.{b64(json.dumps(payload()))}.{b64(signature)}")


@given(ALGS, st.sampled_from(sorted(SIGNERS)), st.fixed_dictionaries({}, optional={"kid": st.text(max_size=5), "alg": ALGS}))
@settings(max_examples=60, deadline=None)
def test_strangers(alg: str, theirs: str, changes: dict[str, Any]) -> None:
    """What another key signed, under whatever name, does not pass."""
    stranger = Signer(theirs, private=STRANGER.private) if theirs == "EdDSA" else STRANGERS[theirs]
    assert not passes(alg, stranger.token(changes))


STRANGERS = {alg: Signer(alg) for alg in ("RS256", "ES256")}


@given(st.text(max_size=200) | st.text(alphabet=URL_SAFE + ".", max_size=400))
@example("..")
@settings(max_examples=400, deadline=None)
def test_junk(text: str) -> None:
    """Anything at all is answered with a TokenError, never with another exception."""
    for alg in SIGNERS:
        assert not passes(alg, text)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_junk_in_bytes(data: bytes) -> None:
    """The same of bytes."""
    for check in VERIFIERS.values():
        try:
            check.verify(data)
        except TokenError:
            continue
        raise AssertionError("junk passed")


@given(st.dictionaries(NAMES, JSON, max_size=4), st.dictionaries(NAMES, JSON, max_size=4))
@settings(max_examples=600, deadline=None)
def test_whatever_is_signed_is_refused_or_typed(header: dict[str, Any], claims: dict[str, Any]) -> None:
    """With members of any kind, rightly signed, a token is refused with a TokenError, or its claims have the right types."""
    signer = SIGNERS["EdDSA"]
    token = signer.raw(json.dumps(signer.header(**header)), json.dumps(payload(**claims)))
    try:
        found = VERIFIERS["EdDSA"].verify(token)
    except TokenError:
        return
    assert found.issuer == ISSUER
    assert AUDIENCE in found.audience
    assert found.issued_at.timestamp() - 5 <= NOW < found.expires.timestamp() + 5
    texts = (found.subject, found.name, found.email, found.client_id, found.token_id, *found.audience, *found.groups, *found.scopes)
    assert all(text is None or type(text) is str for text in texts)
    assert type(found.subject) is str
    assert not set(header) & {"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip"}
    assert header.get("typ", "at+jwt") in ("at+jwt", "application/at+jwt")
    assert header.get("alg", "EdDSA") == "EdDSA"
    assert {**payload(), **claims}.keys() == found.raw.keys()


@given(st.binary(max_size=60))
@settings(max_examples=500, deadline=None)
def test_base64url_there_and_back(data: bytes) -> None:
    """Every byte string but the empty one has exactly one spelling, and that one is read back."""
    text = b64(data).encode()
    if data:
        assert jose.decode(text) == data


@given(st.text(alphabet=URL_SAFE + "+/=", min_size=1, max_size=12))
@settings(max_examples=800, deadline=None)
def test_base64url_has_no_second_spelling(text: str) -> None:
    """What is read is exactly what it would be written as."""
    try:
        data = jose.decode(text.encode())
    except MalformedToken:
        return
    assert b64(data) == text


@given(JSON)
@settings(max_examples=400, deadline=None)
def test_json_means_the_same_as_to_python(value: Any) -> None:
    """Strict parsing refuses, or reads what json reads."""
    text = json.dumps({"a": value, "b": [value]})
    try:
        found = jose.parse(text.encode())
    except MalformedToken:
        return
    assert thawed(found) == json.loads(text)


def thawed(value: Any) -> Any:
    """Return read-only mappings and tuples as dicts and lists."""
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return value
    return {name: thawed(value[name]) for name in value} if hasattr(value, "keys") else [thawed(item) for item in value]
