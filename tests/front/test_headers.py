"""Which header fields pass in which direction, and what kanidmd is told about who asks."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import pytest

from kiwi_id.proxy.connection import Settings
from kiwi_id.proxy.guard import Guard
from tests.front.conftest import Front

HOST = b"Host: id.example.com\r\n"
FORGED = (
    b"X-Forwarded-For: 10.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Port: 1\r\n"
    b"X-Forwarded-Server: evil\r\nX-Forwarded-Prefix: /evil\r\nX-Real-IP: 10.9.9.9\r\nX-Client-IP: 10.9.9.9\r\n"
    b"True-Client-IP: 10.9.9.9\r\nForwarded: for=10.9.9.9;host=evil.example;proto=https\r\n"
)


def values(request: bytes, name: bytes) -> list[bytes]:
    """Return every value of a header of a raw request."""
    head = request.partition(b"\r\n\r\n")[0] + b"\r\n"
    return re.findall(rb"(?i)\r\n" + re.escape(name) + rb": ?([^\r]*)", head)


async def sent(front: Front, fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    """Send a request with these header lines and return it as kanidmd got it."""
    reply = await front.ask(line + b"\r\n" + HOST + fields + b"\r\n")
    assert reply.status == 200
    return front.kanidm.requests[-1]


async def test_end_to_end_fields_pass_unchanged(front: Front) -> None:
    """Order, repetition, odd bytes and Kanidm's own fields arrive as they were sent."""
    fields = [
        b"accept: text/html, */*;q=0.8",
        b"cookie: a=b; c=d",
        b"authorization: Bearer eyJhbGciOi",
        b"x-kanidm-auth-session-id: 123",
        b"hx-request: true",
        b"hx-current-url: https://id.example.com/ui/login?x=y",
        b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"tracestate: vendor=1",
        b"x-twice: one",
        b"x-other: caf\xe9",
        b"x-twice: two",
        b"x-empty:",
        b"origin: https://id.example.com",
        b'if-none-match: "abc"',
    ]
    request = await sent(front, b"".join(line + b"\r\n" for line in fields), b"GET /a%20b//c?d=e&f=%2F HTTP/1.1")
    lines = request.split(b"\r\n")
    assert lines[:2] == [b"GET /a%20b//c?d=e&f=%2F HTTP/1.1", b"host: id.example.com"]
    assert [line.strip() for line in lines[2 : 2 + len(fields)]] == fields


async def test_hop_by_hop_fields_stay_here(front: Front) -> None:
    """What RFC 9110 §7.6.1 ends at each hop, and what Connection names, does not travel on."""
    request = await sent(
        front,
        b"Connection: keep-alive, X-Secret , x-other\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nX-Secret: 1\r\n"
        b"X-Other: 2\r\nX-Stays: 3\r\nTE: trailers\r\nTrailer: X-A\r\nUpgrade: h2c\r\nProxy-Authorization: Basic abc\r\n",
    )
    for name in b"connection keep-alive proxy-connection x-secret x-other te trailer upgrade proxy-authorization".split():
        assert values(request, name) == []
    assert values(request, b"x-stays") == [b"3"]


async def test_connection_cannot_take_out_what_matters(front: Front) -> None:
    """A client cannot have Host, cookies or the length removed, nor our forwarding fields, by naming them in Connection."""
    reply = await front.ask(
        b"POST / HTTP/1.1\r\n" + HOST + b"Connection: host, content-length, cookie, authorization, x-forwarded-for, forwarded\r\n"
        b"Content-Length: 2\r\nCookie: a=b\r\nAuthorization: Bearer x\r\n\r\nhi"
    )
    assert reply.status == 200
    request = front.kanidm.requests[-1]
    assert values(request, b"host") == [b"id.example.com"]
    assert values(request, b"cookie") == [b"a=b"]
    assert values(request, b"authorization") == [b"Bearer x"]
    assert values(request, b"content-length") == [b"2"]
    assert values(request, b"x-forwarded-for") == [b"127.0.0.1"]
    assert request.endswith(b"\r\n\r\nhi")


