"""The authorization endpoint: every parameter of OIDC Core §3.1.2.1, and how answers come back."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest

from tests.issuer.flows.tab import Asked, arrived, is_login, is_mistake, show
from tests.issuer.flows.world import ALICE, BOB, CAROL, World


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("mode", [None, "query", "fragment", "form_post"])
async def test_response_modes(world: World, method: str, mode: str | None) -> None:
    """By GET and POST, with and without a live session, the code comes in the mode asked for, with state and iss."""
    async with world.tab() as tab:
        for turn in ("login", "live session"):
            asked = world.asked(response_mode=mode)
            page = await tab.authorize(asked, method)
            if turn == "login":
                page = await tab.agree(await tab.sign_in_as(ALICE, page))
            came = arrived(page)
            assert (came.uri, came.how) == (world.demo.redirect_uri, mode or "query")
            assert set(came.parameters) == {"code", "state", "iss"}
            assert (came.parameters["state"], came.parameters["iss"]) == (asked.state, world.issuer)
            assert page.headers["cache-control"] == "no-store"
            assert (await tab.redeem(asked, came)).status_code == 200


async def test_form_post_page(world: World) -> None:
    """The page that posts itself may do nothing else: its policy names the one script by its hash, and forbids framing."""
    async with world.tab() as tab:
        await tab.log_in(world.asked(), ALICE)
        page = await tab.authorize(world.asked(), response_mode="form_post", state='"><script>alert(1)</script>')
        policy = dict(part.strip().partition(" ")[::2] for part in page.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert policy["base-uri"] == "'none'"
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]{44}'", policy["script-src"])
        assert policy["form-action"] == "https: http:"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.text.count("<script") == 1
        assert arrived(page).parameters["state"] == '"><script>alert(1)</script>'


async def test_errors_come_in_the_mode_asked_for(world: World) -> None:
    """An error travels as the code would: query, fragment or form post, with error, state and iss."""
    async with world.tab() as tab:
        for mode in ("query", "fragment", "form_post"):
            asked = world.asked(response_mode=mode, prompt="none")
            came = arrived(await tab.authorize(asked))
            assert (came.uri, came.how) == (world.demo.redirect_uri, mode)
            assert came.parameters["error"] == "login_required"
            assert (came.parameters["state"], came.parameters["iss"]) == (asked.state, world.issuer)


@pytest.mark.parametrize(
    "extra",
    [
        {"state": None},
        {"state": ""},
        {"nonce": None},
        {"ui_locales": "de en"},
        {"claims_locales": "de"},
        {"acr_values": "urn:mace:incommon:iap:silver 0"},
        {"display": "popup"},
        {"claims": '{"userinfo":{"email":null}}'},
        {"resource": "https://api.example.com"},
        {"audience": "x", "foo[bar]": "baz", "_": "1"},
        {"access_type": "offline", "approval_prompt": "force"},
        {"scope": "openid offline_access profile unknown_scope"},
        {"scope": None},
        {"scope": ""},
        {"max_age": "100000"},
        {"response_mode": ""},
        {"prompt": ""},
    ],
    ids=lambda extra: "-".join(f"{name}={value}" for name, value in extra.items())[:40],
)
async def test_parameters_that_change_nothing(world: World, extra: dict[str, str | None]) -> None:
    """What is missing, empty, unknown or only a wish does not stop a login: with the login page and with a live session."""
    async with world.tab() as tab:
        first = world.asked(**extra)
        tokens = await tab.tokens(first, ALICE)
        claims = world.verified(tokens["id_token"])
        assert claims.get("nonce") == first.parameters.get("nonce")
        again = world.asked(**extra)
        came = arrived(await tab.agree(await tab.authorize(again)))
        assert came.parameters.get("state") == (again.parameters.get("state") or None)
        assert (await tab.redeem(again, came)).status_code == 200


async def test_offline_access_gives_no_scope(world: World) -> None:
    """Scopes that the client does not have are left out (OIDC Core §3.1.2.1), and the token answer says which there are."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(scope="openid offline_access email nothing"), ALICE)
        assert set(tokens["scope"].split()) == {"openid", "email"}
        refused = arrived(await tab.authorize(world.asked(), scope="nothing else"))
        assert refused.parameters["error"] == "invalid_scope"


