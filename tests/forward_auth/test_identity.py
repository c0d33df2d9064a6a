"""What applications are told: headers that nothing can be slipped into, and demands that no mistake can lift."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiwi_id.forward_auth.identity import BadDemand, Demands, Identity, Unusable, demands

CLAIMS: dict[str, Any] = {
    "sub": "d76b5496-a8ea-4c27-ab2b-8439a291a872",
    "preferred_username": "alice@id.example.com",
    "name": "Zoë Ünal 漢",
    "email": "alice@example.com",
    "email_verified": True,
    "groups": ["mail_users", "staff"],
}
# Text that may hold line breaks, header separators, halves of surrogate pairs, anything.
ANY = st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\r\n\0:, ;\t\x7f\x85\u2028\ud800")), max_size=40)


def identity(**change: Any) -> Identity:
    """Return the identity of the usual claims, changed; None leaves a claim out."""
    return Identity.of({name: value for name, value in {**CLAIMS, **change}.items() if value is not None}, "openid groups")


def headers(**change: Any) -> dict[bytes, bytes]:
    """Return its headers."""
    return dict(identity(**change).headers())


def test_the_four_headers() -> None:
    """Names of every script go out in UTF-8; the rest is ASCII."""
    assert headers() == {
        b"remote-user": b"alice@id.example.com",
        b"remote-name": "Zoë Ünal 漢".encode(),
        b"remote-email": b"alice@example.com",
        b"remote-groups": b"mail_users,staff",
    }


def test_all_four_are_there_when_nothing_is_known() -> None:
    """Empty ones too: a proxy that copies them must overwrite what the client sent."""
    told = headers(name=None, email=None, groups=None)
    assert told == {b"remote-user": b"alice@id.example.com", b"remote-name": b"", b"remote-email": b"", b"remote-groups": b""}


@given(
    user=ANY,
    name=st.one_of(ANY, st.integers()),
    email=ANY,
    groups=st.lists(st.one_of(ANY, st.from_regex(r"[a-z_]{1,9}", fullmatch=True))),
)
def test_nothing_can_be_slipped_into_a_header(user: str, name: Any, email: str, groups: list[str]) -> None:
    """Whatever the claims hold: four well-formed values, the user as it is or nobody at all, no group that was not there."""
    try:
        found = identity(preferred_username=user, name=name, email=email, groups=groups)
    except Unusable:
        assert not re.fullmatch(r"[!-+\--~]{1,256}", user)
        return
    told = found.headers()
    # h11 refuses what no header may hold (RFC 9110 §5.5).
    sent = h11.Connection(h11.SERVER)
    sent.receive_data(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    sent.next_event()
    wire = sent.send(h11.Response(status_code=200, headers=[*told, (b"content-length", b"0")]))
    assert wire is not None
    assert wire.count(b"\r\n") == 1 + 5 + 1
    values = dict(told)
    assert values[b"remote-user"] == user.encode()
    assert all(unicodedata.category(char) not in ("Cc", "Zl", "Zp") for char in values[b"remote-name"].decode())
    assert values[b"remote-email"] in (b"", email.encode())
    assert set(values[b"remote-groups"].decode().split(",")) - {""} <= set(groups)


@pytest.mark.parametrize("user", ["", "al ice", "alice,bob", "alice\r\nremote-groups: wheel", "älice", "a" * 257, 7, ["alice"]])
def test_a_user_name_is_told_exactly_or_not_at_all(user: Any) -> None:
    """A mended name could be another user's."""
    with pytest.raises(Unusable):
        identity(preferred_username=user)


def test_who_has_no_user_name() -> None:
    """A person is known by the UUID; a token that a client got for itself is nobody's, whatever the client is called."""
    assert identity(preferred_username=None).user == CLAIMS["sub"]
    with pytest.raises(Unusable):
        identity(preferred_username=None, sub="alice")


@pytest.mark.parametrize(
    "change", [{"email_verified": False}, {"email_verified": "true"}, {"email_verified": None}, {"email": "a b@c"}]
)
def test_an_unverified_address_is_not_told(change: dict[str, Any]) -> None:
    """Applications log in by e-mail address."""
    assert headers(**change)[b"remote-email"] == b""


def test_names_are_mended_and_cut() -> None:
    """A name is for people: what does not fit is a space, and what is endless is cut."""
    assert headers(name=" A\r\nB\tC\u2028 ")[b"remote-name"] == b"A B C"
    assert len(headers(name="ä" * 1000)[b"remote-name"].decode()) == 256


def test_groups_that_would_read_as_others_are_left_out() -> None:
    """A comma in a name would make two groups of one."""
    assert headers(groups=["a", "b,wheel", "c d", "ü", "", 7])[b"remote-groups"] == b"a"


# -- demands ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "lacking"),
    [
        (b"", ""),
        (b"groups=staff", ""),
        (b"groups=wheel,staff", ""),
        (b"groups=wheel", "groups"),
        (b"groups=staf", "groups"),
        (b"scopes=openid", ""),
        (b"scopes=openid,groups", ""),
        (b"scopes=openid,mail", "scopes"),
        (b"groups=staff&scopes=mail", "scopes"),
        (b"groups=wheel&scopes=openid", "groups"),
        (b"groups=staff%2Cwheel", ""),
    ],
)
def test_demands(query: bytes, lacking: str) -> None:
    """One of the groups, all of the scopes, and both when both are demanded."""
    assert demands(query).lacking(identity()) == lacking


@pytest.mark.parametrize(
    "query",
    [
        b"group=staff",
        b"groups=",
        b"groups",
        b"groups=a,",
        b"groups=a, b",
        b"groups=a&groups=b",
        b"&",
        b"groups=a&x=y",
        b"groups=\xc3\xbc",
        b"?",
    ],
)
def test_a_misspelt_demand_is_refused(query: bytes) -> None:
    """It must not be taken for no demand: everybody would pass."""
    with pytest.raises(BadDemand):
        demands(query)


@given(query=st.one_of(st.binary(max_size=40), st.from_regex(rb"(groups|scopes|x)=[a-z,&=]*", fullmatch=True)))
def test_no_query_but_the_empty_one_demands_nothing(query: bytes) -> None:
    """Whatever stands there demands something, or is refused."""
    try:
        found = demands(query)
    except BadDemand:
        return
    assert (found == Demands()) == (query == b"")