async def test_a_strangers_forwarding_fields_are_overwritten(front: Front) -> None:
    """Without trusted_proxies nobody's word about who asks is believed; each field is there once, and is ours."""
    request = await sent(front, FORGED)
    assert values(request, b"x-forwarded-for") == [b"127.0.0.1"]
    assert values(request, b"x-forwarded-proto") == [b"http"]
    assert values(request, b"x-forwarded-host") == [b"id.example.com"]
    assert values(request, b"forwarded") == [b"for=127.0.0.1;proto=http;host=id.example.com"]
    assert values(request, b"via") == [b"1.1 kiwi-id"]
    for name in b"x-forwarded-port x-forwarded-server x-forwarded-prefix x-real-ip x-client-ip true-client-ip".split():
        assert values(request, name) == []
    assert b"10.9.9.9" not in request
    assert b"evil" not in request


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ([b"203.0.113.7"], b"203.0.113.7"),
        ([b"6.6.6.6, 203.0.113.7"], b"203.0.113.7"),
        ([b"6.6.6.6, 203.0.113.7, 10.0.0.1"], b"203.0.113.7"),
        ([b"6.6.6.6", b"203.0.113.7", b"10.0.0.1, 10.0.0.2"], b"203.0.113.7"),
        ([b"203.0.113.7:4711"], b"203.0.113.7"),
        ([b"2001:db8::7"], b"2001:db8::7"),
        ([b"2001:DB8:0::7"], b"2001:db8::7"),
        ([b"[2001:db8::7]:4711"], b"2001:db8::7"),
        ([b'"[2001:db8::7]:4711"'], b"2001:db8::7"),
        ([b"::ffff:203.0.113.7"], b"203.0.113.7"),
        ([b"unknown"], b"127.0.0.1"),
        ([b""], b"127.0.0.1"),
        ([b"203.0.113.7, unknown"], b"127.0.0.1"),
        ([b"203.0.113.7, unknown, 10.0.0.1"], b"10.0.0.1"),
        ([b"10.0.0.1, 10.0.0.2"], b"10.0.0.1"),
        ([b"fe80::1%x;host=evil"], b"127.0.0.1"),
        ([], b"127.0.0.1"),
    ],
)
async def test_a_trusted_proxy_is_believed_from_the_right(front: Front, chain: list[bytes], client: bytes) -> None:
    """Of X-Forwarded-For only what trusted proxies wrote counts: from the right, up to the first address that is none of them."""
    front.trust("127.0.0.0/8", "10.0.0.0/8")
    request = await sent(front, b"".join(b"X-Forwarded-For: " + value + b"\r\n" for value in chain))
    assert values(request, b"x-forwarded-for") == [client]
    shown = b'"[%s]"' % client if b":" in client else client
    assert values(request, b"forwarded") == [b"for=" + shown + b";proto=http;host=id.example.com"]


async def test_a_trusted_proxys_scheme_and_host(front: Front) -> None:
    """Scheme and host of a trusted proxy are passed on, those that make no sense are not."""
    front.trust("127.0.0.1")
    request = await sent(front, b"X-Forwarded-Proto: http, HTTPS\r\nX-Forwarded-Host: a.example, login.example.com:8443\r\n")
    assert values(request, b"x-forwarded-proto") == [b"https"]
    assert values(request, b"x-forwarded-host") == [b"login.example.com:8443"]
    assert values(request, b"forwarded") == [b'for=127.0.0.1;proto=https;host="login.example.com:8443"']
    request = await sent(front, b'X-Forwarded-Proto: gopher\r\nX-Forwarded-Host: a";for=evil\r\n')
    assert values(request, b"x-forwarded-proto") == [b"http"]
    assert values(request, b"x-forwarded-host") == [b"id.example.com"]


