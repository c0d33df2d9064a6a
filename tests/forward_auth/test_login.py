"""Login and callback as a relying party's: what is asked, what must come back, and whom it logs in."""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from kiwi_id.forward_auth.login import LOGIN_COOKIE
from kiwi_id.issuer.http import Response
from kiwi_id.kanidm.oauth2 import Surprise
from tests.forward_auth.issuer import HOST, RULES, ForwardAuth
from tests.issuer.unit.issuer import ISSUER, header

SHARED = replace(RULES, domain="example")


def changed(query: str, **change: str) -> str:
    """Return a query with parameters changed; empty ones are left out."""
    found = {**dict(parse_qsl(query)), **change}
    return urlencode({name: value for name, value in found.items() if value})


def is_page(answer: Response, status: int = 400) -> bool:
    """Tell whether this is a page that leads nowhere by itself, and begins no session."""
    return answer.status == status and not header(answer, "location") and b"<h1>" in answer.body and not sets_session(answer)


def sets_session(answer: Response) -> bool:
    """Tell whether an answer begins a session."""
    return any(name == b"set-cookie" and re.match(rb"__\w+-kiwi-session=[^;]", value) for name, value in answer.headers)


async def test_what_is_asked_of_the_issuer() -> None:
    """A code flow with PKCE, a nonce and a sealed state; the cookie that it is tied to is this host's own."""
    made = ForwardAuth()
    answer = await made.login.begin(made.request("/auth/login", f"rd=https://{HOST}/page?a=b&c"), HOST)
    assert answer.status == 303
    sent = urlsplit(header(answer, "location"))
    asked = dict(parse_qsl(sent.query))
    assert f"{sent.scheme}://{sent.netloc}{sent.path}" == f"{ISSUER}/oauth2/authorize"
    assert asked["redirect_uri"] == f"https://{HOST}/auth/callback"
    assert (asked["response_type"], asked["client_id"], asked["scope"]) == ("code", "fa", "openid profile email groups")
    assert (len(asked["code_challenge"]), asked["code_challenge_method"]) == (43, "S256")
    assert "page" not in asked["state"]
    cookie = header(answer, "set-cookie")
    assert re.fullmatch(rf"{LOGIN_COOKIE}=[\w-]{{32}}; Path=/; Max-Age=1800; Secure; HttpOnly; SameSite=Lax", cookie)


async def test_the_whole_way() -> None:
    """The session is the person's, with what Kanidm tells; the browser goes on to the address, all of it."""
    made = ForwardAuth()
    answer = await made.finish(await made.begin(f"rd=https://{HOST}/page?a=b&c=%20&rd=x"))
    assert answer.status == 303
    assert header(answer, "location") == f"https://{HOST}/page?a=b&c=%20&rd=x"
    found = made.sessions.found(made.request("/"), HOST)
    assert found is not None
    assert (found.identity.user, found.identity.name, found.identity.groups) == ("alice@id.example", "Alice <b>", ("mail_users",))
    assert found.host == HOST
    assert found.sid
    assert found.refresh in made.kanidm.refresh
    assert LOGIN_COOKIE not in made.cookies


async def test_one_cookie_for_all_hosts() -> None:
    """Login and callback are at the issuer's host; a login returns to any of the hosts."""
    made = ForwardAuth(SHARED)
    answer = await made.finish(await made.begin("rd=https://files.example/x", "id.example"), "id.example")
    assert header(answer, "location") == "https://files.example/x"
    for host in RULES.hosts:
        found = made.sessions.found(made.request("/"), host)
        assert found is not None
        assert found.host == ""


@pytest.mark.parametrize(
    "query",
    [
        *("rd=https://evil.example/", "rd=//evil.example/", "rd=https://files.example/", "rd=https://wiki.example@evil.example/"),
        *("x=y", "rd", "return=/x", "rd=https%3A%2F%2Fwiki.example%2F", "RD=/x"),
    ],
)
async def test_an_address_that_a_login_does_not_return_to(query: str) -> None:
    """It is a page, not a redirect, and nothing of it is shown; another protected host has a login of its own."""
    made = ForwardAuth()
    answer = await made.login.begin(made.request("/auth/login", query), HOST)
    assert is_page(answer)
    assert b"evil" not in answer.body


@pytest.mark.parametrize(
    ("query", "back"), [("", "/"), ("rd=/x?y", "/x?y"), ("rd=", "/"), ("rd=/auth/logout", "/"), ("rd=/a b", "/")]
)
async def test_a_login_without_much_of_an_address(query: str, back: str) -> None:
    """It returns to this host."""
    made = ForwardAuth()
    assert header(await made.finish(await made.begin(query)), "location") == f"https://{HOST}{back}"


async def test_a_long_address() -> None:
    """The longest that is kept comes back whole, through the issuer and Kanidm; a longer one leads to the first page."""
    made = ForwardAuth()
    longest = "/" + "aB3-" * 374 + "xyz"
    assert len(longest) == 1500
    assert header(await made.finish(await made.begin(f"rd={longest}")), "location") == f"https://{HOST}{longest}"
    assert header(await made.finish(await made.begin(f"rd={longest}x")), "location") == f"https://{HOST}/"


async def test_a_callback_that_somebody_else_made() -> None:
    """Login CSRF: an attacker's own code and state, opened by the victim's browser, log nobody in, and the code is not used up."""
    attacker, victim = ForwardAuth(), ForwardAuth()
    victim.login, victim.sessions = attacker.login, attacker.sessions
    query = await attacker.begin()
    before = attacker.asked()
    for cookie in ("", "x" * 32):
        victim.cookies = {LOGIN_COOKIE: cookie} if cookie else {}
        answer = await victim.finish(query)
        assert is_page(answer)
        assert b"Sign in again" in answer.body
    assert attacker.asked() == before
    assert sets_session(await attacker.finish(query))


