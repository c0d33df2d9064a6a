"""Requests that no browser writes, byte for byte, through the real proxies with the documented configurations."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx
import pytest

from tests.forward_auth.browser import show
from tests.forward_auth.proxies import Make, Proxy, remote, told
from tests.forward_auth.world import ALICE, DOMAIN, World

# Where the two cookies of forward-auth stand among others: REAL is the session's pair, OTHER the name of the other kind.
COOKIES = {
    "alone": ["REAL"],
    "another first": ["OTHER=junk; REAL"],
    "two others first": ["a=1; OTHER=junk; OTHER=junk; REAL; z=2"],
    "adjacent": ["REAL; REAL"],
    "twice": ["a=1; REAL; b=2; REAL; c=3"],
    "thrice, without spaces": ["a=1;REAL;REAL;REAL;b=2"],
    "a junk one of the same name behind": ["REAL; NAME=junk; b=2"],
    "odd spaces": ["a=1 ;  REAL ;\t REAL;b=2;;"],
    "two headers": ["a=1; REAL", "b=2; REAL"],
    "many headers": ["OTHER=junk", "a=1", "REAL", "REAL; OTHER=junk", "b=2"],
    "in other letters": ["a=1; REAL; LOWER; b=2"],
    "with a login under way": ["a=1; __Host-kiwi-login=aaaaaaaaaaaaaaaaaaaaaaaaaa; REAL; b=2"],
}


async def signed_in(proxy: Proxy, world: World) -> str:
    """Sign alice in; return her session's pair."""
    async with proxy.browser() as browser:
        told(await browser.visit(f"{world.wiki}/", ALICE))
        return next(f"{name}={value}" for (_, _, name), value in browser.jar.items() if name.endswith("kiwi-session"))


def pairs(cookies: str) -> set[str]:
    """Take the value of a Cookie header apart."""
    return {part.strip() for part in cookies.split(";")} - {""}


async def ask(proxy: Proxy, world: World, *lines: str, target: str = "/", host: str = "") -> httpx.Response:
    """Send a request with these header lines."""
    head = [f"GET {target} HTTP/1.1", f"Host: {host or urlsplit(world.wiki).netloc}", *lines]
    if not any(line.startswith("Connection:") for line in lines):
        head.append("Connection: close")
    return await proxy.raw("\n".join(head))


@pytest.mark.parametrize("domain", ["", DOMAIN], ids=["host", "domain"])
async def test_the_application_gets_no_session(make: Make, proxied: World, domain: str) -> None:
    """Whatever cookies come, in which order and how often: none of ours reaches the application, and all others do."""
    proxy = await make(domain=domain)
    real = await signed_in(proxy, proxied)
    name, _, secret = real.partition("=")
    other = "__Host-kiwi-session" if domain else "__Secure-kiwi-session"
    for case, lines in COOKIES.items():
        filled = [line.replace("REAL", real).replace("OTHER", other).replace("NAME", name) for line in lines]
        lowered = real.replace(name, name.lower())
        answer = await ask(proxy, proxied, *(f"Cookie: {line.replace('LOWER', lowered)}" for line in filled))
        came = told(answer)
        assert remote(came)["remote-user"] == f"alice@id.{DOMAIN}", case
        assert secret not in answer.text, case
        assert "kiwi-" not in came["headers"].get("cookie", ""), case
        assert pairs(came["headers"].get("cookie", "")) == {
            pair for line in lines for pair in pairs(line) if pair.startswith(("a=", "b=", "c=", "z="))
        }, case


async def test_no_header_about_cookies_is_believed(make: Make, proxied: World) -> None:
    """The cleaned cookies are Kiwi ID's word: what a client sends under any name that the configurations use is dropped."""
    proxy = await make()
    real = await signed_in(proxy, proxied)
    for name in ("Cookie", "Kiwi-Cookie", "Kiwi-Renewed"):
        if name not in proxy.text:
            continue
        came = told(await ask(proxy, proxied, f"Cookie: a=1; {real}", f"{name}: evil=1"))
        assert came["headers"]["cookie"] == ("a=1; evil=1" if name == "Cookie" else "a=1")
        assert "evil" not in str({**came["headers"], "cookie": ""})


