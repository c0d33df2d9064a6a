"""issuer/authorize.py: the request, checked, and answered over a fake Kanidm: what goes on, what is refused and how."""

from __future__ import annotations

import base64
import hashlib
import time
from typing import Any

import pytest

from kiwi_id.issuer import asked
from kiwi_id.issuer.asked import Asked, is_plain
from kiwi_id.issuer.http import OAuthError, Request
from kiwi_id.kanidm.oauth2 import Session, read_session
from tests.issuer.unit.fake_kanidm import BOB, SCOPES, jws
from tests.issuer.unit.issuer import CHALLENGE, ISSUER, World, box_of, came, header, key

BASE = {"response_type": "code", "client_id": "mail", "redirect_uri": "https://mail.example/cb"}


def check(**change: str) -> Asked:
    """Check a request with these parameters."""
    return asked.check(World().ctx, {**BASE, **change}, frozenset(SCOPES))


def test_the_least_request_and_the_fullest() -> None:
    """Without scope it is openid; unknown scopes are left out (OIDC Core §3.1.2.1), repeated ones once, in their order."""
    least = check()
    assert (least.scope, least.mode, least.state, least.nonce, least.prompt, least.max_age) == (
        "openid",
        "query",
        None,
        "",
        frozenset(),
        None,
    )
    full = check(scope="email  offline_access openid email x", prompt="login consent", max_age="0", response_mode="form_post")
    assert (full.scope, set(full.prompt), full.max_age, full.mode) == ("email openid", {"login", "consent"}, 0, "form_post")
    assert check(code_challenge=CHALLENGE, code_challenge_method="S256").challenge == CHALLENGE


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"request": "x"}, "request_not_supported", "request"),
        ({"request_uri": "https://x"}, "request_uri_not_supported", "request_uri"),
        ({"registration": "{}"}, "registration_not_supported", "registration"),
        ({"response_type": ""}, "invalid_request", "response_type"),
        ({"response_type": "token"}, "unsupported_response_type", "response_type"),
        ({"response_type": "code id_token"}, "unsupported_response_type", "response_type"),
        ({"response_mode": "jwt"}, "invalid_request", "response_mode"),
        ({"code_challenge": CHALLENGE}, "invalid_request", "code_challenge_method"),
        ({"code_challenge": CHALLENGE, "code_challenge_method": "plain"}, "invalid_request", "code_challenge_method"),
        ({"code_challenge_method": "S256"}, "invalid_request", "code_challenge"),
        ({"code_challenge": CHALLENGE + "=", "code_challenge_method": "S256"}, "invalid_request", "code_challenge"),
        ({"client_id": "wiki"}, "invalid_request", "must use PKCE"),
        ({"prompt": "none login"}, "invalid_request", "prompt"),
        ({"prompt": "create"}, "invalid_request", "prompt"),
        ({"max_age": "-1"}, "invalid_request", "max_age"),
        ({"max_age": "٣"}, "invalid_request", "max_age"),
        ({"max_age": "1e3"}, "invalid_request", "max_age"),
        ({"max_age": "9" * 10}, "invalid_request", "max_age"),
        ({"scope": "admin"}, "invalid_scope", "scopes"),
        ({"nonce": "n" * 1025}, "invalid_request", "nonce"),
        ({"login_hint": "n" * 257}, "invalid_request", "login_hint"),
        ({"id_token_hint": "a.b.c"}, "invalid_request", "id_token_hint"),
    ],
)
def test_what_is_refused(change: dict[str, str], error: str, words: str) -> None:
    """Each with the code of its RFC, and the parameter named."""
    with pytest.raises(OAuthError) as caught:
        check(**change)
    assert caught.value.error == error
    assert words in caught.value.description


@pytest.mark.parametrize(
    ("typ", "issuer", "number"), [("at+jwt", ISSUER, 0), ("logout+jwt", ISSUER, 0), ("JWT", "https://x", 0), ("JWT", ISSUER, 9)]
)
def test_a_hint_must_be_an_id_token_of_ours(typ: str, issuer: str, number: int) -> None:
    """Not an access or logout token, not of another issuer, not of another key; an expired ID token is good."""
    claims = {"iss": issuer, "sub": "u", "iat": int(time.time()) - 99, "exp": int(time.time()) - 60}
    assert check(id_token_hint=key().sign({**claims, "iss": ISSUER}, "JWT")).hint_sub == "u"
    with pytest.raises(OAuthError):
        check(id_token_hint=key(number=number).sign(claims, typ))


@pytest.mark.parametrize(
    "uri",
    [
        "https://a.example/cb",
        "https://a.example:8443/",
        "http://localhost:1/x?a=b%20c",
        "com.example:/cb",
        "app:x",
        "http://[::1]:80/",
    ],
)
def test_redirect_uris_that_mean_what_they_say(uri: str) -> None:
    """HTTP, loopback, app schemes, with query."""
    assert is_plain(uri)


