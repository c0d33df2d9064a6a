"""The configurations of docs/forward-auth.md, as they stand there, in the real nginx, Caddy and Traefik."""

from __future__ import annotations

import secrets

import pytest

from tests.forward_auth.browser import NAVIGATING
from tests.forward_auth.proxies import Make, remote, told
from tests.forward_auth.world import ALICE, BOB, DOMAIN, World

# Everything that a client might say in the place of the proxy or of Kiwi ID.
SPOOFED = {
    "Remote-User": "admin",
    "Remote-Name": "The Admin",
    "Remote-Email": "admin@example.com",
    "Remote-Groups": "wheel",
    "Remote_User": "admin",
    "Remote_Groups": "wheel",
    "remote_name": "admin",
    "Kiwi-Renewed": "evil=1",
}


@pytest.mark.parametrize("domain", ["", DOMAIN], ids=["host", "domain"])
async def test_from_nobody_to_the_page(make: Make, proxied: World, domain: str) -> None:
    """A browser goes through the login and comes back to its address; the application is told who it is, but no session."""
    proxy = await make(domain=domain)
    url = f"{proxied.wiki}/deep/page?a=1&b=%C3%BC&rd=x"
    async with proxy.browser() as browser:
        browser.jar[(f"wiki.{DOMAIN}", False, "before")] = "1"
        came = told(await browser.visit(url, ALICE))
        assert browser.trace[-1] == url
        assert came["path"] == url.removeprefix(proxied.wiki)
        groups = remote(came)["remote-groups"].split(",")
        assert {"kiwi_users", "mail_users"} <= set(groups)
        assert remote(came) == {
            "remote-user": f"alice@id.{DOMAIN}",
            "remote-name": "Alice Demo",
            "remote-email": "alice@example.com",
            "remote-groups": ",".join(groups),
        }
        browser.jar[(f"wiki.{DOMAIN}", False, "after")] = "2"
        came = told(await browser.go(url))
        cookies = {part.strip() for part in came["headers"]["cookie"].split(";")} - {""}
        assert cookies == {"before=1", "after=2"}
        held = [(host, below) for host, below, name in browser.jar if name.endswith("kiwi-session")]
        assert held == [(domain, True)] if domain else [(f"wiki.{DOMAIN}", False)]


async def test_a_long_address(make: Make, proxied: World) -> None:
    """The longest that a login returns to goes through every hop, with all that each adds to it."""
    proxy = await make()
    url = f"{proxied.wiki}/?q=" + "".join(secrets.token_urlsafe(4)[:5] for _ in range(299))
    async with proxy.browser() as browser:
        came = told(await browser.visit(url, ALICE))
        assert proxied.wiki + came["path"] == url


async def test_a_spoofing_client(make: Make, proxied: World) -> None:
    """Identity headers of the client reach the application in no spelling, whether somebody is signed in or not."""
    proxy = await make()
    async with proxy.browser() as browser:
        answer = await browser.send("GET", f"{proxied.wiki}/x", headers={**SPOOFED, **NAVIGATING})
        assert answer.status_code == 302
        assert proxy.app.seen == []
        honest = told(await browser.visit(f"{proxied.wiki}/x", ALICE))
        came = told(await browser.send("GET", f"{proxied.wiki}/x", headers={**SPOOFED, **NAVIGATING}))
        assert remote(came) == remote(honest)
        assert "evil" not in browser.cookies(f"wiki.{DOMAIN}")


@pytest.mark.parametrize(
    "spoofed",
    [
        {"X-Original-URL": "https://files.kiwi.localhost/"},
        {"X-Forwarded-Uri": "/other"},
        {"X-Forwarded-Host": "files.kiwi.localhost"},
        {"X-Forwarded-Host": "evil.example", "X-Forwarded-Uri": "/other", "X-Forwarded-Proto": "http"},
        {"Forwarded": "host=evil.example;proto=http"},
    ],
    ids="+".join,
)
async def test_a_client_that_speaks_for_the_proxy(make: Make, proxied: World, spoofed: dict[str, str]) -> None:
    """What a client says of host and address changes neither where a login returns to nor whose session counts."""
    proxy = await make()
    async with proxy.browser() as browser:
        answer = await browser.send("GET", f"{proxied.wiki}/x", headers={**spoofed, **NAVIGATING})
        assert answer.headers["location"] == f"{proxied.wiki}/auth/login?rd={proxied.wiki}/x"
        await browser.visit(f"{proxied.wiki}/x", ALICE)
        session = browser.jar[(f"wiki.{DOMAIN}", False, "__Host-kiwi-session")]
    async with proxy.browser() as thief:
        # files. is behind the same Kiwi ID: a session of wiki. that is sent there by name only must count for nothing.
        named = {name: value.replace(f"files.{DOMAIN}", f"files.{DOMAIN}:{proxied.port}") for name, value in spoofed.items()}
        cookie = {"cookie": f"__Host-kiwi-session={session}"}
        came = told(await thief.send("GET", f"{proxied.wiki}/x", headers={**named, **cookie}))
        assert remote(came)["remote-user"] == f"alice@id.{DOMAIN}"  # for it is wiki. that was asked


