"""Whole logins and sessions over the stand-in and the real kanidmd, with the tests in the place of the proxy."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trio

from kiwi_id import demo
from tests.forward_auth.browser import NAVIGATING, Browser, show
from tests.forward_auth.world import ALICE, BOB, DOMAIN, World
from tests.issuer.flows.tab import Asked, Client, Person

HOST = f"wiki.{DOMAIN}"
COOKIE = "__Host-kiwi-session"
KEY = (HOST, False, COOKIE)


async def person(world: World, name: str, displayname: str = "Some Body", *groups: str) -> Person:
    """Make a person who may use the client, in further groups."""
    made = Person(name, "marble-thistle-cascade-92")
    async with await world.rest() as rest:
        await rest.create_person(name, displayname, mail=[f"{name}@example.com"])
        for group in ("kiwi_users", *groups):
            await rest.create_group(group)
            await rest.add_members(group, name)
        await rest.set_password(name, made.password)
    return made


async def ask(world: World, cookie: str = "", query: str = "", **headers: str) -> httpx.Response:
    """Ask /auth/verify in the manner of nginx about a page of wiki.; ``headers`` in their Python spelling, empty ones left out."""
    sent = {"x-original-url": f"{world.wiki}/x", "x-original-method": "GET", "cookie": cookie and f"{COOKIE}={cookie}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return await world.ask(f"/auth/verify{query}", "kiwi-id", {name: value for name, value in sent.items() if value})


async def tokens(world: World, client: Client, who: Person) -> dict[str, Any]:
    """Log in to a client as a relying party does, in a browser of its own, and return its tokens."""
    async with world.browser() as browser:
        asked = Asked(client)
        page = await browser.send("GET", str(httpx.URL(f"{world.issuer}/oauth2/authorize", params=asked.parameters)))
        page = await browser.go(f"{world.issuer}{page.headers['location']}")
        browser.stop_at = client.redirect_uri
        await browser.sign_in(page, who)
        code = dict(httpx.URL(browser.trace[-1]).params)["code"]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": client.redirect_uri}
        form |= {"code_verifier": asked.verifier, "client_id": client.client_id, "client_secret": client.secret or ""}
        answer = await world.wire("POST", f"{world.issuer}/oauth2/token", {}, form)
        assert answer.status_code == 200, answer.text
        got: dict[str, Any] = answer.json()
        return got


# -- logging in --------------------------------------------------------------------------------------------------------------------


async def test_login(world: World) -> None:
    """A browser without a session is sent to the login and comes back to the very address; the application knows who it is."""
    async with world.browser() as browser:
        page = await browser.visit(f"{world.wiki}/page?a=1&b=%20x", ALICE)
        assert page.status_code == 200, show(page)
        told = page.json()
        groups = told.pop("remote-groups").split(",")
        assert {"kiwi_users", "mail_users"} <= set(groups)
        assert told == {
            "url": f"{world.wiki}/page?a=1&b=%20x",
            "remote-user": f"alice@id.{DOMAIN}",
            "remote-name": "Alice Demo",
            "remote-email": "alice@example.com",
        }


async def test_a_second_host_needs_no_second_password(world: World) -> None:
    """Its cookie is its own, and got without a page; nor does either host's cookie count at the other."""
    async with world.browser() as browser:
        await browser.visit(f"{world.wiki}/", ALICE)
        page = await browser.go(f"{world.files}/there")
        if "<title>Consent Required</title>" in page.text:
            raise AssertionError("one client, one consent")
        assert page.json()["url"] == f"{world.files}/there"
        mine, theirs = browser.jar[KEY], browser.jar[(f"files.{DOMAIN}", False, COOKIE)]
        assert (await ask(world, mine)).status_code == 200
        assert (await ask(world, theirs)).status_code == 401
        assert (await ask(world, mine, x_original_url=f"{world.files}/x")).status_code == 401


async def test_one_cookie_for_all_hosts(world: World) -> None:
    """With forward_auth_domain the second host asks nobody, and the login is at the issuer's host."""
    world.configure(domain=DOMAIN)
    async with world.browser() as browser:
        await browser.visit(f"{world.wiki}/", ALICE)
        assert f"{world.issuer}/auth/login?rd={world.wiki}/" in browser.trace
        visited = len(browser.trace)
        page = await browser.go(f"{world.files}/there")
        assert page.json()["remote-user"] == f"alice@id.{DOMAIN}"
        assert len(browser.trace) == visited + 1
        assert (await world.ask("/auth/login", urlsplit(world.wiki).netloc, NAVIGATING)).status_code == 404


