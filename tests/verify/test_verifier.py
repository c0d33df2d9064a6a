"""What a service is told: claims, times, issuer, audience, and the arguments that cannot be meant."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from kiwi_id.verify import (
    BadSignature,
    Claims,
    ExpiredToken,
    KeysError,
    MalformedToken,
    NotYetValid,
    TokenError,
    UnknownKey,
    Verifier,
    WrongAudience,
    WrongIssuer,
    WrongType,
)
from tests.verify.craft import AUDIENCE, ED, ISSUER, NOW, SIGNERS, Clock, payload, verifier


def test_claims() -> None:
    """Every field, from a token with all claims."""
    claims = verifier().verify(ED.token(auth_time=NOW - 100, role=["reader", "writer"], address={"lines": ["a", ["b"]]}))
    assert claims == Claims(
        subject="7a3f6c0e-5a3c-4f43-9d3b-0f0b8a3a3c11",
        name="Alice Demo",
        email="alice@example.com",
        groups=frozenset({"kiwi_users", "mail_users"}),
        scopes=frozenset({"openid", "groups"}),
        client_id="mail",
        issuer=ISSUER,
        audience=("mail",),
        expires=datetime(2027, 1, 15, 8, 14, tzinfo=UTC),
        issued_at=datetime(2027, 1, 15, 7, 59, tzinfo=UTC),
        token_id="AAAAAAAAAAAAAAAAAAAAAA",
        raw=claims.raw,
    )
    assert claims.expires.timestamp() == NOW + 840
    assert claims.raw["role"] == ("reader", "writer")
    assert claims.raw["auth_time"] == NOW - 100
    assert set(claims.raw) == set(payload()) | {"auth_time", "role", "address"}


def test_the_least_token() -> None:
    """With nothing but what must be there, the rest is None or empty."""
    least = dict.fromkeys(("scope", "name", "email", "groups"), ...)
    claims = verifier().verify(ED.token(**least))
    assert (claims.name, claims.email) == (None, None)
    assert (claims.groups, claims.scopes) == (frozenset(), frozenset())
    assert set(claims.raw) == {"iss", "sub", "aud", "iat", "exp", "jti", "client_id"}
    claims = verifier(token_type="JWT").verify(ED.token({"typ": "JWT"}, **least, jti=..., client_id=...))
    assert (claims.client_id, claims.token_id) == (None, None)


def test_claims_cannot_be_changed() -> None:
    """What one caller gets, the next one gets from the cache: neither fields nor anything deep in raw can be written."""
    claims = verifier().verify(ED.token(deep={"a": [{"b": []}]}))
    with pytest.raises(dataclasses.FrozenInstanceError):
        claims.subject = "root"  # type: ignore[misc]
    with pytest.raises(TypeError):
        claims.raw["sub"] = "root"  # type: ignore[index]
    with pytest.raises(TypeError):
        claims.raw["deep"]["a"] = 1
    assert isinstance(claims.raw["groups"], tuple)
    with pytest.raises(TypeError):
        claims.raw["deep"]["a"][0]["b"] = 1
    assert claims.raw["deep"]["a"][0]["b"] == ()
    assert hash(claims) == hash(dataclasses.replace(claims))


FIELDS = [field.name for field in dataclasses.fields(Claims)]


@pytest.mark.parametrize("first", FIELDS)
def test_fields_in_any_order(first: str) -> None:
    """Fields are made when they are read: whichever is the first, each is the same, and stays the very same object."""
    claims, whole = verifier(cache_size=0).verify(ED.token()), verifier(cache_size=0).verify(ED.token())
    assert getattr(claims, first) == getattr(whole, first)
    assert {name: getattr(claims, name) for name in FIELDS} == {name: getattr(whole, name) for name in FIELDS}
    assert all(getattr(claims, name) is getattr(claims, name) for name in FIELDS)


@pytest.mark.parametrize("name", ["sub", "role", "__wrapped__", "_fields", "Subject"])
def test_there_are_no_other_fields(name: str) -> None:
    """A misspelt field, and a claim that has none, is an AttributeError, not None that lets somebody in."""
    with pytest.raises(AttributeError, match=name):
        getattr(verifier().verify(ED.token(role="admin")), name)
    assert not hasattr(object.__new__(Claims), "subject")


def test_claims_that_nobody_has_read_are_whole() -> None:
    """Comparing, hashing, printing, copying and replacing find fields that were not read before."""
    read = verifier(cache_size=0).verify(ED.token())
    assert read.subject in repr(read)

    def fresh() -> Claims:
        return verifier(cache_size=0).verify(ED.token())

    assert (fresh(), hash(fresh()), repr(fresh())) == (read, hash(read), repr(read))
    assert copy.copy(fresh()) == read
    assert dataclasses.replace(fresh(), name="Bob").groups == read.groups
    assert fresh() != dataclasses.replace(read, name="Bob")


def test_nothing_secret_is_shown() -> None:
    """Printing claims shows neither raw, where Kanidm's sealed token is, nor keys."""
    claims = verifier().verify(ED.token(kiwi="sealed-box"))
    assert "sealed-box" not in repr(claims)
    assert "kiwi" not in repr(claims).replace("kiwi_users", "")


