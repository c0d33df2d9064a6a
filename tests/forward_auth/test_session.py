"""The session's cookie: what it survives, and what it counts for."""

from __future__ import annotations

import random
import string
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiwi_id.forward_auth.identity import Identity
from kiwi_id.forward_auth.session import MOST, Session, Sessions, TooLarge, cookies_of_others
from kiwi_id.issuer.http import Request
from kiwi_id.issuer.keys import KeySet, KeyState
from tests.forward_auth.issuer import HOST, RULES
from tests.issuer.unit.issuer import key

KEYS = KeySet(key(), [])
SESSIONS = Sessions(RULES, KEYS)
ALICE = Identity("uuid", "alice@id.example", "Zoë", "alice@example.com", ("staff",), ("openid",))
NOW = int(time.time())
SESSION = Session(ALICE, HOST, "r" * 550, "sid", NOW, NOW)


class Clock:
    """The module's clock, which stands."""

    @staticmethod
    def time() -> float:
        """Return the moment at which the sessions here begin."""
        return NOW


@pytest.fixture(autouse=True, scope="module")
def _clock() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kiwi_id.forward_auth.session.time", Clock)
        yield


def cookie_of(session: Session, sessions: Sessions = SESSIONS) -> tuple[str, str]:
    """Return a session's cookie and its attributes."""
    pair, _, attributes = sessions.set_cookie(session)[1].decode().partition("; ")
    return pair, attributes


def found(cookie: str, host: str = HOST, sessions: Sessions = SESSIONS) -> Session | None:
    """Return the session of a request with that cookie."""
    return sessions.found(Request("GET", "/", b"", [(b"cookie", cookie.encode("latin-1"))], b"", "", b""), host)


PAIR, _ = cookie_of(SESSION)


@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
    groups=st.lists(st.from_regex("[a-z_]{1,20}", fullmatch=True), max_size=20),
)
def test_a_session_comes_back_as_it_was(name: str, groups: list[str]) -> None:
    """Every field, in any script."""
    session = replace(SESSION, identity=replace(ALICE, name=name, groups=tuple(groups)))
    assert found(cookie_of(session)[0]) == session


def test_the_attributes() -> None:
    """For one host by prefix, and without a Domain; for all with one. Both secure, out of scripts' reach, and bounded."""
    pair, attributes = cookie_of(SESSION)
    assert pair.startswith("__Host-kiwi-session=")
    assert attributes.split("; ")[1:] == ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"]
    assert attributes.split("; ")[0] == "Max-Age=3600"
    shared = Sessions(replace(RULES, domain="example"), KEYS)
    pair, attributes = cookie_of(replace(SESSION, host=""), shared)
    assert pair.startswith("__Secure-kiwi-session=")
    assert attributes.split("; ")[1:] == ["Path=/", "Secure", "HttpOnly", "SameSite=Lax", "Domain=example"]


def test_a_session_counts_for_its_host_only() -> None:
    """Whoever runs one host gets its cookie, and must have nothing by it at another; nor in the other mode."""
    pair, _ = cookie_of(SESSION)
    assert found(pair, "files.example") is None
    shared = Sessions(replace(RULES, domain="example"), KEYS)
    value = pair.partition("=")[2]
    assert found(f"__Secure-kiwi-session={value}", HOST, shared) is None
    all_hosts = cookie_of(replace(SESSION, host=""), shared)[0]
    assert found(all_hosts, HOST, shared) is not None
    assert found(all_hosts, "files.example", shared) is not None
    assert found(all_hosts.replace("__Secure", "__Host"), HOST) is None


def test_a_session_ends_with_its_lifetime() -> None:
    """Counted from the login, over all renewals; a shorter lifetime in the configuration counts at once."""
    old = replace(SESSION, begun=NOW - 3590)
    pair, attributes = cookie_of(old)
    assert attributes.split("; ")[0] == "Max-Age=10"
    assert found(pair) == old
    assert found(pair, sessions=Sessions(replace(RULES, lifetime=3500.0), KEYS)) is None