async def test_who_may_not_use_the_client(world: World) -> None:
    """Kanidm decides: the login ends with a page of ours, and without a session."""
    outsider = Person("outsider", "marble-thistle-cascade-92")
    async with await world.rest() as rest:
        await rest.create_person(outsider.name, "Out Sider")
        await rest.set_password(outsider.name, outsider.password)
    async with world.browser() as browser:
        for page in (await browser.visit(f"{world.wiki}/", outsider), await browser.go(f"{world.wiki}/")):
            assert page.status_code == 403, show(page)
            assert "No access" in page.text
            assert KEY not in browser.jar


async def test_names_in_every_script(world: World) -> None:
    """A display name goes out in UTF-8, as it is."""
    zoe = await person(world, "zoe", "Zoë Ünal 漢字")
    async with world.browser() as browser:
        await browser.visit(f"{world.wiki}/", zoe)
        answer = await ask(world, browser.jar[KEY])
        raw = dict(answer.headers.raw)
        assert raw[b"Remote-Name" if b"Remote-Name" in raw else b"remote-name"] == "Zoë Ünal 漢字".encode()


async def test_a_public_client(world: World) -> None:
    """Without a secret file PKCE alone protects the code; renewals work, too."""
    world.configure(client="forward-public")
    async with world.browser() as browser:
        page = await browser.visit(f"{world.wiki}/", ALICE)
        assert page.json()["remote-user"] == f"alice@id.{DOMAIN}"
        answer = await ask(world, world.aged(browser.jar[KEY], 400))
        assert answer.status_code == 200
        assert answer.headers["set-cookie"].startswith(f"{COOKIE}=")


async def test_a_wrong_secret(world: World) -> None:
    """A login ends with 502, and the log says what is wrong."""
    world.secret_file.write_text("0123456789abcdef0123456789abcdef")
    try:
        assert world.reload().returncode == 0
        async with world.browser() as browser:
            page = await browser.visit(f"{world.wiki}/", ALICE)
            assert page.status_code == 502, show(page)
            assert KEY not in browser.jar
        assert "the secret of forward_auth_client is not the right one" in world.log()
    finally:
        world.secret_file.write_text(world.secret)


# -- how sessions end --------------------------------------------------------------------------------------------------------------


async def signed_in(world: World, browser: Browser, who: Person = ALICE) -> str:
    """Sign in and return the session's cookie as it would be after the recheck."""
    await browser.visit(f"{world.wiki}/", who)
    return world.aged(browser.jar[KEY], 400)


async def test_a_session_goes_on(world: World) -> None:
    """After the recheck the answer has a new cookie, which is good by itself; the old one gets the same answer meanwhile."""
    async with world.browser() as browser:
        old = await signed_in(world, browser)
        first, second = await ask(world, old), await ask(world, old)
        assert first.status_code == second.status_code == 200
        new = first.headers["set-cookie"].partition("=")[2].partition(";")[0]
        third = await ask(world, new)
        assert third.status_code == 200
        assert "set-cookie" not in third.headers
        assert third.headers["remote-groups"] == first.headers["remote-groups"]
        # And on, from the new one.
        assert (await ask(world, world.aged(new, 400))).status_code == 200


async def test_a_logout_in_kanidm(world: World) -> None:
    """A session that was ended in Kanidm is believed until the recheck, and then is over: a browser is sent to the login page."""
    async with world.browser() as browser:
        old = await signed_in(world, browser)
        young = browser.jar[KEY]
        await browser.send("GET", f"{world.issuer}/ui/logout")
        assert (await ask(world, young)).status_code == 200
        assert (await ask(world, old)).status_code == 401
        browser.jar[KEY] = old
        page = await browser.go(f"{world.wiki}/")
        assert "<title>Login</title>" in page.text


@pytest.mark.parametrize("how", ["expire", "delete"])
async def test_an_account_that_ends(world: World, how: str) -> None:
    """An administrator ends it, and with it every session here."""
    leaver = await person(world, f"leaver-{how}")
    async with world.browser() as browser:
        old = await signed_in(world, browser, leaver)
        async with await world.rest() as rest:
            if how == "delete":
                await rest.call("DELETE", f"/v1/person/{leaver.name}")
            else:
                past = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - 60))
                await rest.call("PUT", f"/v1/person/{leaver.name}/_attr/account_expire", [past])
        assert (await ask(world, old)).status_code == 401


