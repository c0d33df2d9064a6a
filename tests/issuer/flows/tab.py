"""A browser tab at the issuer: it follows redirects inside the origin, and tells with what it left for a relying party."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx

from tests.kanidm.browser import Browser

SCOPE = "openid profile email groups"


@dataclass(frozen=True)
class Client:
    """A registered client; ``secret`` None: public."""

    client_id: str
    secret: str | None
    redirect_uri: str

    @property
    def auth(self) -> Any:
        """Its credentials for httpx; a public client has none."""
        return httpx.USE_CLIENT_DEFAULT if self.secret is None else httpx.BasicAuth(self.client_id, self.secret)

    @property
    def form(self) -> dict[str, str]:
        """What it adds to a form to name itself."""
        return {"client_id": self.client_id} if self.secret is None else {}


@dataclass(frozen=True)
class Person:
    """Somebody who can sign in."""

    name: str
    password: str


@dataclass
class Asked:
    """What a relying party asks, and keeps until the answer."""

    client: Client
    state: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    extra: dict[str, str | None] = field(default_factory=dict)

    @property
    def challenge(self) -> str:
        """The S256 challenge of its verifier."""
        return base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters of the authorization request; ``extra`` overrides, and removes where it is None."""
        usual: dict[str, str | None] = {
            "response_type": "code",
            "client_id": self.client.client_id,
            "redirect_uri": self.client.redirect_uri,
            "scope": SCOPE,
            "state": self.state,
            "nonce": self.nonce,
            "code_challenge": self.challenge,
            "code_challenge_method": "S256",
        }
        return {name: value for name, value in {**usual, **self.extra}.items() if value is not None}


@dataclass(frozen=True)
class Arrived:
    """What came to a relying party: at which address, how, and with which parameters."""

    uri: str
    how: str
    parameters: dict[str, str]


class Tab(Browser):
    """One browser; ``note`` is told every secret that it sees."""

    def __init__(self, origin: str, ca: Path, note: Callable[..., None]) -> None:
        super().__init__(origin, ca)
        self._note = note

    async def send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Make one request with the cookies, and note what is secret of its answer."""
        answer = await super().send(method, path, **arguments)
        self._note(*self.seen)
        location = urlsplit(answer.headers.get("location", ""))
        for name, values in parse_qs(location.query or location.fragment).items():
            if name in ("code", "state", "box"):
                self._note(*values)
        return answer

    async def follow(self, answer: httpx.Response) -> httpx.Response:
        """Follow redirects that stay at the origin; return the first page, or the redirect that leaves."""
        for _ in range(10):
            location = answer.headers.get("location", "")
            if answer.status_code in (302, 303) and location.startswith(("/", self.origin + "/")):
                answer = await self.send("GET", location)
            else:
                return answer
        raise AssertionError("redirected in circles")

    async def authorize(self, request: Any, method: str = "GET", /, **extra: str | None) -> httpx.Response:  # type: ignore[override]
        """Send an authorization request, and follow where it leads inside the origin."""
        return await self.follow(await self.ask(request, method, **extra))

    async def ask(self, request: Any, method: str = "GET", /, **extra: str | None) -> httpx.Response:
        """Send an authorization request; return the very answer."""
        asked: Asked = request
        asked.extra.update(extra)
        self._note(asked.verifier)
        how = {"params": asked.parameters} if method == "GET" else {"data": asked.parameters}
        return await self.send(method, "/oauth2/authorize", **how)

    async def sign_in_as(self, person: Person, login_page: httpx.Response) -> httpx.Response:
        """Type name and password on Kanidm's login page; return the page after it, or the redirect that leaves."""
        assert is_login(login_page), show(login_page)
        self._note(person.password)
        await self.send("POST", "/ui/login/begin", data={"username": person.name, "password": "", "totp": ""})
        answer = await self.send("POST", "/ui/login/pw", data={"password": person.password})
        assert answer.status_code == 303, show(answer)
        return await self.follow(answer)

    async def agree(self, page: httpx.Response) -> httpx.Response:
        """Press *Proceed* when this is Kanidm's consent page; return what comes after, or ``page`` itself."""
        if not is_kanidm_consent(page):
            return page
        token = re.search(r'name="consent_token"\s+value="([^"]+)"', page.text)
        assert token
        consent = html.unescape(token[1])
        self._note(consent)
        return await self.follow(await self.send("POST", "/ui/oauth2/consent", data={"consent_token": consent}))

    async def log_in(self, asked: Asked, person: Person, **extra: str | None) -> Arrived:
        """Go the whole way from the authorization request over login and consent to the relying party."""
        page = await self.authorize(asked, **extra)
        return arrived(await self.agree(await self.sign_in_as(person, page)))

    async def post(self, path: str, form: dict[str, str], client: Client | None = None, **arguments: Any) -> httpx.Response:
        """Post a form as a relying party does, without cookies, with the credentials of ``client``."""
        if client is not None:
            arguments.setdefault("auth", client.auth)
            form = {**form, **client.form}
        answer = await self.http.post(path, data=form, **arguments)
        if path == "/oauth2/token" and answer.status_code == 200:
            self._note(*(value for name, value in answer.json().items() if name.endswith("_token") and isinstance(value, str)))
        return answer

    async def redeem(self, asked: Asked, came: Arrived, **change: str | None) -> httpx.Response:
        """Send the token request for the code that came."""
        form: dict[str, str | None] = {
            "grant_type": "authorization_code",
            "code": came.parameters["code"],
            "redirect_uri": asked.client.redirect_uri,
            "code_verifier": asked.verifier if "code_challenge" in asked.parameters else None,
        }
        sent = {name: value for name, value in {**form, **change}.items() if value is not None}
        return await self.post("/oauth2/token", sent, asked.client)

    async def tokens(self, asked: Asked, person: Person, **extra: str | None) -> dict[str, Any]:
        """Log in and exchange the code; return the token endpoint's answer."""
        answer = await self.redeem(asked, await self.log_in(asked, person, **extra))
        assert answer.status_code == 200, answer.text
        got: dict[str, Any] = answer.json()
        return got

    async def more_tokens(self, asked: Asked, **extra: str | None) -> dict[str, Any]:
        """Like :meth:`tokens` with the live session of this browser."""
        answer = await self.redeem(asked, arrived(await self.agree(await self.authorize(asked, **extra))))
        assert answer.status_code == 200, answer.text
        got: dict[str, Any] = answer.json()
        return got

    async def refresh(self, client: Client, token: str, **more: str) -> httpx.Response:
        """Use a refresh token."""
        return await self.post("/oauth2/token", {"grant_type": "refresh_token", "refresh_token": token, **more}, client)

    async def userinfo(self, access: str) -> httpx.Response:
        """Ask userinfo with an access token."""
        return await self.http.get("/oauth2/userinfo", headers={"authorization": f"Bearer {access}"})

    async def introspect(self, client: Client, token: str) -> dict[str, Any]:
        """Introspect a token as ``client``."""
        answer = await self.post("/oauth2/introspect", {"token": token}, client)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def assert_dead(self, client: Client, tokens: dict[str, Any]) -> None:
        """Prove that the session behind tokens is over at userinfo, introspection and the token endpoint alike."""
        assert (await self.userinfo(tokens["access_token"])).status_code == 401
        assert await self.introspect(client, tokens["access_token"]) == {"active": False}
        assert await self.introspect(client, tokens["refresh_token"]) == {"active": False}
        answer = await self.refresh(client, tokens["refresh_token"])
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")

    async def assert_alive(self, client: Client, tokens: dict[str, Any]) -> None:
        """Prove that the session behind tokens lives."""
        assert (await self.userinfo(tokens["access_token"])).status_code == 200
        assert (await self.introspect(client, tokens["access_token"]))["active"] is True