@pytest.mark.parametrize(
    "uri",
    [
        *(
            "https://a.example/cb#f",
            "https://a.example/../cb",
            "https://a.example/%2e%2e/cb",
            "https://A.example/",
            "HTTPS://a.example/",
        ),
        *(
            "https://u@a.example/",
            "https://a.example/\t",
            "https://a.example/é",
            "https://a.example\\@b/",
            "//a.example/",
            "https:a",
            "x",
        ),
        *(
            "https://",
            "https://a.example/?",
            "https://a.example/" + "x" * 1024,
            "",
            "https://a.example/\x00",
            "https://a.example/ b",
        ),
    ],
)
def test_redirect_uris_that_could_be_read_in_two_ways(uri: str) -> None:
    """RFC 9700 §4.1.3: exact comparison; what parsers mend differently is refused before it is compared."""
    assert not is_plain(uri)


@pytest.mark.parametrize(
    ("change", "age", "good"),
    [
        ({}, 10**6, True),
        ({"prompt": "consent"}, 10**6, True),
        # Before the request, and however little before it; then since.
        *(
            ({"prompt": prompt}, age, good)
            for prompt in ("login", "select_account consent")
            for age, good in ((21, False), (20, True))
        ),
        ({"prompt": "login"}, 0, True),
        ({"max_age": "100"}, 101, False),
        ({"max_age": "100"}, 99, True),
        ({"max_age": "30", "prompt": "login"}, 25, False),
        # What was begun for this request may be as old as a consent page makes it, and no older.
        ({"max_age": "0"}, 19, True),
        ({"max_age": "0"}, 21, False),
        ({"max_age": "3"}, 3, True),
    ],
)
def test_which_session_a_code_may_be_given_for(change: dict[str, str], age: int, good: bool) -> None:
    """The demand travels in the box: a session begun ``age`` seconds ago is good or not for a request of 20 seconds ago."""
    now = int(time.time())
    request = check(**change)
    request.began = now - 20
    back = Asked.from_box(request.to_box())
    session = Session("s", "u", "spn", "n", now - age, None)
    assert back.accepts(session) is good
    back.refused = "s"
    assert not back.accepts(session)
    back.refused, back.began = "", now - 900
    if back.max_age is not None and back.max_age < 60:
        assert not back.accepts(Session("s", "u", "spn", "n", now - 61, None))


# -- over the fake Kanidm ---------------------------------------------------------------------------------------------------------


async def test_a_live_session_is_answered_at_once_and_any_other_sent_to_log_in() -> None:
    """One answer with code, state and iss; without a session Kanidm's login, with our state and our own PKCE."""
    world = World()
    answer = await world.authorize()
    assert header(answer, "location").startswith("/ui/oauth2?")
    sent = came(answer)
    assert sent["state"].startswith("kiwi-")
    assert sent["code_challenge"] != CHALLENGE
    assert "prompt" not in sent
    world.log_in("mail")
    got = came(await world.authorize())
    assert (got["state"], got["iss"]) == ("st", ISSUER)
    assert got["code"].startswith("kiwi-")


@pytest.mark.parametrize("prompt", ["", "consent", "login", "none"])
@pytest.mark.parametrize("session", [False, True])
async def test_no_request_leads_to_an_address_that_is_not_registered(prompt: str, session: bool) -> None:
    """Bad client or redirect URI: a page, whatever the prompt and with a live session, too; never an open redirect."""
    world = World()
    if session:
        world.log_in("mail", "wiki")
    for change in ({"redirect_uri": "https://evil.example/cb"}, {"client_id": "nobody"}, {"client_id": "wiki"}):
        for more in ({}, {"response_type": "token"}, {"scope": "admin"}, {"response_mode": "form_post"}):
            parameters: dict[str, Any] = {**change, **more, "prompt": prompt or None}
            answer = await world.authorize(**parameters)
            assert answer.status == 400
            assert not {b"location", b"refresh"} & {name for name, _ in answer.headers}
            assert b"<form" not in answer.body


async def test_consent_is_asked_only_for_a_session_that_kanidm_knows() -> None:
    """A made-up cookie, or one whose session has ended, gets no page of ours: Kanidm's login comes first."""
    world = World()
    world.cookies["bearer"] = jws({"session_id": "s", "uuid": BOB, "spn": "<b>root</b>", "issued_at": int(time.time())})
    assert read_session(world.cookies["bearer"]) is not None
    assert header(await world.authorize(prompt="consent"), "location").startswith("/ui/oauth2?")
    world.kanidm.ended.add(world.log_in("mail"))
    assert header(await world.authorize(prompt="consent"), "location").startswith("/ui/oauth2?")


async def test_consent_of_our_own() -> None:
    """Allow gives a code, refuse gives access_denied; the page of one session is no good in another."""
    world = World()
    world.log_in("mail")
    page = await world.authorize(prompt="consent")
    assert page.status == 200
    box = box_of(page)
    assert "code" in came(await world.send("POST", "/oauth2/consent", {"box": box, "decision": "allow"}))
    assert came(await world.send("POST", "/oauth2/consent", {"box": box, "decision": "no"}))["error"] == "access_denied"
    world.log_in("mail", uuid=BOB)
    answer = await world.send("POST", "/oauth2/consent", {"box": box, "decision": "allow"})
    assert answer.status == 400