async def test_a_change_of_groups(world: World) -> None:
    """It counts from the recheck on, in headers and demands alike."""
    mover = await person(world, "mover", "Mo Ver", "movers")
    async with world.browser() as browser:
        old = await signed_in(world, browser, mover)
        assert (await ask(world, browser.jar[KEY], "?groups=movers")).status_code == 200
        async with await world.rest() as rest:
            await rest.call("DELETE", "/v1/group/movers/_attr/member", [mover.name])
        renewed = await ask(world, old, "?groups=movers")
        assert renewed.status_code == 403
        assert "movers" not in (await ask(world, old)).headers["remote-groups"].split(",")


async def test_a_refresh_token_that_was_used_long_ago(world: World) -> None:
    """After the recheck a used one is a thief's to Kanidm, which ends the session for both; the browser logs in unseen."""
    async with world.browser() as browser:
        old = await signed_in(world, browser)
        await trio.sleep(1.1)  # Kanidm tells old from new by whole seconds
        new = (await ask(world, old)).headers["set-cookie"].partition("=")[2].partition(";")[0]
        await world.restart()  # which forgets who was renewed a moment ago
        assert (await ask(world, old)).status_code == 401
        assert (await ask(world, world.aged(new, 400))).status_code == 401
        browser.jar[KEY] = old
        page = await browser.go(f"{world.wiki}/again")
        assert page.json()["url"] == f"{world.wiki}/again"


async def test_a_restart_ends_no_session(world: World) -> None:
    """There is no table that could be lost."""
    async with world.browser() as browser:
        await browser.visit(f"{world.wiki}/", ALICE)
        await world.restart()
        assert (await ask(world, browser.jar[KEY])).status_code == 200
        assert (await ask(world, world.aged(browser.jar[KEY], 400))).status_code == 200


async def test_sign_out(world: World) -> None:
    """It ends the session here and in Kanidm, and leads to the issuer's question, with the way back that is registered."""
    world.configure(more=[f'clients.forward-auth.post_logout_redirect_uris = ["{world.files}/bye", "{world.wiki}/bye"]'])
    async with world.browser() as browser:
        old = await signed_in(world, browser)
        answer = await browser.send("GET", f"{world.wiki}/auth/logout")
        assert httpx.URL(answer.headers["location"]).params["post_logout_redirect_uri"] == f"{world.wiki}/bye"
        assert KEY not in browser.jar
        world.configure()  # keeps what was signed out a moment ago in mind
        assert (await ask(world, old)).status_code == 401
        await world.restart()
        assert (await ask(world, old)).status_code == 401


# -- access tokens -----------------------------------------------------------------------------------------------------------------


async def test_access_tokens(world: World) -> None:
    """A token of this client passes; of another one only when that is named; an ID token, junk, or two headers never."""
    other = Client("forward-public", None, f"{world.wiki}/auth/callback")
    mine = await tokens(world, Client("forward-auth", world.secret, f"{world.wiki}/auth/callback"), ALICE)
    theirs = await tokens(world, other, ALICE)
    good = await ask(world, authorization=f"Bearer {mine['access_token']}")
    assert good.status_code == 200
    assert good.headers["remote-user"] == f"alice@id.{DOMAIN}"
    assert good.headers["remote-email"] == "alice@example.com"
    assert "kiwi_users" in good.headers["remote-groups"].split(",")
    refused = [
        *(theirs["access_token"], mine["id_token"], mine["refresh_token"], "junk", mine["access_token"][:-2]),
        mine["access_token"] + "=",
    ]
    for token in refused:
        answer = await ask(world, authorization=f"Bearer {token}")
        assert answer.status_code == 401, token[:20]
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    world.configure(more=['forward_auth_audiences = ["forward-public"]'])
    assert (await ask(world, authorization=f"Bearer {theirs['access_token']}")).status_code == 200


async def test_a_clients_own_token_is_nobodys(world: World) -> None:
    """client_credentials give no person, whatever the client is called."""
    form = {"grant_type": "client_credentials", "client_id": "forward-auth", "client_secret": world.secret}
    answer = await world.wire("POST", f"{world.issuer}/oauth2/token", {}, form)
    if answer.status_code == 200:
        refused = await ask(world, authorization=f"Bearer {answer.json()['access_token']}")
        assert refused.status_code == 401
    else:
        assert answer.json()["error"] in ("unauthorized_client", "invalid_scope")


@pytest.mark.parametrize(("who", "status"), [(ALICE, 200), (BOB, 403)], ids=["alice", "bob"])
async def test_scopes(world: World, who: Person, status: int) -> None:
    """A supplementary scope map gives scopes to members of a group, which can be demanded of sessions and tokens."""
    async with world.browser() as browser:
        await browser.visit(f"{world.wiki}/", who)
        answer = await ask(world, browser.jar[KEY], "?scopes=openid,mail")
        assert answer.status_code == status
        if status == 403:
            assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
        assert (await ask(world, world.aged(browser.jar[KEY], 400), "?scopes=openid,mail")).status_code == status


