"""Properties of the header rules and of the check of chunks, for whatever Hypothesis can think of."""

from __future__ import annotations

import ipaddress
import re
from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiwi_id.proxy import rules
from kiwi_id.proxy.chunks import ChunkCheck
from kiwi_id.proxy.rules import BadRequest, Header, Headers, Origin
from kiwi_id.values import Network

HOP = {
    *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"),
    *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
}
FORWARDING = {
    *(b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-server"),
    *(b"x-forwarded-prefix", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"x-request-id"),
}
KEPT = {b"host", b"content-length", b"content-type", b"authorization", b"cookie", b"set-cookie", b"cache-control"}
OTHER = {b"accept", b"x-a", b"x-b", b"x-kanidm-opid", b"hx-request", b"traceparent", b"dpop", b"origin", b"expect"}

names = st.sampled_from(sorted(HOP | FORWARDING | KEPT | OTHER)) | st.from_regex(rb"[!#$%&'*+.^_`|~0-9a-z-]{1,12}", fullmatch=True)
texts = st.from_regex(rb"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]{0,20}[\x21-\x7e\x80-\xff])?", fullmatch=True) | st.just(b"")
lists = st.lists(names, min_size=1, max_size=4).map(lambda found: b", ".join(found).title())
addresses = st.ip_addresses().map(str)
hops = st.one_of(
    addresses,
    addresses.map(lambda text: f"[{text}]:4711" if ":" in text else f"{text}:4711"),
    st.sampled_from(["127.0.0.1", "10.0.0.1", "10.1.2.3", "::1", "::ffff:10.0.0.9"]),
    st.sampled_from(["unknown", "_hidden", "fe80::1%eth0", "fe80::1%x;host=evil", "", "a,b"]),
    st.text(max_size=12),
)
chains = st.lists(hops, min_size=1, max_size=5).map(lambda found: ", ".join(found).encode("latin-1", "replace"))


@st.composite
def header(draw: st.DrawFn) -> Header:
    """One header field, with a value of a kind that fits its name."""
    name = draw(names)
    kind = {b"connection": lists, b"x-forwarded-for": chains | texts}.get(name, texts)
    return name, draw(kind)


headers = st.lists(header(), max_size=12)
peers = st.sampled_from(["127.0.0.1", "10.0.0.1", "203.0.113.9", "::1", "2001:db8::1", ""]) | addresses
TRUSTED: tuple[Network, ...] = (
    ipaddress.ip_network("127.0.0.0/8"),
    ipaddress.ip_network("10.0.0.0/8"),
    ipaddress.ip_network("::1"),
)
hosts = st.sampled_from([b"id.example.com", b"id.example.com:8443", b"[::1]:8443", b"", None])

unhurried = settings(deadline=None)  # no test asserts a time


def named(fields: Headers) -> set[bytes]:
    """Return the names that Connection fields list."""
    return {part.strip().lower() for name, value in fields if name == b"connection" for part in value.split(b",")}


@unhurried
@given(headers, peers, hosts, st.booleans())
def test_nothing_hop_by_hop_and_nothing_forged_goes_to_kanidmd(
    fields: Headers, peer: str, host: bytes | None, trusting: bool
) -> None:
    """Each forwarding field is there once and says what find_origin found; hop-by-hop fields and those named are gone."""
    origin = rules.find_origin(peer, "https", fields, host, TRUSTED if trusting else ())
    out = rules.to_upstream(fields, origin, b"our-request-id")
    ours = out[-6:]
    assert [name for name, _ in ours] == b"x-forwarded-for x-forwarded-proto x-forwarded-host forwarded via x-request-id".split()
    theirs = [name for name, _ in out[:-6]]
    assert not (HOP | FORWARDING) & set(theirs)
    assert not (named(fields) - KEPT) & set(theirs)
    values = dict(ours)
    assert values[b"x-forwarded-for"] == origin.client.encode()
    assert values[b"x-request-id"] == b"our-request-id"
    if not trusting:
        assert origin == Origin(peer, "https", host or b"")
    # What h11 takes for a request is one, with nothing in it that could begin another line or another parameter.
    sent = [field for field in out if field[0] not in (b"host", b"content-length")]
    h11.Request(method=b"GET", target=b"/", headers=[(b"host", b""), *sent])
    parameters = rb'for=([0-9A-Fa-f.]*|"\[[0-9A-Fa-f:.]+\]");proto=https?;host=([A-Za-z0-9.-]+|"[^"\\;]*")'
    quoted = re.sub(rb'"[^"]*"', lambda found: found[0].replace(b";", b""), values[b"forwarded"])
    assert re.fullmatch(parameters, quoted)


@unhurried
@given(headers, hosts)
def test_what_is_end_to_end_stays_in_its_order(fields: Headers, host: bytes | None) -> None:
    """Everything that need not go passes unchanged, repeated fields and their order among them; there is always a Host."""
    origin = Origin("203.0.113.9", "https", host or b"")
    out = rules.to_upstream(fields, origin, b"our-request-id")[:-6]
    gone = HOP | FORWARDING | (named(fields) - KEPT)
    expected = [field for field in fields if field[0] not in gone]
    if not any(name == b"host" for name, _ in fields):
        expected.append((b"host", origin.host))
    assert out == expected


@unhurried
@given(headers, peers, hosts)
def test_the_client_is_an_address_that_a_trusted_proxy_vouches_for(fields: Headers, peer: str, host: bytes | None) -> None:
    """Every address to the right of the one that is believed is trusted, the peer among them; nothing else is an address."""
    fields = [field for field in fields if field[0] != b"forwarded"]
    origin = rules.find_origin(peer, "http", fields, host, TRUSTED)
    assert origin.scheme in ("http", "https")
    if not rules.is_trusted(peer, TRUSTED):
        assert origin == Origin(peer, "http", host or b"")
        return
    assert str(ipaddress.ip_address(origin.client)) == origin.client
    assert "%" not in origin.client
    chain = ",".join(value.decode("latin-1") for name, value in fields if name == b"x-forwarded-for")
    path = [peer, *(rules.plain_address(hop.strip()) for hop in reversed(chain.split(",")))]
    seen = path[: path.index(origin.client) + 1]
    assert all(hop is not None and rules.is_trusted(hop, TRUSTED) for hop in seen[:-1])


@unhurried
@given(st.lists(hops.filter(lambda hop: not set(hop) & set(',"\\')), min_size=1, max_size=5), peers)
def test_both_ways_of_saying_it_mean_the_same(chain: list[str], peer: str) -> None:
    """The same hops in X-Forwarded-For and in Forwarded lead to the same client."""
    raw = [hop.encode("latin-1", "replace") for hop in chain]
    one = [(b"x-forwarded-for", b", ".join(raw))]
    other = [(b"forwarded", b", ".join(b'for="%s"' % hop for hop in raw))]
    found = rules.find_origin(peer, "http", one, b"", TRUSTED)
    assert rules.find_origin(peer, "http", other, b"", TRUSTED) == found


@unhurried
@given(headers)
def test_nothing_hop_by_hop_goes_to_the_client(fields: Headers) -> None:
    """Of an answer, hop-by-hop fields stay, and there is one request id, ours; a length beside chunks counts for nothing."""
    out = rules.to_client(fields, b"our-request-id")
    left = [name for name, _ in out]
    assert left.count(b"x-request-id") == 1
    assert out[-1] == (b"x-request-id", b"our-request-id")
    assert not HOP & set(left)
    if (b"transfer-encoding", b"chunked") in fields:
        assert b"content-length" not in left
    else:
        assert [field for field in out if field[0] in KEPT] == [field for field in fields if field[0] in KEPT]


@unhurried
@given(headers)
def test_trailers_frame_route_and_authenticate_nothing(fields: Headers) -> None:
    """No field that says what a message is, who sent it or where it goes passes as a trailer."""
    left = {name for name, _ in rules.trailers(fields)}
    assert not left & (HOP | FORWARDING | KEPT)


@unhurried
@given(st.binary(max_size=200))
def test_what_passes_the_check_has_lines_that_all_agree_on(data: bytes) -> None:
    """A head that passes has CR and LF in pairs only, no line that begins with a blank, and no control character."""
    try:
        rules.check_head(data)
    except BadRequest:
        return
    assert b"\n" not in data.replace(b"\r\n", b"")
    assert b"\r" not in data.replace(b"\r\n", b"")[:-1]
    assert not re.search(rb"\r\n[ \t]", data)
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", data)


@unhurried
@given(st.binary(max_size=200), st.integers(0, 200))
def test_the_check_is_the_same_for_any_prefix(data: bytes, cut: int) -> None:
    """What is refused in part is refused in whole: bytes that come later can mend nothing."""
    try:
        rules.check_head(data[:cut])
    except BadRequest:
        with pytest.raises(BadRequest):
            rules.check_head(data)


@unhurried
@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b"\t", b"a", b"\x00"]), max_size=12).map(b"".join))
def test_looking_at_new_bytes_only_finds_the_same(data: bytes) -> None:
    """A head that is looked at byte by byte, new bytes only, gets the same verdict as a whole."""

    def refused(*edges: int) -> bool:
        try:
            for start, end in pairwise(edges):
                rules.check_head(data[:end], start, end)
        except BadRequest:
            return True
        return False

    assert refused(*range(len(data) + 1)) == refused(0, len(data))