@given(data=st.data())
def test_a_changed_cookie_is_none(data: st.DataObject) -> None:
    """No character of it can be another."""
    name, _, value = PAIR.partition("=")
    at = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(st.sampled_from([char for char in string.ascii_letters + "-_=. é" if char != value[at]]))
    assert found(f"{name}={value[:at]}{other}{value[at + 1 :]}") is None


@pytest.mark.parametrize("cookie", ["", "__Host-kiwi-session=", "__Host-kiwi-session=x", "x__Host-kiwi-session=y", "=;;="])
def test_junk_is_no_session(cookie: str) -> None:
    """Nor an error."""
    assert found(cookie) is None


def test_a_box_of_another_purpose_is_none() -> None:
    """A state of a login, which anybody can get, opens as no session."""
    from kiwi_id.issuer.box import Sealer  # noqa: PLC0415

    for purpose in ("forward-auth state", "authorization code"):
        assert found(f"__Host-kiwi-session={Sealer(purpose, KEYS).seal({'u': 'x'}, lifetime=60)}") is None


def test_a_retired_key_still_opens() -> None:
    """A rotation of the signing key ends no session."""
    pair, _ = cookie_of(SESSION)
    rotated = KeySet(key(number=1), [replace(key(), state=KeyState.RETIRED)])
    assert found(pair, sessions=Sessions(RULES, rotated)) == SESSION
    assert found(pair, sessions=Sessions(RULES, KeySet(key(number=1), []))) is None


def test_what_fits_into_a_cookie() -> None:
    """Two hundred groups with names of no pattern do; what does not is told, and never a cookie that browsers drop in silence."""
    words = random.Random(7)  # noqa: S311 - the same each time
    groups = tuple("".join(words.choices(string.ascii_lowercase, k=12)) for _ in range(800))
    pair, attributes = cookie_of(replace(SESSION, identity=replace(ALICE, groups=groups[:200])))
    assert len(f"{pair}; {attributes}") <= MOST
    with pytest.raises(TooLarge):
        cookie_of(replace(SESSION, identity=replace(ALICE, groups=groups)))


@given(
    headers=st.lists(
        st.lists(
            st.sampled_from(
                [";", "; ", " ", "\t", ",", "=", '"', "é", "a=1", "kiwi-session", "__host-kiwi-session=x", "__Host-", PAIR]
            ),
            max_size=12,
        ).map("".join),
        max_size=3,
    )
)
def test_what_is_left_for_the_application(headers: list[str]) -> None:
    """However cookies are strung together: no session can be found in what is left, and what is left was there, in its order."""
    came = [(b"cookie", header.encode("latin-1")) for header in headers]
    name, left = cookies_of_others(Request("GET", "/", b"", came, b"", "", b""))
    assert name == b"cookie"
    again = Request("GET", "/", b"", [(name, left)], b"", "", b"")
    assert found(left.decode("latin-1")) is None
    assert not again.cookie("__Host-kiwi-session")
    assert cookies_of_others(again)[1] == left
    assert left.count(b"a=1") <= "".join(headers).count("a=1")


def test_cookies_of_others_come_as_they_are() -> None:
    """Bytes, order and repetitions of all other cookies stay, over several headers."""
    came = [(b"cookie", b'b=\xfc; a=1;a=2;  q="x, y"; =; ' + PAIR.encode()), (b"x", b"y"), (b"cookie", b"a=1; kiwi-session=theirs")]
    header = cookies_of_others(Request("GET", "/", b"", came, b"", "", b""))
    assert header == (b"cookie", b'b=\xfc; a=1; a=2; q="x, y"; =; a=1; kiwi-session=theirs')
    assert cookies_of_others(Request("GET", "/", b"", [], b"", "", b"")) == (b"cookie", b"")