@pytest.mark.parametrize(
    ("extra", "error"),
    [
        ({"request": "eyJhbGciOiJub25lIn0.e30."}, "request_not_supported"),
        ({"request_uri": "https://rp.example/request.jwt"}, "request_uri_not_supported"),
        ({"registration": "{}"}, "registration_not_supported"),
        ({"response_type": None}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "code id_token"}, "unsupported_response_type"),
        ({"response_type": "none"}, "unsupported_response_type"),
        ({"response_mode": "web_message"}, "invalid_request"),
        ({"prompt": "none login"}, "invalid_request"),
        ({"prompt": "create"}, "invalid_request"),
        ({"prompt": "none"}, "login_required"),
        ({"max_age": "-1"}, "invalid_request"),
        ({"max_age": "soon"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge_method": "s256"}, "invalid_request"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge": "+" * 43}, "invalid_request"),
        ({"id_token_hint": "junk"}, "invalid_request"),
        ({"scope": "unknown"}, "invalid_scope"),
        ({"nonce": "n" * 2000}, "invalid_request"),
        ({"login_hint": "h" * 300}, "invalid_request"),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items())[:40] if isinstance(value, dict) else value,
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_errors_redirect(world: World, method: str, extra: dict[str, str | None], error: str) -> None:
    """A mistake in the request is told to the relying party, with error, state and iss, and no code."""
    async with world.tab() as tab:
        asked = world.asked(**extra)
        answer = await tab.authorize(asked, method)
        came = arrived(answer)
        assert answer.status_code == 303
        assert came.uri == world.demo.redirect_uri
        assert came.parameters["error"] == error
        assert re.fullmatch(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+", came.parameters["error_description"])
        assert (came.parameters["state"], came.parameters["iss"]) == (asked.state, world.issuer)
        assert "code" not in came.parameters


@pytest.mark.parametrize("name", ["client_id", "redirect_uri", "state", "scope", "nonce", "prompt", "unknown"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_repeated_parameter(world: World, name: str, method: str) -> None:
    """A parameter that is there twice, even with the same value, is refused by a page that leads nowhere."""
    async with world.tab() as tab:
        pairs = [*world.asked().parameters.items(), (name, "x"), (name, "x")]
        body = urlencode(pairs)
        if method == "GET":
            page = await tab.send("GET", "/oauth2/authorize?" + body)
        else:
            kind = {"content-type": "application/x-www-form-urlencoded"}
            page = await tab.send("POST", "/oauth2/authorize", content=body, headers=kind)
        assert is_mistake(page), show(page)


async def test_login_hint(world: World) -> None:
    """login_hint fills in the name on the login page; a hostile one stays text."""
    async with world.tab() as tab:
        page = await tab.authorize(world.asked(), login_hint="alice")
        assert is_login(page)
        assert re.search(r'<input[^>]*value="alice"', page.text), show(page)
        page = await tab.authorize(world.asked(), login_hint='"><script>x</script>')
        assert "<script>x" not in page.text


async def test_wrong_methods(world: World) -> None:
    """Another method is refused by 405 with Allow, by every part of the program; HEAD answers as GET does, without a body."""
    both, post = "GET, HEAD, POST", "POST"
    async with world.tab() as tab:
        for path, allowed in (("/oauth2/authorize", both), ("/oauth2/logout", both), ("/oauth2/consent", post)):
            for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
                answer = await tab.http.request(method, path)
                assert (answer.status_code, answer.headers["allow"]) == (405, allowed), method
                assert answer.json()["error_description"] == f"{path} does not answer {method}."
        head = await tab.http.request("HEAD", "/oauth2/authorize", params=world.asked().parameters)
        assert (head.status_code, head.content) == (303, b"")


async def test_post_needs_a_form(world: World) -> None:
    """A posted request in JSON, or with bytes that are no UTF-8, is a page that says so."""
    async with world.tab() as tab:
        assert is_mistake(await tab.send("POST", "/oauth2/authorize", json=world.asked().parameters))
        kind = {"content-type": "application/x-www-form-urlencoded"}
        assert is_mistake(await tab.send("POST", "/oauth2/authorize", content=b"client_id=%ff", headers=kind))
        assert is_mistake(await tab.send("GET", "/oauth2/authorize?client_id=%ff"))


async def test_user_without_the_right(world: World) -> None:
    """A user whose groups give no scope of the client gets access_denied at the relying party, by login and by live session."""
    for extra in ({}, {"response_mode": "fragment"}, {"prompt": "login consent", "response_mode": "form_post"}):
        async with world.tab() as tab:
            asked = world.asked(**extra)
            page = await tab.sign_in_as(CAROL, await tab.authorize(asked))
            assert "o2-authreq" not in tab.cookies
            again = Asked(world.demo)
            for came, sent in ((arrived(await tab.follow(page)), asked), (arrived(await tab.authorize(again)), again)):
                assert came.uri == world.demo.redirect_uri
                assert came.parameters.keys() == {"error", "error_description", "state", "iss"}
                assert came.parameters["error"] == "access_denied"
                assert (came.parameters["state"], came.parameters["iss"]) == (sent.state, world.issuer)


async def test_user_without_the_right_who_was_logged_in_meanwhile(world: World) -> None:
    """The same at Kanidm's own authorization page, when another tab has logged in and this one is loaded again."""
    async with world.tab() as tab:
        asked = world.asked()
        answer = await tab.ask(asked)
        assert is_login(await tab.follow(answer))
        await tab.sign_in_as(CAROL, await tab.authorize(world.asked()))
        came = arrived(await tab.follow(await tab.send("GET", answer.headers["location"])))
        assert (came.parameters["error"], came.parameters["state"]) == ("access_denied", asked.state)


async def test_two_logins_at_once(world: World) -> None:
    """Two tabs of one browser that begin to log in at two clients: the one that is finished comes back to its own client."""
    async with world.tab() as tab:
        first, second = world.asked(), world.asked(world.other)
        await tab.authorize(first)
        page = await tab.authorize(second)
        came = arrived(await tab.agree(await tab.sign_in_as(BOB, page)))
        assert came.uri == world.other.redirect_uri
        assert came.parameters["state"] == second.state
        assert arrived(await tab.agree(await tab.authorize(first))).parameters["state"] == first.state