@pytest.mark.parametrize("alg", SIGNERS)
def test_tokens_of_another_library(alg: str) -> None:
    """PyJWT's tokens pass with keys of each kind, and say the same as PyJWT reads from them."""
    signer = SIGNERS[alg]
    token = jwt.encode(payload(), signer.private, algorithm=alg, headers=signer.header())
    theirs = jwt.decode(
        token, signer.public, algorithms=[alg], options={"verify_exp": False, "verify_iat": False, "verify_aud": False}
    )
    ours = dict(verifier(signer).verify(token).raw)
    assert {**ours, "groups": list(ours["groups"])} == theirs


# -- times --------------------------------------------------------------------------------------------------------------------


def test_expiry_to_the_second() -> None:
    """Good until just before exp + leeway, refused from then on (RFC 7519 §4.1.4), and told by how much it is late."""
    clock = Clock()
    check = verifier(clock=clock, leeway=0)
    token = ED.token(exp=NOW + 10)
    clock.now = NOW + 9.999
    assert check.verify(token).subject
    for late in (0, 0.5, 3600.0):
        clock.now = NOW + 10 + late
        with pytest.raises(ExpiredToken) as caught:
            check.verify(token)
        assert caught.value.by == timedelta(seconds=late)
    assert str(caught.value) == "the token expired 1:00:00 ago"


def test_leeway() -> None:
    """Five seconds by default, as the issuer itself allows; the lateness that is told counts from exp."""
    clock = Clock()
    check = verifier(clock=clock)
    token = ED.token(exp=NOW + 10)
    clock.now = NOW + 14.9
    assert check.verify(token).subject
    clock.now = NOW + 15
    with pytest.raises(ExpiredToken) as caught:
        check.verify(token)
    assert caught.value.by == timedelta(seconds=5)


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_not_yet(name: str) -> None:
    """Before nbf (RFC 7519 §4.1.5), and before it was even issued, a token is refused, and told how long it is early."""
    clock = Clock()
    check = verifier(clock=clock, leeway=0)
    token = ED.token(**{name: NOW + 60})
    with pytest.raises(NotYetValid) as caught:
        check.verify(token)
    assert caught.value.by == timedelta(seconds=60)
    assert "clock" in str(caught.value)
    clock.now = NOW + 60
    assert check.verify(token).subject
    clock.now = NOW + 59.9  # a clock that was set back: the cache does not hide it
    with pytest.raises(NotYetValid):
        check.verify(token)


def test_the_later_of_two_beginnings_counts() -> None:
    """A token with nbf past and iat to come, or the other way round, is not yet valid."""
    for times in ({"nbf": NOW - 60, "iat": NOW + 60}, {"nbf": NOW + 60, "iat": NOW - 60}):
        with pytest.raises(NotYetValid) as caught:
            verifier().verify(ED.token(**times))
        assert caught.value.by == timedelta(seconds=60)