# -- what is asked, and by whom ----------------------------------------------------------------------------------------------------


async def test_questions_that_are_not_answered(world: World) -> None:
    """What could be meant for another request, or another demand, is refused; never is a redirect the answer to nginx."""
    async with world.browser() as browser:
        await browser.visit(f"{world.wiki}/", ALICE)
        good = browser.jar[KEY]
    assert (await ask(world, good)).status_code == 200
    for headers in (
        {"x_original_url": ""},
        {"x_forwarded_uri": "/x"},
        {"x_original_url": f"{world.wiki}@evil.example/"},
        {"x_original_url": "/x"},
    ):
        assert (await ask(world, good, **headers)).status_code == 400, headers
    assert (await ask(world, good, x_original_url="https://evil.example/")).status_code == 403
    for query in ("?group=x", "?groups=", "?groups=a&groups=b", "?x=y"):
        assert (await ask(world, good, query)).status_code == 400
    nobody = await ask(world, accept="text/html", sec_fetch_mode="navigate")
    assert (nobody.status_code, nobody.headers.get("location")) == (401, None)
    doubled = await world.ask("/auth/verify", "k", {"x-original-url": f"{world.wiki}/x", "X-Original-Url": f"{world.wiki}/y"})
    assert doubled.status_code in (400, 401)
    about = {"x-original-url": f"{world.wiki}/x", "cookie": f"{COOKIE}={good}"}
    assert (await world.ask("/auth/verify", "k", about, "POST")).status_code == 405
    head = await world.ask("/auth/verify", "k", about, "HEAD")
    assert (head.status_code, head.headers["remote-user"]) == (200, f"alice@id.{DOMAIN}")


async def test_only_trusted_proxies_are_answered(world: World) -> None:
    """Anybody else could ask in the name of any host."""
    async with world.browser() as browser:
        await browser.visit(f"{world.wiki}/", ALICE)
        world.configure(trusted="192.0.2.0/24")
        answer = await ask(world, browser.jar[KEY])
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "untrusted_proxy")
    assert "remote-user" not in answer.headers


async def test_off_and_on_again(world: World) -> None:
    """Without forward_auth_client the paths are Kanidm's, which has nothing there; a reload is all it takes."""
    async with world.browser() as browser:
        await browser.visit(f"{world.wiki}/", ALICE)
        world.configure(client=None)
        for path in ("/auth/verify", "/auth/login", "/auth/callback", "/auth/logout"):
            answer = await world.ask(path, urlsplit(world.wiki).netloc, {"x-original-url": f"{world.wiki}/x"})
            assert answer.status_code == 404
            assert "kiwi" not in str(answer.headers).lower().replace("kiwi.localhost", "")
        world.configure()
        assert (await ask(world, browser.jar[KEY])).status_code == 200


async def test_a_reload_with_a_mistake_changes_nothing(world: World) -> None:
    """A secret file that is not there is told, and what was in force goes on."""
    async with world.browser() as browser:
        await browser.visit(f"{world.wiki}/", ALICE)
        text = world.places.config.read_text()
        world.places.config.write_text(text.replace(str(world.secret_file), "/nowhere/secret"))
        answer = world.reload()
        assert answer.returncode == 78
        assert "/nowhere/secret" in answer.stdout + answer.stderr
        assert (await ask(world, browser.jar[KEY])).status_code == 200


async def test_no_secret_in_the_log(world: World) -> None:
    """Neither session, state, code nor refresh token."""
    async with world.browser() as browser:
        page = await browser.visit(f"{world.wiki}/secrecy?token=hidden-word", ALICE)
        assert page.status_code == 200
        held = list(browser.jar.values())
        held += [value for url in browser.trace for name, value in httpx.URL(url).params.items() if name in ("state", "code")]
        renewed = await ask(world, world.aged(browser.jar[KEY], 400))
        held.append(renewed.headers["set-cookie"].partition("=")[2].partition(";")[0])
    log = world.log() + world.places.log_file.read_text()
    assert "/auth/verify" in log
    assert len(held) >= 6
    assert [secret[:12] for secret in [*held, "hidden-word", world.secret] if len(secret) > 10 and secret in log] == []


def test_the_demo_is_what_the_tests_take_it_for() -> None:
    """Both may log in, and only one of them reads mail."""
    assert demo.GROUPS == {"kiwi_users": ("alice", "bob"), "mail_users": ("alice",)}
