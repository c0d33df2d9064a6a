"""Junk at every endpoint of the issuer over a fake Kanidm, by the thousand: an answer that names the mistake, and never a crash."""

from __future__ import annotations

import json
import logging
import re
from functools import cache
from urllib.parse import urlencode

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kiwi_id.issuer.http import Request, Response
from tests.issuer.junk import strategies as junk
from tests.issuer.unit.issuer import CHALLENGE, VERIFIER, World, basic, box_of, came, header, key

# The same examples each time: a failure here is everybody's, and no run is slower or luckier than another.
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
PATHS = World().service.paths
ERRORS = {
    *("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope"),
    *("invalid_token", "insufficient_scope", "access_denied", "unsupported_response_type", "login_required", "consent_required"),
    *("request_not_supported", "request_uri_not_supported", "registration_not_supported"),
}
AUTHORIZE = {
    **{"response_type": "code", "client_id": "mail", "redirect_uri": "https://mail.example/cb", "scope": "openid", "state": "s"},
    **{"nonce": "n", "code_challenge": CHALLENGE, "code_challenge_method": "S256", "prompt": "consent", "max_age": "600"},
}


@cache
def prepared() -> tuple[World, list[str], str]:
    """Return an issuer with a live session, all that is right somewhere in it, and the session's cookie."""
    world = World(kind="es256")

    async def prepare() -> list[str]:
        tokens = await world.tokens()
        world.kanidm.consented.update((client, world.cookies["bearer"]) for client in world.kanidm.clients)
        bearer = world.cookies["bearer"]
        code, unused = await world.code(), await world.code(code_challenge=None, code_challenge_method=None)
        consent = box_of(await world.authorize(prompt="consent"))
        logout = box_of(await world.send("GET", "/oauth2/logout"))
        state = came(await world.authorize(prompt="login"))["state"]
        world.cookies["bearer"] = bearer
        known = [tokens[name] for name in ("access_token", "id_token", "refresh_token")]
        known += [code, unused, consent, logout, state, bearer, world.cookies["__Host-kiwi-clients"]]
        point = key("es256").jwk["x"].encode()
        for token in known[:2]:
            known += junk.forgeries(token, point)
        return [*known, "mail", "spa", "wiki", "https://mail.example/cb", "https://mail.example/out", VERIFIER]

    known = trio.run(prepare)
    return world, known, world.cookies["bearer"]


def registered(location: str) -> bool:
    """Tell whether a redirect goes where one may: Kanidm's login, or a registered address."""
    world = prepared()[0]
    uris = [uri for client in world.kanidm.clients.values() for uri in client.uris]
    uris += [uri for client in world.ctx.clients.values() for uri in client.post_logout_redirect_uris]
    if location.startswith(("/ui/oauth2?", "/oauth2/authorize?posted=", "/oauth2/logout?posted=")):
        return True
    return any(re.match(re.escape(uri) + r"([?&#]|$)", location) for uri in uris)


def judge(answer: Response) -> None:
    """Check what every answer must be."""
    assert answer.status in (200, 204, 303, 304, 400, 401, 403, 405), answer
    for name, value in answer.headers:
        assert re.fullmatch(rb"[a-z-]+", name)
        assert re.fullmatch(rb"[\x20-\x7e]*", value), (name, value)
    text = answer.body.decode()
    assert "Traceback" not in text
    assert 'File "' not in text
    for location in (header(answer, "location"), header(answer, "refresh").removeprefix("0; url=")):
        assert not location or registered(location), location
    kind = header(answer, "content-type")
    if kind == "application/json" and answer.status >= 400:
        told = json.loads(text)
        assert told["error"] in ERRORS
        assert re.fullmatch(r"[ !#-\[\]-~]{5,250}", told["error_description"]), told
        assert (answer.status == 401) == (header(answer, "www-authenticate") != "") or answer.status in (400, 403)
    elif answer.status >= 400:
        assert kind == "text/html; charset=utf-8"
        assert "<form" not in text
    if kind.startswith("text/html"):
        assert text.count("<script") == text.count("submit()</script>")
        assert "frame-ancestors 'none'" in header(answer, "content-security-policy")


def ask(caplog: pytest.LogCaptureFixture, request: Request) -> Response | None:
    """Send a request to the service as the front does; judge the answer and the log. None: it goes on to Kanidm."""
    world = prepared()[0]
    world.kanidm.ended.clear()
    world.kanidm.dead.clear()
    caplog.clear()

    async def send() -> Response | None:
        return None if world.service.passes_by(request) else await world.service.handle(request)

    with caplog.at_level(logging.DEBUG):
        answer = trio.run(send)
    assert caplog.text == ""
    if answer is not None:
        judge(answer)
    return answer