async def test_what_is_no_navigation_is_refused(make: Make, proxied: World) -> None:
    """Scripts and programs get 401 without a redirect, a form gets a page with a link; the application sees none of them."""
    proxy = await make()
    async with proxy.browser() as browser:
        for headers in ({"accept": "application/json"}, {"accept": "text/html", "sec-fetch-mode": "cors"}, {"accept": "*/*"}):
            answer = await browser.send("GET", f"{proxied.wiki}/api", headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="Kiwi ID"')
            assert "location" not in answer.headers
        form = await browser.send("POST", f"{proxied.wiki}/save", {"text": "much"})
        assert form.status_code == 401
        assert f'href="{proxied.wiki}/auth/login?rd={proxied.wiki}/"' in form.text
        assert proxy.app.seen == []
        await browser.visit(f"{proxied.wiki}/", ALICE)
        came = told(await browser.send("POST", f"{proxied.wiki}/save", {"text": "much"}))
        assert (came["method"], came["body"]) == ("POST", "text=much")


async def test_a_renewed_session_reaches_the_browser(make: Make, proxied: World) -> None:
    """The first request after the recheck gives the browser a new cookie beside the application's answer; the next does not."""
    proxy = await make()
    async with proxy.browser() as browser:
        await browser.visit(f"{proxied.wiki}/", ALICE)
        key = (f"wiki.{DOMAIN}", False, "__Host-kiwi-session")
        before = browser.jar[key] = proxied.aged(browser.jar[key], 400)
        renewed = await browser.send("GET", f"{proxied.wiki}/x")
        assert remote(told(renewed))["remote-user"] == f"alice@id.{DOMAIN}"
        assert browser.jar[key] != before
        again = await browser.send("GET", f"{proxied.wiki}/x")
        assert again.status_code == 200
        assert "set-cookie" not in again.headers


async def test_demands(make: Make, proxied: World) -> None:
    """With ``?groups=`` in the proxy's configuration, a member passes and another is told why he does not."""
    proxy = await make("?groups=mail_users,nobody_else")
    async with proxy.browser() as browser:
        told(await browser.visit(f"{proxied.wiki}/", ALICE))
    seen = len(proxy.app.seen)
    async with proxy.browser() as browser:
        page = await browser.visit(f"{proxied.wiki}/", BOB)
        assert page.status_code == 403
        assert f"bob@id.{DOMAIN}" in page.text
        assert len(proxy.app.seen) == seen


async def test_sign_out(make: Make, proxied: World) -> None:
    """/auth/logout ends the session at this host at once, also for a copy of its cookie, and leads to the issuer's question."""
    proxy = await make()
    async with proxy.browser() as browser:
        await browser.visit(f"{proxied.wiki}/", ALICE)
        copy = browser.cookies(f"wiki.{DOMAIN}")["__Host-kiwi-session"]
        page = await browser.go(f"{proxied.wiki}/auth/logout")
        assert "Sign out?" in page.text
        assert browser.trace[-1].startswith(proxied.issuer)
        assert "__Host-kiwi-session" not in browser.cookies(f"wiki.{DOMAIN}")
        answer = await browser.send("GET", f"{proxied.wiki}/", headers={"cookie": f"__Host-kiwi-session={copy}"})
        assert answer.status_code == 401


async def test_without_a_proxy_that_is_trusted(make: Make, proxied: World) -> None:
    """A proxy that is not in trusted_proxies lets nobody in."""
    proxy = await make(trusted="192.0.2.1")
    async with proxy.browser() as browser:
        answer = await browser.send("GET", f"{proxied.wiki}/x")
        assert answer.status_code == 403
        assert proxy.app.seen == []