def test_fractions_of_a_second() -> None:
    """NumericDate may have a fraction (RFC 7519 §2)."""
    claims = verifier().verify(ED.token(exp=NOW + 0.5, iat=NOW - 0.25))
    assert claims.expires - claims.issued_at == timedelta(seconds=0.75)


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", [None, "1800000000", True, [], {}, -1, 253402300800, 2**53 - 1, -0.5, 1e15])
def test_times_that_are_none(name: str, value: Any) -> None:
    """A time must be a number between 1970 and 9999: strings, booleans, null, and what no calendar has are refused."""
    with pytest.raises(MalformedToken, match=f"'{name}'"):
        verifier().verify(ED.token(**{name: value}))


# -- claims of wrong types ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "exp", "iat", "jti", "client_id"])
def test_claims_that_must_be_there(name: str) -> None:
    """RFC 9068 §2.2: without one of them it is no access token."""
    if name in ("jti", "client_id"):
        for typ in ("at+jwt", "application/at+jwt"):
            with pytest.raises(MalformedToken, match=f"the claim '{name}' is empty"):
                verifier().verify(ED.token({"typ": typ}, **{name: ""}))
    with pytest.raises(MalformedToken, match=f"no claim '{name}'"):
        verifier().verify(ED.token(**{name: ...}))


@pytest.mark.parametrize("name", ["iss", "sub", "name", "email", "client_id", "jti", "scope"])
@pytest.mark.parametrize("value", [None, 1, True, ["x"], {"x": 1}, 1.5])
def test_strings_that_are_none(name: str, value: Any) -> None:
    """A service compares and stores these: anything but a string is refused, null among it."""
    with pytest.raises(MalformedToken, match=f"'{name}'"):
        verifier().verify(ED.token(**{name: value}))


@pytest.mark.parametrize("name", ["aud", "groups"])
@pytest.mark.parametrize("value", [None, 1, True, {"mail": 1}, ["mail", 1], ["mail", None], ["mail", ["mail"]], [{}]])
def test_lists_of_strings_that_are_none(name: str, value: Any) -> None:
    """A list with anything but strings in it is refused as a whole, though the right name is in it."""
    with pytest.raises(MalformedToken, match=f"'{name}'"):
        verifier().verify(ED.token(**{name: value}))


def test_groups_as_one_string() -> None:
    """A string is no list of groups: 'admins' must not become the groups a, d, m, i, n, s."""
    with pytest.raises(MalformedToken, match="groups"):
        verifier().verify(ED.token(groups="admins"))


@pytest.mark.parametrize("name", ["iss", "sub", "aud"])
def test_empty_names(name: str) -> None:
    """An empty subject, issuer or audience names nobody."""
    values: list[Any] = ["", [], [""], ["mail", ""]] if name == "aud" else [""]
    for value in values:
        with pytest.raises(MalformedToken, match=name):
            verifier(audience=None).verify(ED.token(**{name: value}))


def test_scopes_are_parted_by_spaces_only() -> None:
    """RFC 6749 §3.3: any other white space is part of the word, and no way to smuggle one in."""
    claims = verifier().verify(ED.token(scope=" openid  mail\u00a0admin a\tadmin\nadmin "))
    assert claims.scopes == {"openid", "mail\u00a0admin", "a\tadmin\nadmin"}
    assert verifier().verify(ED.token(scope="")).scopes == frozenset()


# -- issuer, audience, type -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "issuer", ["https://id.example.com/", "https://ID.example.com", "http://id.example.com", "https://id.example.com.evil.example"]
)
def test_issuers_are_compared_exactly(issuer: str) -> None:
    """RFC 9068 §4: the issuer must be the very string, slash and case included."""
    with pytest.raises(WrongIssuer, match=r"not of 'https://id\.example\.com'"):
        verifier().verify(ED.token(iss=issuer))