def is_login(page: httpx.Response) -> bool:
    """Tell whether this is Kanidm's login page."""
    return page.status_code == 200 and "<title>Login</title>" in page.text


def is_kanidm_consent(page: httpx.Response) -> bool:
    """Tell whether this is Kanidm's consent page."""
    return page.status_code == 200 and "<title>Consent Required</title>" in page.text


def is_our_consent(page: httpx.Response) -> bool:
    """Tell whether this is the consent page of our own."""
    return page.status_code == 200 and "<title>Consent required</title>" in page.text


def is_mistake(page: httpx.Response) -> bool:
    """Tell whether this is the page for a request that must not be redirected, and redirects nowhere."""
    led = {"location", "refresh", "hx-redirect"} & set(page.headers)
    ours = page.headers.get("content-security-policy", "").startswith("default-src 'none'") and "<form" not in page.text
    return page.status_code == 400 and not led and ours


def field_of(page: httpx.Response, name: str) -> str:
    """Return the value of a hidden field of a page."""
    found = re.search(rf'name="{name}" value="([^"]*)"', page.text)
    assert found, show(page)
    return html.unescape(found[1])


def arrived(answer: httpx.Response) -> Arrived:
    """Read the answer that leaves for a relying party: a redirect, a page that refreshes, or a form that posts itself."""
    if answer.status_code in (302, 303):
        return _arrived(answer.headers["location"], "")
    assert answer.status_code == 200, show(answer)
    if "refresh" in answer.headers:
        return _arrived(answer.headers["refresh"].removeprefix("0; url="), "page")
    action = re.search(r'<form[^>]* method="post" action="([^"]+)"', answer.text)
    assert action, show(answer)
    fields = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', answer.text)
    return Arrived(html.unescape(action[1]), "form_post", {html.unescape(k): html.unescape(v) for k, v in fields})


def _arrived(url: str, how: str) -> Arrived:
    if "#" in url:
        uri, _, carried = url.partition("#")
        return Arrived(uri, how or "fragment", dict(parse_qsl(carried, keep_blank_values=True, strict_parsing=True)))
    uri, _, query = url.partition("?")
    # What the relying party has put into its own redirect URI is part of the address; the response is what we added.
    pairs = query.split("&")
    first = next(at for at, pair in enumerate(pairs) if pair.startswith(("code=", "error=")))
    own = "?" + "&".join(pairs[:first]) if first else ""
    return Arrived(uri + own, how or "query", dict(parse_qsl("&".join(pairs[first:]), keep_blank_values=True)))


def show(page: httpx.Response) -> str:
    """Return a page's status and words, for a failure."""
    return f"{page.status_code} {dict(page.headers)} " + re.sub(r"<style>.*?</style>|<[^>]+>|\s+", " ", page.text)[:900]
