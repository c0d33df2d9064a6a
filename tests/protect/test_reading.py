"""What requests and answers say: each way in which Kanidm takes a name or a step is taken in the same way here."""

from __future__ import annotations

import base64
import json
from random import Random
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiwi_id.protect import reading

UUID = "8f2a6d60-0000-4000-8000-00000000a11c"


@pytest.mark.parametrize(
    "name",
    [
        "alice",
        "ALICE",
        "Alice@id.example.com",
        "alice@",
        "name=alice",
        "name=alice,dc=id,dc=example",
        "x=Alice@localhost,y",
        "alice,dc=example",
        "alice=bob",
    ],
)
def test_one_account_is_one_bucket(name: str) -> None:
    """Case, domain and DN make no other account; "alice=bob" is bob, as for Kanidm, and so is only looked at in full."""
    assert reading.account(name) == ("bob" if name == "alice=bob" else "alice")


@pytest.mark.parametrize("name", [UUID, UUID.upper(), UUID.replace("-", ""), f"{{{UUID}}}", f"urn:uuid:{UUID}", f"uuid={UUID}"])
def test_a_uuid_in_each_of_its_forms(name: str) -> None:
    """Rust's Uuid::parse_str takes four forms; all are one account."""
    assert reading.account(name) == UUID


# What Kanidm lets an account be called (server/lib/src/value.rs, INAME_RE).
NAMES = st.from_regex(r"[a-z][a-z0-9-_.]{0,30}", fullmatch=True)


@given(NAMES, st.sampled_from(["", "@localhost", "@id.example.com"]), st.sampled_from(["", "name=", "spn="]), st.randoms())
def test_however_it_is_written(name: str, domain: str, attribute: str, random: Random) -> None:
    """Each name is its own bucket, through any mix of cases, with a domain and as a DN, in a form as well."""
    mixed = "".join(char.upper() if random.random() < 0.5 else char for char in name + domain)
    assert reading.account(attribute + mixed) == name
    assert reading.account_of_form(urlencode({"password": "x", "username": attribute + mixed}).encode()) == name


@given(st.text(max_size=80), st.binary(max_size=80))
def test_nothing_that_is_typed_breaks_it(name: str, body: bytes) -> None:
    """Any text is a name, and reading it once more changes nothing that matters; any bytes are a form."""
    assert "@" not in reading.account(name)
    assert isinstance(reading.account_of_form(body), str)


def test_the_login_form() -> None:
    """The name of the first form, with what a password manager adds; a form without one has none."""
    assert reading.account_of_form(b"username=Alice%40localhost&password=secret&totp=") == "alice"
    assert reading.account_of_form(b"%75sername=al+ice&x") == "al ice"
    assert reading.account_of_form(b"password=alice") == ""
    assert reading.account_of_form(b"") == ""
    assert reading.account_of_form(b"\xff\xfe=1&username=bob\xff") == "bob\ufffd"


def _init2(**extra: object) -> dict[str, object]:
    return {"step": {"init2": {"username": "Alice@localhost", "issue": "token", "privileged": True}}, **extra}


@pytest.mark.parametrize(
    ("body", "step"),
    [
        (json.dumps(_init2()).encode(), ("init2", "alice")),
        (b' \r\n\t{"step":{"init":"ALICE"}}', ("init", "alice")),
        # serde takes structs as arrays, too
        (b'[{"init2":["alice","token",true]}]', ("init2", "alice")),
        (b'{"step":{"init2":["alice","token",true]}}', ("init2", "alice")),
        # axum 0.7 does not look at what comes after the value
        (b'{"step":{"init":"alice"}} and more', ("init", "alice")),
        # members that nobody asked for: no limit on numbers, no UTF-8, control characters, half a surrogate pair
        (b'{"x":' + b"9" * 20_000 + b',"step":{"init":"alice"}}', ("init", "alice")),
        (b'{"x":"\xff\xfe","step":{"init":"alice"}}', ("init", "alice")),
        (b'{"x":"\x01","y":"\\ud800","step":{"init":"alice"}}', ("init", "alice")),
        (b'{"step":{"init":"\\u0061lice"}}', ("init", "alice")),
        (b'{"step":{"begin":"password"}}', ("begin", "")),
        (b'{"step":{"cred":{"password":"secret"}}}', ("cred", "")),
        (b'{"step":{"other":1}}', ("", "")),
        (b'{"step":"cred"}', ("", "")),
        (b'{"step":{"init":7}}', ("init", "")),
        (b'{"step":{"init2":7}}', ("init2", "")),
        (b'"step"', ("", "")),
        (b"[]", ("", "")),
    ],
)
def test_steps_of_the_rest_api(body: bytes, step: tuple[str, str]) -> None:
    """Kind and account, in every form that Kanidm takes."""
    assert reading.step_of(body) == step