def headers(known: list[str], bearer: str) -> st.SearchStrategy[list[tuple[bytes, bytes]]]:
    """Return the headers of a request, some of them twice."""
    usual = st.just((b"cookie", b"bearer=" + bearer.encode()))
    one = st.one_of(
        usual,
        st.tuples(st.just(b"authorization"), junk.header_values(known)),
        st.tuples(st.just(b"cookie"), junk.cookie_values(known)),
        st.tuples(st.just(b"content-type"), st.sampled_from(junk.KINDS).map(lambda kind: kind.encode("latin-1"))),
        st.tuples(st.sampled_from([b"if-none-match", b"accept", b"origin"]), st.sampled_from([b"*", b"\xff", b'W/"x"', b"null"])),
    )
    form = (b"content-type", b"application/x-www-form-urlencoded")
    return st.tuples(st.lists(one, max_size=4), st.booleans()).map(lambda made: [form, *made[0]] if made[1] else made[0])


@pytest.mark.parametrize("path", PATHS)
@SETTINGS
@given(data=st.data())
def test_anything_at_any_endpoint(caplog: pytest.LogCaptureFixture, path: str, data: st.DataObject) -> None:
    """Methods, queries, bodies, types, headers and cookies of any kind."""
    _, known, bearer = prepared()
    request = Request(
        data.draw(st.sampled_from(junk.METHODS[:2]) | st.sampled_from(junk.METHODS)),
        path,
        data.draw(junk.forms(known)),
        data.draw(headers(known, bearer)),
        data.draw(junk.forms(known) | st.binary(max_size=40)),
        "192.0.2.1",
        b"req",
    )
    ask(caplog, request)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("session", [False, True])
@SETTINGS
@given(data=st.data())
def test_authorization_requests_that_are_nearly_right(
    caplog: pytest.LogCaptureFixture, method: str, session: bool, data: st.DataObject
) -> None:
    """A few parameters of a good request changed; an error reaches the relying party only at a registered address."""
    _, known, bearer = prepared()
    form = data.draw(junk.like(AUTHORIZE, known))
    sent = [
        (b"content-type", b"application/x-www-form-urlencoded"),
        *([(b"cookie", b"bearer=" + bearer.encode())] if session else []),
    ]
    query, body = (form, b"") if method == "GET" else (b"", form)
    answer = ask(caplog, Request(method, "/oauth2/authorize", query, sent, body, "192.0.2.1", b"req"))
    assert answer is not None
    assert answer.status in (200, 303, 400)


@pytest.mark.parametrize(
    "path", [path for path in PATHS if path.endswith(("token", "introspect", "revoke", "userinfo", "logout", "consent"))]
)
@SETTINGS
@given(data=st.data())
def test_forms_that_are_nearly_right(caplog: pytest.LogCaptureFixture, path: str, data: st.DataObject) -> None:
    """With the client's good credentials and a live session, so that what is wrong is met further inside."""
    world, known, bearer = prepared()
    base = {
        "grant_type": "authorization_code",
        "code": known[3],
        "redirect_uri": "https://mail.example/cb",
        "code_verifier": VERIFIER,
    }
    base = data.draw(
        st.sampled_from([base, {"grant_type": "refresh_token", "refresh_token": known[2]}, {"grant_type": "client_credentials"}])
        if path.endswith("/token")
        else st.sampled_from([{"token": known[0]}, {"token": known[2]}, {"box": known[5], "decision": "allow"}, {"box": known[6]}])
    )
    credentials = basic("mail", world.kanidm.clients["mail"].secret or "").encode()
    sent = [(b"content-type", b"application/x-www-form-urlencoded"), (b"cookie", b"bearer=" + bearer.encode())]
    if data.draw(st.booleans()):
        sent.append((b"authorization", credentials))
    body = data.draw(junk.like(base, known))
    ask(caplog, Request("POST", path, b"", sent, body, "192.0.2.1", b"req"))


@SETTINGS
@given(data=st.data())
def test_kanidms_redirects_with_any_state(caplog: pytest.LogCaptureFixture, data: st.DataObject) -> None:
    """What comes back from Kanidm with a state that begins like ours, and any cookies: an answer, or it passes as it is."""
    world, known, _ = prepared()
    state = data.draw(junk.values(known)).decode("utf-8", "replace")
    cookies = data.draw(junk.cookie_values(known))
    request = Request("POST", "/ui/oauth2/consent", b"", [(b"cookie", cookies)], b"", "192.0.2.1", b"req")
    location = "https://mail.example/cb?" + urlencode({"code": "x", "state": f"kiwi-{state}"})
    answer = trio.run(world.service.returning, request, location, [])
    if answer is not None:
        judge(answer)