async def test_a_box_of_one_page_is_no_good_at_another() -> None:
    """Each page, code, state and token has its own purpose; at any other endpoint the box is too old or unknown, never a crash."""
    world = World()
    tokens = await world.tokens()
    code = await world.code()
    consent = box_of(await world.authorize(prompt="consent"))
    logout = box_of(await world.send("GET", "/oauth2/logout"))
    long = base64.b64encode(hashlib.shake_256(b"x").digest(1900)).decode()
    states = [came(await world.authorize(prompt="login", state=text))["state"] for text in ("short", long)]
    parked = next(name for name in world.cookies if name.startswith("__Host-kiwi-state-"))
    boxes = [consent, logout, *states, world.cookies[parked], tokens["refresh_token"], code]
    bearer = world.log_in("mail")
    for box in [*boxes, *(box.removeprefix("kiwi-") for box in boxes), *(f"kiwi-{box}" for box in boxes)]:
        if box != consent:
            assert (await world.send("POST", "/oauth2/consent", {"box": box, "decision": "allow"})).status == 400
        if box != logout:
            assert (await world.send("POST", "/oauth2/logout", {"box": box, "decision": "yes"})).status == 400
        assert (await world.send("GET", "/oauth2/continue", {"box": box})).status == 400
        if box not in boxes[-2:]:
            for grant, name in (("authorization_code", "code"), ("refresh_token", "refresh_token")):
                assert (await world.token({"grant_type": grant, name: box})).status == 400
        if f"kiwi-{box}" not in states:
            answer = await world.service.returning(_request(world), f"https://mail.example/cb?code=x&state=kiwi-{box}", [])
            assert answer is None or answer.status == 400  # None: a state of somebody else's, which passes as it is
    assert bearer not in world.kanidm.ended


def _request(world: World) -> Request:
    cookies = "; ".join(f"{name}={value}" for name, value in world.cookies.items()).encode()
    return Request("GET", "/ui/oauth2/resume", b"", [(b"cookie", cookies)], b"", "192.0.2.1", b"req")


_NOISE = base64.b64encode(hashlib.shake_256(b"x").digest(20000)).decode()


@pytest.mark.parametrize("state", ["x" * 60000, "\U0001f95d" * 3000, _NOISE], ids=["long", "wide", "noise"])
async def test_a_request_that_is_too_long_is_told_so(state: str) -> None:
    """For a login, a consent page or a logout page it would have to be sealed: an error with its name, and no crash."""
    world = World()
    for session in (False, True):
        if session:
            world.log_in("mail")
        answer = await world.authorize(state=state, prompt="consent")
        assert answer.status in (200, 303)
        if answer.status == 303 and "/ui/oauth2" not in header(answer, "location"):
            assert came(answer)["error"] == "invalid_request"
            assert "long" in came(answer)["error_description"]
    answer = await world.send(
        "GET", "/oauth2/logout", {"client_id": "mail", "post_logout_redirect_uri": "https://mail.example/out", "state": state}
    )
    assert answer.status == (400 if state is _NOISE else 200)
    assert (b"too long" in answer.body) == (state is _NOISE)


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 30000,
        b'{"session_id":"a","uuid":"b","spn":"c","issued_at":1e999}',
        b'{"session_id":1,"uuid":{},"spn":[],"issued_at":1}',
        b'{"session_id":"\\ud800","uuid":"b","spn":"c","issued_at":1}',
        b'{"session_id":"a","uuid":"b","spn":"c","issued_at":"x"}',
        b"null",
        b"\xff",
    ],
)
@pytest.mark.parametrize("prompt", ["", "consent", "login", "none"])
async def test_a_bearer_cookie_may_hold_anything(prompt: str, payload: bytes) -> None:
    """It is read before Kanidm is asked: what cannot be read is no session, and no crash."""
    world = World()
    world.cookies["bearer"] = "e30." + base64.urlsafe_b64encode(payload).rstrip(b"=").decode() + ".x"
    assert read_session(world.cookies["bearer"]) is None
    answer = await world.authorize(prompt=prompt or None)
    assert answer.status == 303
    if prompt == "none":
        assert came(answer)["error"] == "login_required"


async def test_a_session_that_ends_under_a_page_with_a_long_state() -> None:
    """The consent page held more than a login can carry: the relying party is told so, and nothing crashes."""
    world = World()
    bearer = world.log_in("mail")
    page = await world.authorize(prompt="consent", state=base64.b64encode(hashlib.shake_256(b"x").digest(3000)).decode())
    world.kanidm.ended.add(bearer)
    answer = await world.send("POST", "/oauth2/consent", {"box": box_of(page), "decision": "allow"})
    assert came(answer)["error"] == "invalid_request"
    assert "longer than" in came(answer)["error_description"]