def test_audience() -> None:
    """One name of the token must be one of the service's; a part of a name or another case is another name."""
    for aud in ("mail", ["mail"], ["other", "mail"]):
        assert verifier(audience="mail").verify(ED.token(aud=aud)).subject
        assert verifier(audience=["files", "mail"]).verify(ED.token(aud=aud)).subject
        assert verifier(audience=None).verify(ED.token(aud=aud)).audience[-1] == "mail"
    for aud in ("mai", "mails", "MAIL", "m", ["m", "a", "i", "l"], "files", "mail mail", "*"):
        with pytest.raises(WrongAudience, match=r"not for \['mail'\]"):
            verifier(audience="mail").verify(ED.token(aud=aud))


def test_other_types_when_asked() -> None:
    """A verifier of ID tokens takes these and no access tokens."""
    check = verifier(token_type="JWT")
    assert check.verify(ED.token({"typ": "JWT"})).subject
    with pytest.raises(WrongType, match="wanted: JWT"):
        check.verify(ED.token())


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": ""},
        {"audience": ""},
        {"audience": []},
        {"audience": ["mail", ""]},
        {"audience": b"mail"},
        {"audience": [b"mail"]},
        {"audience": 5},
        {"issuer": b"https://id.example.com"},
        {"token_type": b"at+jwt"},
        {"token_type": ""},
        {"leeway": -1},
        {"leeway": 301},
        {"leeway": float("nan")},
    ],
)
def test_arguments_that_cannot_be_meant(changes: dict[str, Any]) -> None:
    """An empty issuer or audience, and a leeway that is none, are mistakes that are told at the start."""
    with pytest.raises(ValueError, match=r".+"):
        verifier(**changes)


@pytest.mark.parametrize("kind", [bytearray, memoryview, list, lambda _: None, lambda _: 5])
def test_tokens_that_are_neither_text_nor_bytes(kind: Callable[[bytes], Any]) -> None:
    """A mistake of whoever calls is no verdict on the token: it is told as one."""
    with pytest.raises(TypeError, match="a token is str or bytes, not "):
        verifier().verify(kind(ED.token().encode()))


def test_audience_must_be_said() -> None:
    """To leave the audience out is not possible by forgetting it."""
    with pytest.raises(TypeError, match="audience"):
        Verifier(ED.public, issuer=ISSUER)  # type: ignore[call-arg]


# -- errors -------------------------------------------------------------------------------------------------------------------


def test_the_tree_of_errors() -> None:
    """One except clause catches all that is wrong with a token; a mistake of the configuration is another thing."""
    kinds = [MalformedToken, BadSignature, ExpiredToken, NotYetValid, WrongIssuer, WrongAudience, WrongType, UnknownKey]
    assert all(issubclass(kind, TokenError) for kind in kinds)
    assert not issubclass(KeysError, TokenError)
    assert sorted(kind.__name__ for kind in TokenError.__subclasses__()) == sorted(kind.__name__ for kind in kinds)


def test_errors_travel() -> None:
    """They can be pickled, as test runners and process pools do, with what they know."""
    error = pickle.loads(pickle.dumps(ExpiredToken(timedelta(seconds=90))))  # noqa: S301
    assert (error.by, str(error)) == (timedelta(seconds=90), "the token expired 0:01:30 ago")
    assert str(NotYetValid(timedelta(seconds=1.25))) == "the token is valid only in 1.2 s; is the clock right?"


def test_messages_quote_in_ascii_and_shortly() -> None:
    """What a token says of itself comes escaped and cut into a message: no line break, no escape sequence, no megabyte in a log."""
    for token in (ED.token({"typ": "\x1b[31m\n" + "x" * 200}), ED.token({"kid": "é\r\n" * 60}), ED.token(iss="\x00" * 3000)):
        with pytest.raises(TokenError) as caught:
            verifier().verify(token)
        assert str(caught.value).isprintable()
        assert str(caught.value).isascii()
        assert len(str(caught.value)) < 300


def test_claims_in_json() -> None:
    """A top level of plain values can be written as JSON with what is at hand."""
    claims = verifier().verify(ED.token())
    assert json.loads(json.dumps(dict(claims.raw)))["aud"] == AUDIENCE