async def test_a_callback_that_comes_again() -> None:
    """By the browser's history: it goes on to the page, and the session lives; its code is not sent again, which would end it."""
    made = ForwardAuth()
    query = await made.begin()
    await made.finish(query)
    asked = made.asked()
    answer = await made.finish(query)
    assert (answer.status, header(answer, "location")) == (303, f"https://{HOST}/page")
    assert not sets_session(answer)
    assert (made.asked(), made.kanidm.dead) == (asked, set())


async def test_a_stolen_callback_that_comes_again_with_the_cookie() -> None:
    """Whoever has both, and comes second, gets nothing: a code works once."""
    made = ForwardAuth()
    query = await made.begin()
    cookies = dict(made.cookies)
    await made.finish(query)
    made.cookies = cookies
    assert is_page(await made.finish(query))


async def test_two_tabs() -> None:
    """Both are under way at once, and each comes to its own address."""
    made = ForwardAuth()
    first, second = await made.begin(f"rd=https://{HOST}/1"), await made.begin(f"rd=https://{HOST}/2")
    assert header(await made.finish(second), "location") == f"https://{HOST}/2"
    assert header(await made.finish(first), "location") == f"https://{HOST}/1"


async def test_what_comes_back_changed() -> None:
    """A state of another host, of another purpose, changed or missing; another issuer (RFC 9207); no code, or another's."""
    made = ForwardAuth()
    query = await made.begin()
    state = dict(parse_qsl(query))["state"]
    elsewhere = await made.finish(query, "files.example")
    assert is_page(elsewhere)
    assert b"belongs to another address" in elsewhere.body
    for change in (
        {"state": state[:-1] + ("A" if state[-1] != "A" else "B")},
        {"state": ""},
        {"state": dict(parse_qsl(query))["code"].removeprefix("kiwi-")},
        {"iss": "https://evil.example"},
        {"iss": ""},
        {"code": ""},
        {"code": "kiwi-junk"},
    ):
        assert is_page(await made.finish(changed(query, **change))), change
    assert is_page(await made.finish(f"{query}&state={state}"))
    other = ForwardAuth()  # another issuer's code, with the same keys
    theirs = dict(parse_qsl(await other.begin()))["code"]
    assert is_page(await made.finish(changed(query, code=theirs)))
    assert sets_session(await made.finish(query))


async def test_an_id_token_of_another_login() -> None:
    """The nonce ties it to this one (OIDC Core §3.1.3.7)."""
    made = ForwardAuth()
    query = await made.begin()
    for asked in made.kanidm.codes.values():
        asked["nonce"] = "another"
    with pytest.raises(Surprise, match="another login"):
        await made.finish(query)


@pytest.mark.parametrize(("error", "status"), [("access_denied", 403), ("login_required", 400), ("server_error", 400)])
async def test_errors_of_the_issuer(error: str, status: int) -> None:
    """They are pages with a way to try again; what the issuer's message says is not repeated."""
    made = ForwardAuth()
    query = changed(await made.begin(), code="", error=error, error_description="<script>")
    answer = await made.finish(query)
    assert is_page(answer, status)
    assert f"https://{HOST}/auth/login?rd=https://{HOST}/page".encode() in answer.body
    assert b"script>" not in answer.body


async def test_a_wrong_secret() -> None:
    """It is told to whoever runs this (502 and a line in the log), and not called the user's mistake."""
    made = ForwardAuth()
    query = await made.begin()
    made.kanidm.clients["fa"].secret = "another"
    with pytest.raises(Surprise, match="secret of forward_auth_client"):
        await made.finish(query)


async def test_a_public_client() -> None:
    """PKCE alone does."""
    made = ForwardAuth(replace(RULES, secret=None))
    made.kanidm.clients["fa"].secret = None
    session = await made.session()
    assert await made.current(replace(session, checked=session.checked - 400)) is not None


async def test_who_has_no_name() -> None:
    """Nobody is told to the application by a mended name: the login ends with a page."""
    made = ForwardAuth()
    made.kanidm.clients["fa"].claims = {"preferred_username": "a,b"}
    assert is_page(await made.finish(await made.begin()), 403)


async def test_who_is_in_too_many_groups() -> None:
    """The login says so; a cookie that the browser drops would make it go in circles."""
    made = ForwardAuth()
    many = [f"group-{number * 7919 % 10007}-{number * 104729 % 99991}@id.example" for number in range(900)]
    made.kanidm.clients["fa"].claims = {"groups": many}
    answer = await made.finish(await made.begin())
    assert is_page(answer, 403)
    assert b"more groups than fit" in answer.body


@pytest.mark.parametrize("renewed", [False, True])
async def test_sign_out(renewed: bool) -> None:
    """The session is over here and in Kanidm, whether its cookie is the newest or not; then the issuer asks about the rest."""
    made = ForwardAuth()
    session = await made.session()
    old = replace(session, checked=session.checked - 400)
    if renewed:
        assert await made.current(old) is not None
    made.keep(Response(200, [made.sessions.set_cookie(old)]))
    answer = made.keep(await made.login.end(made.request("/auth/logout"), HOST))
    assert (answer.status, header(answer, "location")) == (303, f"{ISSUER}/oauth2/logout?client_id=fa")
    assert made.cookies == {}
    assert await made.current(session) is None
    assert len(made.kanidm.dead) == 1


async def test_sign_out_without_a_session() -> None:
    """It goes on to the issuer all the same."""
    made = ForwardAuth()
    answer = await made.login.end(made.request("/auth/logout"), HOST)
    assert header(answer, "location") == f"{ISSUER}/oauth2/logout?client_id=fa"
