"""Junk at every endpoint of the running program, over TLS: no 5xx, no traceback, nothing in a log."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kiwi_id.instance import layout
from tests.issuer.flows.tab import arrived, field_of
from tests.issuer.flows.world import ALICE, World
from tests.issuer.junk import strategies as junk
from tests.issuer.rp.instances import SERVERS, server

SETTINGS = settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
PATHS = [
    *("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server", "/oauth2/keys", "/oauth2/authorize"),
    *("/oauth2/consent", "/oauth2/continue", "/oauth2/token", "/oauth2/userinfo", "/oauth2/introspect", "/oauth2/revoke"),
    *("/oauth2/logout", "/oauth2/token/introspect", "/oauth2/token/revoke", "/ui/logout"),
]


@dataclass
class Running:
    """A running Kiwi ID; ``known`` is what is right somewhere in it, ``send`` makes one request on a connection of its own."""

    world: World
    known: list[str]
    bearer: str
    basic: Any
    send: Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture(scope="module", params=SERVERS)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    """An instance with a login behind it; at the end its logs hold no traceback, no invented value and no secret."""
    directory = Path(tempfile.mkdtemp(prefix="kiwi-junk-"))
    try:
        world = World(server(request, directory), directory)
        try:
            yield trio.run(_prepare, world)
        finally:
            world.close()
        for file in (directory / "first" / "stderr.log", layout.Places.under(directory / "first").log_file):
            # kanidmd logs the name of a client that is looked up, which is public; anything that is not written like one is not.
            text = re.sub(r"uri: /oauth2/openid/[A-Za-z0-9._@-]+/", "uri: /oauth2/openid/NAME/", file.read_text(errors="replace"))
            for word in ("Traceback", "unexpected error", "internal error", "answered what it should not", junk.MARK):
                at = text.find(word)
                assert at < 0, f"{file.name}: {text[max(0, at - 1500) : at + 800]}"
        assert world.leaks() == []
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _prepare(world: World) -> Running:
    async with world.tab() as tab:
        asked, bare = world.asked(), world.asked(code_challenge=None, code_challenge_method=None)
        tokens = await tab.tokens(asked, ALICE)
        codes = [arrived(await tab.agree(await tab.authorize(one))).parameters["code"] for one in (world.asked(), bare)]
        boxes = [
            field_of(await tab.authorize(world.asked(), prompt="consent"), "box"),
            field_of(await tab.send("GET", "/oauth2/logout"), "box"),
        ]
        known = [tokens[name] for name in ("access_token", "refresh_token", "id_token")] + codes + boxes
        for token in (tokens["access_token"], tokens["id_token"]):
            known += junk.forgeries(token, world.places.jwt_public_key.read_bytes())
        world.note(*known[:7])
        bearer = tab.cookies["bearer"]
    known += ["kiwi-demo", "kiwi-demo-public", world.demo.redirect_uri, "openid"]
    context = ssl.create_default_context(cafile=str(world.instance.ca))
    where = urlsplit(world.issuer)

    def send(method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> tuple[int, dict[str, str], bytes]:
        head = b"%s %s HTTP/1.1\r\nhost: %s\r\ncontent-length: %d\r\n" % (method.encode(), target, where.netloc.encode(), len(body))
        raw = head + b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n" + body
        with (
            socket.create_connection((where.hostname, where.port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname=where.hostname) as sock,
        ):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(raw)
            answer = http.client.HTTPResponse(sock, method=method)
            answer.begin()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    return Running(world, known, bearer, world.demo.auth, send)


def judge(status: int, headers: dict[str, str], body: bytes) -> None:
    """Check what every answer must be: no failure of ours, the mistake named, and no way to an address that is not registered."""
    assert 200 <= status < 500 or b"unknown_method" in body, (status, body)  # RFC 9110 §9.1 has 501 for that
    assert b"Traceback" not in body
    assert b'File "' not in body
    assert not headers.get("location", "").startswith(("https://evil", "//evil", "javascript:", "data:"))
    if status >= 400 and headers.get("content-type", "").startswith("application/json") and body.startswith(b"{"):
        assert json.loads(body)["error"]


def clean(value: bytes) -> bytes:
    """Return what can be a header's value: a control character in one is refused by the front before it is a request."""
    return bytes(byte for byte in value if byte >= 32 and byte != 127)[:12000].strip()


