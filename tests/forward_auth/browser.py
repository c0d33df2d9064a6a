"""A browser with several hosts: a cookie jar that holds cookies to the rules of RFC 6265bis, and redirects across hosts."""

from __future__ import annotations

import html
import re
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self
from urllib.parse import urljoin, urlsplit

import httpx

from tests.issuer.flows.tab import Person

NAVIGATING = {"accept": "text/html,application/xhtml+xml", "sec-fetch-mode": "navigate"}

# Sends one request to wherever a URL leads.
Wire = Callable[[str, str, dict[str, str], dict[str, str] | None], Awaitable[httpx.Response]]


class Browser:
    """Keeps cookies for each host, and refuses those that a browser would not take. ``trace`` are the addresses visited."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.jar: dict[tuple[str, bool, str], str] = {}  # (domain, below it too, name): value
        self.trace: list[str] = []
        self.stop_at = ""  # an address that is not opened: a relying party's, which takes what came and goes on by itself

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def cookies(self, host: str) -> dict[str, str]:
        """Return the cookies that a request to ``host`` carries."""
        return {
            name: value
            for (domain, below, name), value in self.jar.items()
            if host == domain or (below and host.endswith(f".{domain}"))
        }

    async def send(
        self, method: str, url: str, form: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Make one request with the cookies, and keep those of the answer; ``headers`` replace those of a navigation."""
        host = urlsplit(url).hostname or ""
        sent = dict(NAVIGATING if headers is None else headers)
        if cookies := self.cookies(host):
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        self.trace.append(url)
        answer = await self._wire(method, url, sent, form)
        for line in answer.headers.get_list("set-cookie"):
            self._keep(host, line)
        return answer

    def _keep(self, host: str, line: str) -> None:
        assert len(line) <= 4096
        pair, *rest = line.split("; ")
        name, _, value = pair.partition("=")
        attributes = {key.lower(): word for key, _, word in (part.partition("=") for part in rest)}
        domain = attributes.get("domain", "").removeprefix(".")
        assert "." in domain or not domain, "no browser takes a cookie for a top-level domain"
        assert not domain or host == domain or host.endswith(f".{domain}"), f"{host} set a cookie for {domain}"
        if name.startswith(("__Host-", "__Secure-")):
            assert "secure" in attributes
        if name.startswith("__Host-"):
            assert not domain
            assert attributes["path"] == "/"
        if "kiwi-" in name:
            assert "httponly" in attributes
            assert attributes["samesite"] == "Lax"
            assert attributes["path"] == "/"
        key = (domain or host, bool(domain), name)
        if attributes.get("max-age") == "0" or not value:
            self.jar.pop(key, None)
        else:
            self.jar[key] = value

    async def go(self, url: str, method: str = "GET", form: dict[str, str] | None = None) -> httpx.Response:
        """Navigate, and follow redirects; return the page where they end."""
        for _ in range(12):
            answer = await self.send(method, url, form)
            if answer.status_code not in (302, 303, 307):
                return answer
            url, method, form = urljoin(url, answer.headers["location"]), "GET", None
            if self.stop_at and url.startswith(self.stop_at):
                self.trace.append(url)
                return answer
        raise AssertionError(f"redirected in circles: {self.trace[-12:]}")

    async def sign_in(self, login_page: httpx.Response, person: Person) -> httpx.Response:
        """Fill in Kanidm's login pages, agree to what it asks, and return the page after all redirects."""
        assert "<title>Login</title>" in login_page.text, show(login_page)
        base = self.trace[-1]
        await self.send("POST", urljoin(base, "/ui/login/begin"), {"username": person.name, "password": "", "totp": ""})
        page = await self.go(urljoin(base, "/ui/login/pw"), "POST", {"password": person.password})
        if "<title>Consent Required</title>" in page.text:
            token = re.search(r'name="consent_token"\s+value="([^"]+)"', page.text)
            assert token
            page = await self.go(urljoin(base, "/ui/oauth2/consent"), "POST", {"consent_token": html.unescape(token[1])})
        return page

    async def visit(self, url: str, person: Person) -> httpx.Response:
        """Open an address of a protected application, sign in on the way, and return its page."""
        return await self.sign_in(await self.go(url), person)


def show(page: httpx.Response) -> str:
    """Return a page's status and words, for a failure."""
    return f"{page.status_code} {dict(page.headers)} " + re.sub(r"<style>.*?</style>|<[^>]+>|\s+", " ", page.text)[:900]