@pytest.mark.parametrize(
    ("fields", "client", "scheme", "host"),
    [
        (b"Forwarded: for=203.0.113.7;proto=https;host=login.example.com", b"203.0.113.7", b"https", b"login.example.com"),
        (b'forwarded: For="[2001:db8::7]:4711" ; Proto=HTTPS ; By=x', b"2001:db8::7", b"https", b"id.example.com"),
        (
            b'Forwarded: for=6.6.6.6, for="203.0.113.7:80";host=a, for=10.0.0.1;proto=https',
            b"203.0.113.7",
            b"https",
            b"id.example.com",
        ),
        (b"Forwarded: for=6.6.6.6\r\nForwarded: for=203.0.113.7", b"203.0.113.7", b"http", b"id.example.com"),
        (b"Forwarded: for=203.0.113.7, for=_hidden", b"127.0.0.1", b"http", b"id.example.com"),
        (b"Forwarded: for=203.0.113.7, proto=https", b"127.0.0.1", b"https", b"id.example.com"),
        (b'Forwarded: for="203.0.113.7, for=10.0.0.1', b"127.0.0.1", b"http", b"id.example.com"),
        (b'Forwarded: for=203.0.113.7;host="a\\"b"', b"127.0.0.1", b"http", b"id.example.com"),
        (b"Forwarded: nonsense", b"127.0.0.1", b"http", b"id.example.com"),
        (b"Forwarded: for=6.6.6.6;host=evil.example\r\nX-Forwarded-For: 203.0.113.7", b"203.0.113.7", b"http", b"id.example.com"),
    ],
)
async def test_a_trusted_proxy_may_say_forwarded(front: Front, fields: bytes, client: bytes, scheme: bytes, host: bytes) -> None:
    """Forwarded is read from the right as X-Forwarded-For is, in RFC 7239's forms, and only where the latter is missing."""
    front.trust("127.0.0.0/8", "10.0.0.0/8")
    request = await sent(front, fields + b"\r\n")
    assert values(request, b"x-forwarded-for") == [client]
    assert values(request, b"x-forwarded-proto") == [scheme]
    assert values(request, b"x-forwarded-host") == [host]


async def test_even_a_trusted_proxys_fields_are_ours_on_the_way_on(front: Front) -> None:
    """Kanidm takes the leftmost address for the truth, so it gets one address only, whoever the peer is."""
    front.trust("127.0.0.1")
    request = await sent(front, FORGED)
    assert values(request, b"x-forwarded-for") == [b"10.9.9.9"]
    assert values(request, b"forwarded") == [b"for=10.9.9.9;proto=https;host=evil.example"]
    for name in b"x-forwarded-port x-forwarded-server x-real-ip x-client-ip true-client-ip".split():
        assert values(request, name) == []


async def test_an_ipv6_peer(make_front: Callable[..., Awaitable[Front]]) -> None:
    """A peer on IPv6 is named in both forms, in Forwarded with brackets and quotes (RFC 7239 §6)."""
    front = await make_front(host="::1")
    request = await sent(front, FORGED)
    assert values(request, b"x-forwarded-for") == [b"::1"]
    assert values(request, b"forwarded") == [b'for="[::1]";proto=http;host=id.example.com']


@pytest.mark.parametrize("good", [b"a1b2c3d4", b"0af7651916cd43dd8448eb211c80319c", b"A.b_c-d.1", b"x" * 128])
async def test_a_well_formed_request_id_is_kept(front: Front, good: bytes) -> None:
    """A caller's X-Request-Id goes to kanidmd and back to the caller."""
    reply = await front.ask(b"GET / HTTP/1.1\r\n" + HOST + b"X-Request-Id: " + good + b"\r\n\r\n")
    assert reply.one(b"x-request-id") == good
    assert values(front.kanidm.requests[-1], b"x-request-id") == [good]