@pytest.mark.parametrize("path", PATHS)
@SETTINGS
@given(data=st.data())
def test_anything_at_any_endpoint(running: Running, path: str, data: st.DataObject) -> None:
    """Methods, queries, headers, cookies, types and bodies; in half of the cases with a live session and as a form."""
    headers: list[tuple[bytes, bytes]] = []
    if path != "/ui/logout" and data.draw(st.booleans()):
        headers.append((b"cookie", b"bearer=" + running.bearer.encode()))
    else:
        headers.append((b"cookie", clean(data.draw(junk.cookie_values(junk.COOKIES)))))
    if data.draw(st.booleans()):
        headers.append((b"content-type", b"application/x-www-form-urlencoded"))
    else:
        headers.append((b"content-type", clean(data.draw(st.sampled_from(junk.KINDS)).encode("latin-1"))))
    if data.draw(st.booleans()):
        headers += [
            (b"authorization", clean(value)) for value in data.draw(st.lists(junk.header_values(running.known), max_size=2))
        ]
    query = data.draw(junk.forms(running.known)).replace(b" ", b"+")[:40000]
    method = data.draw(st.sampled_from(junk.METHODS[:2]) | st.sampled_from(junk.METHODS))
    body = data.draw(junk.forms(running.known) | st.binary(max_size=40))
    judge(*running.send(method, path.encode() + (b"?" + query if query else b""), headers, body))


@pytest.mark.parametrize("method", ["GET", "POST"])
@SETTINGS
@given(data=st.data())
def test_authorization_requests_that_are_nearly_right(running: Running, method: str, data: st.DataObject) -> None:
    """What the first checks let through reaches Kanidm, or the stand-in, which is as strict."""
    base = {**running.world.asked().parameters, "state": "s", "nonce": "n"}
    form = data.draw(junk.like(base, running.known))
    headers = [(b"content-type", b"application/x-www-form-urlencoded")]
    if data.draw(st.booleans()):
        headers.append((b"cookie", b"bearer=" + running.bearer.encode()))
    target, body = (b"/oauth2/authorize?" + form, b"") if method == "GET" else (b"/oauth2/authorize", form)
    judge(*running.send(method, target, headers, body))


@pytest.mark.parametrize("path", ["/oauth2/token", "/oauth2/introspect", "/oauth2/revoke"])
@SETTINGS
@given(data=st.data())
def test_forms_that_are_nearly_right(running: Running, path: str, data: st.DataObject) -> None:
    """With the client's secret in the form, good tokens and codes among the values."""
    demo = running.world.demo
    base = {"client_id": demo.client_id, "client_secret": str(demo.secret)}
    if path == "/oauth2/token":
        base |= {"grant_type": "authorization_code", "code": running.known[3], "redirect_uri": demo.redirect_uri}
    else:
        base |= {"token": running.known[0]}
    form = data.draw(junk.like(base, running.known))
    judge(*running.send("POST", path.encode(), [(b"content-type", b"application/x-www-form-urlencoded")], form))


@pytest.mark.parametrize(
    "raw",
    [
        b"authorization: Bearer a\x00b",
        b"authorization: Bearer a\r\n b",
        b"authorization: Bearer a\nx: y",
        b"cookie: bearer=\x01",
        b": x",
        b"content-length: 7",
        b"transfer-encoding: chunked",
        b"expect: 200-ok",
        b"x: " + b"a" * 70000,
    ],
)
def test_heads_that_are_no_requests(running: Running, raw: bytes) -> None:
    """Refused before they are the issuer's: control characters, folded and nameless headers, two lengths, far too much."""
    name, _, value = raw.partition(b": ")
    status, headers, body = running.send("POST", b"/oauth2/userinfo", [(name, value)], b"access_token=" + junk.MARK.encode())
    assert 400 <= status < 500
    judge(status, headers, body)


def test_a_body_that_is_too_large(running: Running) -> None:
    """413 at every endpoint that reads one, in JSON."""
    for path in ("/oauth2/token", "/oauth2/introspect", "/oauth2/authorize", "/oauth2/logout"):
        form = [(b"content-type", b"application/x-www-form-urlencoded")]
        status, _, body = running.send("POST", path.encode(), form, b"token=" + junk.MARK.encode() * 10000)
        assert status == 413
        assert b"65536" in body