@pytest.mark.parametrize("body", [b"", b"step", b"\xef\xbb\xbf{}", b"[" * 60_000, b'{"step":', b"username=alice"])
def test_what_is_no_json(body: bytes) -> None:
    """What cannot be read is told, also when it is only too deep for us."""
    with pytest.raises(ValueError, match=r".+"):
        reading.step_of(body)


@given(st.binary(max_size=300))
def test_no_bytes_break_it(body: bytes) -> None:
    """Any bytes are a step, no step, or a ValueError."""
    try:
        kind, _ = reading.step_of(body)
    except ValueError:
        return
    assert kind in ("", "init", "init2", "begin", "cred")


def test_tokens_of_a_login() -> None:
    """Header and cookies, each way of writing them; the signature does not matter, and what was signed does not lie about."""
    (one,) = reading.login_tokens([(b"x-kanidm-auth-session-id", b"head.payload.signature")])
    for cookie in (
        b"auth-session-id=head.payload.signature",
        b"a=b; auth-session-id=head.payload.other; c=d",
        b"auth%2Dsession%2did=head%2epayload.signature",
        b" auth-session-id = head.payload.signature ",
    ):
        assert reading.login_tokens([(b"cookie", cookie)]) == (one,)
    assert b"payload" not in one
    both = [(b"x-kanidm-auth-session-id", b"head.payload.signature"), (b"cookie", b"auth-session-id=h.q.s; auth-session-id=h.r.s")]
    assert len(reading.login_tokens(both)) == 3
    assert reading.login_tokens([(b"cookie", b"bearer=x; not-auth-session-id=h.p.s; auth-session-id=")]) == ()
    assert reading.next_tokens([(b"set-cookie", b"auth-session-id=head.payload.signature; HttpOnly; Path=/")]) == (one,)
    assert reading.next_tokens([(b"x-kanidm-auth-session-id", b"head.payload.signature")]) == (one,)
    assert reading.next_tokens([(b"set-cookie", b"auth-session-id=; Max-Age=0"), (b"set-cookie", b"bearer=x")]) == ()


def test_what_answers_mean() -> None:
    """A login that ends, a session that begins, and the states of the REST API."""
    assert reading.ends_login([(b"set-cookie", b"auth-session-id=; Path=/; Max-Age=0")])
    assert not reading.ends_login([(b"set-cookie", b"auth-session-id=x"), (b"set-cookie", b"bearer=; Max-Age=0")])
    assert reading.opens_session([(b"set-cookie", b"bearer=x.y.z; Path=/")])
    assert not reading.opens_session([(b"set-cookie", b"bearer=; Path=/; Max-Age=0")])
    for state, value in (
        ("choose", '["password"]'),
        ("continue", "[]"),
        ("success", '"e.y.J"'),
        ("denied", '"incorrect password"'),
    ):
        assert reading.state_of(f'{{"sessionid":"{UUID}","state":{{"{state}":{value}}}}}'.encode()) == state
    assert reading.state_of(b'"nomatchingentries"') == ""


def test_clients() -> None:
    """The client of HTTP Basic (form-encoded, RFC 6749 §2.3.1) goes before the one in the form; case makes no other client."""
    basic = [(b"authorization", b"Basic " + base64.b64encode(quote("my client").encode() + b":secret"))]
    assert reading.client_of(basic, b"client_id=other") == "my client"
    assert reading.client_of([], b"grant_type=x&client_id=Wiki") == "wiki"
    assert reading.client_of([(b"authorization", b"Basic !")], b"client_id=wiki") == ""
    assert reading.client_of([(b"authorization", b"Bearer x")], b"client_id=wiki") == "wiki"
    assert reading.client_of([], b"\xff") == ""
    assert len(reading.client_of([], b"client_id=" + b"x" * 5000)) == 256