@pytest.mark.parametrize(
    "bad", [b"", b"short", b"x" * 129, b"with space in it", b'"quoted-id"', b"semi;colon-here", b"caf\xe9caf\xe9"]
)
async def test_another_request_id_is_replaced(front: Front, bad: bytes) -> None:
    """What would make a bad line in a log or a page is not used; a new one is made, the same for kanidmd and the caller."""
    reply = await front.ask(b"GET / HTTP/1.1\r\n" + HOST + b"X-Request-Id: " + bad + b"\r\n\r\n")
    new = reply.one(b"x-request-id")
    assert new is not None
    assert re.fullmatch(rb"[0-9a-f]{16}", new)
    assert values(front.kanidm.requests[-1], b"x-request-id") == [new]


async def test_response_fields(front: Front) -> None:
    """Of a response everything end-to-end passes, each cookie by itself; what belongs to the hop stays, kanidmd's id is ours."""
    front.kanidm.answer = (
        b"HTTP/1.1 401 Go Away\r\nSet-Cookie: a=b; HttpOnly\r\nset-cookie: c=d\r\nWWW-Authenticate: Bearer\r\nX-KANIDM-OPID: 7\r\n"
        b"HX-Redirect: /ui\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n"
        b"Upgrade: h2c\r\nTrailer: X\r\nX-Request-Id: theirs-and-not-ours\r\nServer: kanidm\r\nContent-Length: 2\r\n\r\nno"
    )
    reply = await front.ask(b"GET / HTTP/1.1\r\n" + HOST + b"X-Request-Id: abcdefgh\r\n\r\n")
    assert (reply.status, reply.reason, reply.body) == (401, b"Go Away", b"no")
    assert reply.headers == [
        (b"set-cookie", b"a=b; HttpOnly"),
        (b"set-cookie", b"c=d"),
        (b"www-authenticate", b"Bearer"),
        (b"x-kanidm-opid", b"7"),
        (b"hx-redirect", b"/ui"),
        (b"server", b"kanidm"),
        (b"content-length", b"2"),
        (b"x-request-id", b"abcdefgh"),
    ]


async def test_absolute_form(front: Front) -> None:
    """A target that names our own host is served, and is a path for kanidmd."""
    for target, path in [
        (b"http://ID.example.com/a?b", b"/a?b"),
        (b"https://id.example.com", b"/"),
        (b"HTTP://id.example.com/", b"/"),
        (b"http://id.example.com:80/x", b"/x"),
        (b"https://id.example.com:443/", b"/"),
        (b"https://id.example.com:/", b"/"),
    ]:
        request = await sent(front, b"", b"GET " + target + b" HTTP/1.1")
        assert request.startswith(b"GET " + path + b" HTTP/1.1\r\n")


async def test_absolute_form_and_a_default_port_in_host(front: Front) -> None:
    """A port that the scheme has anyhow makes no other host (RFC 9110 §4.2.3); kanidmd gets the Host that was sent."""
    reply = await front.ask(b"GET http://id.example.com/ HTTP/1.1\r\nHost: id.example.com:80\r\n\r\n")
    assert reply.status == 200
    assert b"\r\nhost: id.example.com:80\r\n" in front.kanidm.requests[0]


async def test_absolute_form_without_host(front: Front) -> None:
    """HTTP/1.0 has no Host: the target's own authority is the host (RFC 9112 §3.2.2), for kanidmd and for whoever judges it."""
    front.settings = Settings(front.settings.limits, (), Guard(["id.example.com"], ()))
    for host, status in ((b"id.example.com", 200), (b"evil.example", 421)):
        assert (await front.ask(b"GET http://" + host + b"/a HTTP/1.0\r\n\r\n")).status == status
    (request,) = front.kanidm.requests
    assert request.startswith(b"GET /a HTTP/1.1\r\n")
    assert b"\r\nhost: id.example.com\r\n" in request
    assert b"\r\nx-forwarded-host: id.example.com\r\n" in request
