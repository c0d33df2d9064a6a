"""The whole issuer over the fake Kanidm, and a client's hand at it: requests in, responses out, no sockets."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from kiwi_id.config_keys import ClientSettings
from kiwi_id.issuer.chosen import ChosenSecrets
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.http import Request, Response
from kiwi_id.issuer.keys import Key, KeySet, KeyState, make_key
from kiwi_id.issuer.logout import Notice
from kiwi_id.issuer.service import Service
from kiwi_id.kanidm.oauth2 import OAuth2
from tests.issuer.unit.fake_kanidm import FakeKanidm

ISSUER = "https://id.example"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
CLIENTS = {
    "mail": ClientSettings(("https://mail.example/out", "https://mail.example/out?x=1"), "https://mail.example/bcl"),
    "wiki": ClientSettings((), "https://wiki.example/bcl", require_pkce=True),
}


def nobody_has_chosen() -> ChosenSecrets:
    """Return what is in force where no client has chosen a secret: Kanidm is asked for none."""

    async def fetch(client_id: str) -> str | None:
        raise AssertionError(client_id)

    return ChosenSecrets(fetch)


def key(kind: str = "eddsa", number: int = 0) -> Key:
    """Return the ``number``-th key of a kind, the same each time."""
    return _key(kind, number)


@cache
def _key(kind: str, _number: int) -> Key:
    private: Any
    if kind == "rs256":
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    elif kind == "es256":
        private = ec.generate_private_key(ec.SECP256R1())
    else:
        private = ed25519.Ed25519PrivateKey.generate()
    return make_key(private, KeyState.CURRENT, datetime.now(UTC), Path("/nowhere"))


@dataclass
class World:
    """An issuer; ``told`` are the logout tokens handed over for delivery."""

    kanidm: FakeKanidm = field(default_factory=FakeKanidm)
    kind: str = "eddsa"
    groups_claim: str = "name"
    told: list[Notice] = field(default_factory=list)
    cookies: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.service = Service(self._deliver)
        self.secrets = ChosenSecrets(self.kanidm.tell_secret)
        self.use(KeySet(key(self.kind), []))

    def use(self, keys: KeySet) -> None:
        """Put a key set in force, as a reload does."""
        kanidm = OAuth2(self.kanidm, self.secrets.renew)
        self.ctx = Context(ISSUER, "id.example", self.groups_claim, keys, CLIENTS, kanidm, self.secrets)
        self.service.configure(self.ctx)

    async def _deliver(self, notices: list[Notice]) -> None:
        self.told += notices

    async def send(
        self, method: str, path: str, form: dict[str, str] | None = None, *, query: str = "", **headers: str | bytes
    ) -> Response:
        """Send a request with the cookies; ``form`` is the query of a GET and the body of a POST."""
        encoded = urlencode(form or {})
        sent = [
            (name.replace("_", "-").encode(), value.encode() if isinstance(value, str) else value)
            for name, value in headers.items()
        ]
        if self.cookies and "cookie" not in headers:
            sent.append((b"cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()).encode()))
        if method == "POST" and "content_type" not in headers:
            sent.append((b"content-type", b"application/x-www-form-urlencoded"))
        body = encoded.encode() if method == "POST" else b""
        answer = await self.service.handle(
            Request(method, path, (query or ("" if body else encoded)).encode(), sent, body, "192.0.2.1", b"req-1")
        )
        for name, value in answer.headers:
            if name == b"set-cookie":
                pair, _, rest = value.decode().partition(";")
                cookie, _, content = pair.partition("=")
                if "Max-Age=0" in rest:
                    self.cookies.pop(cookie, None)
                else:
                    self.cookies[cookie] = content
        return answer

    def log_in(self, *clients: str, **arguments: Any) -> str:
        """Give the browser a session, with consent to ``clients``; return the session's cookie."""
        self.cookies["bearer"] = self.kanidm.log_in(**arguments)
        self.kanidm.consented.update((client, self.cookies["bearer"]) for client in clients)
        return self.cookies["bearer"]

    async def authorize(self, **change: str | None) -> Response:
        """Ask for an authorization of ``mail``; ``change`` overrides parameters, None removes one."""
        usual: dict[str, str | None] = {
            "response_type": "code",
            "client_id": "mail",
            "redirect_uri": "https://mail.example/cb",
            "scope": "openid profile email groups",
            "state": "st",
            "nonce": "no",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
        }
        return await self.send("GET", "/oauth2/authorize", {k: v for k, v in {**usual, **change}.items() if v is not None})

    async def code(self, **change: str | None) -> str:
        """Return a code for the session in the browser."""
        return came(await self.authorize(**change))["code"]

    async def token(self, form: dict[str, str], client: str = "mail") -> Response:
        """Ask the token endpoint, with the client's credentials."""
        secret = self.kanidm.clients[client].secret
        if secret is None:
            return await self.send("POST", "/oauth2/token", {**form, "client_id": client})
        return await self.send("POST", "/oauth2/token", form, authorization=basic(client, secret))

    async def redeem(self, code: str, client: str = "mail", **change: str) -> Response:
        """Exchange a code."""
        uri = self.kanidm.clients[client].uris[0]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": uri, "code_verifier": VERIFIER}
        return await self.token({**form, **change}, client)

    async def tokens(self) -> dict[str, Any]:
        """Log in and return the tokens of ``mail``."""
        self.log_in("mail")
        answer = await self.redeem(await self.code())
        assert answer.status == 200, answer.body
        return content(answer)


def basic(name: str, secret: str) -> str:
    """Return Basic credentials as RFC 6749 §2.3.1 wants them: both halves form-encoded."""
    return "Basic " + base64.b64encode(f"{quote_plus(name)}:{quote_plus(secret)}".encode()).decode()


def header(answer: Response, name: str) -> str:
    """Return a response's header, or nothing; fails when it is there twice."""
    found = [value.decode() for key, value in answer.headers if key == name.encode()]
    assert len(found) <= 1, found
    return found[0] if found else ""


def content(answer: Response) -> dict[str, Any]:
    """Return a JSON answer."""
    assert header(answer, "content-type") == "application/json"
    found: dict[str, Any] = json.loads(answer.body)
    return found


def came(answer: Response) -> dict[str, str]:
    """Return what an authorization response brought to the relying party in the query of its address."""
    assert answer.status == 303, answer.body
    return dict(parse_qsl(urlsplit(header(answer, "location")).query))


def box_of(page: Response) -> str:
    """Return the hidden box of a page's form."""
    found = re.search(r'name="box" value="([^"]+)"', page.body.decode())
    assert found, page.body
    return html.unescape(found[1])