good_lines = st.sampled_from([b"3\r\nabc\r\n", b"1;a=b\r\nx\r\n", b"0\r\n", b"\r\n", b"X-A: b\r\n"])
bad_lines = st.sampled_from([b"3\nabc\r\n", b"0\n", b"\n", b" 1\r\nx\r\n", b"X-A: b\n", b" fold\r\n"])
chunked_bodies = st.lists(good_lines | bad_lines | st.binary(max_size=4), max_size=6).map(b"".join)


def verdict(pieces: list[bytes]) -> str:
    """Return what the check says of a body that comes in these pieces."""
    check = ChunkCheck()
    try:
        for piece in pieces:
            check.feed(piece)
    except BadRequest:
        return "refused"
    return "complete" if check.done else "open"


@unhurried
@given(chunked_bodies, st.sets(st.integers(0, 60), max_size=6))
def test_chunks_are_judged_the_same_however_they_come(body: bytes, cuts: set[int]) -> None:
    """A body gets the same verdict in one piece as in any other."""
    edges = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    assert verdict([body]) == verdict([body[start:end] for start, end in pairwise(edges)])


@unhurried
@given(chunked_bodies)
def test_a_complete_body_is_complete_for_h11_too(body: bytes) -> None:
    """Where the check finds the end of a body, h11 finds it, too: the two never disagree on where the next request begins."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    connection.next_event()
    end = next((size for size in range(len(body) + 1) if verdict([body[:size]]) != "open"), None)
    if end is None or verdict([body[:end]]) == "refused":
        return
    connection.receive_data(body)
    try:
        while isinstance(event := connection.next_event(), h11.Data):
            pass
    except h11.RemoteProtocolError:
        return
    assert isinstance(event, h11.EndOfMessage)
    assert connection.trailing_data[0] == body[end:]