async def test_many_cookies_of_others(make: Make, proxied: World) -> None:
    """Cookies up to what a proxy takes in one header come through beside a session."""
    proxy = await make()
    real = await signed_in(proxy, proxied)
    more = "; ".join(f"c{number}={'x' * 500}" for number in range((7900 - len(real)) // 508))
    came = told(await ask(proxy, proxied, f"Cookie: {real}; {more}", f"Cookie: b={'y' * 7000}"))
    assert came["headers"]["cookie"] == f"{more}; b={'y' * 7000}"


async def test_headers_that_a_client_has_removed_on_the_way(make: Make, proxied: World) -> None:
    """What a client names in Connection (RFC 9110 §7.6.1) takes no identity from a request, nor anything that is asked about."""
    proxy = await make()
    real = await signed_in(proxy, proxied)
    honest = told(await ask(proxy, proxied, f"Cookie: a=1; {real}"))
    assert honest["headers"]["cookie"] == "a=1"
    for names in (
        *("Remote-User", "Remote-Groups", "remote-user, remote-groups, remote-name, remote-email", "Kiwi-Cookie"),
        *("X-Forwarded-Host", "X-Forwarded-Uri, X-Forwarded-Method", "X-Original-URL, X-Original-Method", "Forwarded", "Host"),
    ):
        for line in (f"Connection: close, {names}", f"Connection: close\nConnection: {names}"):
            came = told(await ask(proxy, proxied, f"Cookie: a=1; {real}", line))
            assert remote(came) == remote(honest), line
            assert came["headers"]["cookie"] == "a=1", line
    gone = await ask(proxy, proxied, f"Cookie: {real}", "Connection: close, Cookie")
    assert "kiwi-session" not in gone.text  # whoever hides his own session has none


async def test_a_session_of_another_host(make: Make, proxied: World) -> None:
    """A session of files. counts for nothing at wiki., whatever the request line and the headers say of the host."""
    proxy = await make()
    real = await signed_in(proxy, proxied)
    wiki, files = urlsplit(proxied.wiki).netloc, urlsplit(proxied.files).netloc
    name, _, value = real.partition("=")
    theirs = f"{name}={proxied.aged(value, 0, host=files)}"
    assert (await proxied.ask("/auth/verify", files, {"x-forwarded-uri": "/", "cookie": theirs})).status_code == 200
    seen = len(proxy.app.seen)
    # Host says files., and the absolute form of the target wiki., which counts (RFC 9112 §3.2.2); and the other way round.
    for host, target in (
        (files, f"https://{wiki}/secret"),
        (files, f"http://{wiki}/secret"),
        (wiki, f"https://{files}/secret"),
        (wiki, "/secret"),
        (files, "/secret"),
        (files.upper(), f"https://{wiki}/secret"),
        (f"x@{files}", f"https://{wiki}/secret"),
        (wiki, f"https://{wiki}/secret"),
    ):
        answer = await ask(proxy, proxied, f"Cookie: {theirs}", "Accept: */*", target=target, host=host)
        assert len(proxy.app.seen) == seen, (host, target)
        assert answer.status_code >= 400 or not answer.content, (host, target, show(answer))  # Caddy's word for no such site
    # Our own in these forms is served under our name, or refused.
    for host, target in ((files, f"https://{wiki}/own"), (wiki, f"https://{wiki}/own")):
        answer = await ask(proxy, proxied, f"Cookie: {real}", target=target, host=host)
        if answer.status_code == 200:
            came = told(answer)
            assert remote(came)["remote-user"] == f"alice@id.{DOMAIN}"
            assert came["headers"]["host"] == wiki
    # Where a login returns to is the name that is served, too.
    answer = await ask(proxy, proxied, "Accept: text/html", target=f"https://{wiki}/x", host="evil.example")
    assert "evil" not in str(answer.headers)


# Spellings of our paths; which of them a proxy takes for the same is its own affair.
PATHS = (
    *("//auth/login", "/auth//login", "/x/../auth/login", "/./auth/callback", "/auth/%6cogin", "/auth%2Flogin", "/%61uth/login"),
    *("/AUTH/login", "/auth/Login", "/auth/login/", "/auth/login;x", "/auth/login%0a", "/auth/login%00", "/auth/login%3fx"),
    *("/x/..%2fauth/login", "/auth/x/../login", "/%2e%2e/auth/login", "/.%2e/auth/logout", "/auth/verify", "//auth/verify"),
    *("/auth/verify?groups=x", "/AUTH/VERIFY", "/oauth2/token", "/ui/login", "/status", "/kiwi-verify", "/kiwi-refused"),
    *("/auth/login/../../status", "/auth/logout/..%2f..%2fstatus", "/auth/login/%2e%2e/%2e%2e/status", "/auth\\login"),
)


async def test_only_three_paths_of_an_application_are_kiwi_ids(make: Make, proxied: World) -> None:
    """However a path is spelt: at an application's host it is one of the three pages, or nobody gets in; never is it Kanidm's."""
    proxy = await make()
    for path in PATHS:
        answer = await ask(proxy, proxied, "Accept: application/json", target=path)
        assert proxy.app.seen == [], path
        assert not [name for name in answer.headers if name.startswith("x-kanidm")], (path, show(answer))
        where = answer.headers.get("location", "")
        page = where.startswith((f"{proxied.issuer}/oauth2/authorize", f"{proxied.issuer}/oauth2/logout"))
        assert page or answer.status_code in (400, 401, 403, 404), (path, show(answer))
        assert answer.status_code != 404 or "unknown path" not in answer.text
    real = await signed_in(proxy, proxied)
    for path in ("/AUTH/login", "/auth/verify", "/auth/login/", "/oauth2/token"):  # all others are the application's
        answer = await ask(proxy, proxied, f"Cookie: {real}", target=path)
        assert told(answer)["path"] == path


async def test_the_login_services_own_host_answers_no_proxy(make: Make, proxied: World) -> None:
    """/auth/verify cannot be asked from outside, in no spelling: the proxy is trusted, and would lend its trust to anybody."""
    proxy = await make()
    real = await signed_in(proxy, proxied)
    about = ([f"X-Original-URL: {proxied.wiki}/"], ["X-Forwarded-Uri: /", f"X-Forwarded-Host: {urlsplit(proxied.wiki).netloc}"])
    for path in ("/auth/verify", "//auth/verify", "/x/../auth/verify", "/auth/%76erify", "/auth/verify?groups=x", "/AUTH/VERIFY"):
        for lines in about:
            host = urlsplit(proxied.issuer).netloc
            answer = await ask(proxy, proxied, f"Cookie: {real}", *lines, target=path, host=host)
            assert answer.status_code in (400, 404), (path, lines, show(answer))
            assert not [name for name in answer.headers if name.startswith("remote-")]
