"""A browser of few words: cookies, Kanidm's login pages, and the code flow with PKCE, over httpx.

The cookie jar is our own because Python's refuses cookies for the single-label domain ``localhost``, which browsers accept.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
import secrets
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import httpx

from kiwi_id.kanidm.rest import Totp


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


@dataclass
class Request:
    """One authorization request with all that the token request needs afterwards."""

    client_id: str
    redirect_uri: str
    scope: str = "openid profile email groups"
    state: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    @property
    def parameters(self) -> dict[str, str]:
        """The query of the authorization endpoint."""
        return {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": self.scope,
            "state": self.state,
            "nonce": self.nonce,
            "code_challenge": _challenge(self.verifier),
            "code_challenge_method": "S256",
        }


class Browser:
    """Keeps cookies, follows no redirect by itself, and verifies TLS against ``ca`` with the host name."""

    def __init__(self, origin: str, ca: Path) -> None:
        context = ssl.create_default_context(cafile=str(ca))
        self.origin = origin
        self.cookies: dict[str, str] = {}
        self.http = httpx.AsyncClient(base_url=origin, verify=context, timeout=30, trust_env=False)
        self.seen: set[str] = set()  # every cookie value ever given to us, for the secrecy test

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.http.aclose()

    async def send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Make one request with the cookies, and keep those of the answer."""
        headers = dict(arguments.pop("headers", {}))
        if self.cookies:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = await self.http.request(method, path, headers=headers, **arguments)
        self.http.cookies.clear()
        for line in answer.headers.get_list("set-cookie"):
            pair, *attributes = line.split("; ")
            name, _, value = pair.partition("=")
            if "max-age=0" in [attribute.lower() for attribute in attributes] or not value:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
                self.seen.add(value)
        return answer

    async def authorize(self, request: Request) -> httpx.Response:
        """Open the authorization endpoint; a login page, a consent page or a redirect with the code."""
        return await self.send("GET", "/ui/oauth2", params=request.parameters)

    async def sign_in(self, user: str, password: str, totp: Totp | None = None) -> httpx.Response:
        """Go through the login pages, from the first form to the last redirect inside Kanidm; return the page after it."""
        await self.send("POST", "/ui/login/begin", data={"username": user, "password": "", "totp": ""})
        if totp is not None:
            page = await self.send("POST", "/ui/login/totp", data={"totp": totp.code()})
            assert "/ui/login/pw" in page.text, page.text
        answer = await self.send("POST", "/ui/login/pw", data={"password": password})
        assert answer.status_code == 303, re.sub(r"<[^>]+>|\s+", " ", answer.text)[-600:]
        return await self.send("GET", answer.headers["location"])

    async def consent(self, page: httpx.Response) -> str:
        """Press *Proceed* on a consent page; return where the browser is sent."""
        assert "<title>Consent Required</title>" in page.text, page.text[:600]
        token = re.search(r'name="consent_token"\s+value="([^"]+)"', page.text)
        assert token
        answer = await self.send("POST", "/ui/oauth2/consent", data={"consent_token": html.unescape(token[1])})
        assert answer.status_code == 303
        return str(answer.headers["location"])

    async def token(self, request: Request, location: str, secret: str | None) -> dict[str, Any]:
        """Exchange the code that came to the redirect URI ``location``; return the token endpoint's answer."""
        assert location.startswith(request.redirect_uri + "?"), location
        query = parse_qs(urlsplit(location).query)
        assert query["state"] == [request.state]
        form = {
            "grant_type": "authorization_code",
            "code": query["code"][0],
            "redirect_uri": request.redirect_uri,
            "code_verifier": request.verifier,
        }
        if secret is None:
            form["client_id"] = request.client_id
        credentials = httpx.USE_CLIENT_DEFAULT if secret is None else httpx.BasicAuth(request.client_id, secret)
        answer = await self.http.post("/oauth2/token", data=form, auth=credentials)
        assert answer.status_code == 200, answer.text
        tokens: dict[str, Any] = answer.json()
        return tokens
