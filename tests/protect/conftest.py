"""The front's own fixtures, and a front with login protection before a scripted Kanidm that knows two people and a client."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest

from kiwi_id.config import PROTECTION_KEYS, Protection
from kiwi_id.protect.handlers import TOKEN_PATHS, LoginGuard
from tests.front import conftest
from tests.front.conftest import Front
from tests.front.wire import Reply

front, make_front, kanidm, loopback, lines = (
    *(conftest.front, conftest.make_front, conftest.kanidm, conftest.loopback),
    conftest.lines,
)

USUAL = Protection(**{name: key.parse(key.default) for name, key in PROTECTION_KEYS.items()})
PASSWORDS = {"alice": "right-of-alice", "bob": "right-of-bob"}
CODE = "123456"


def scripted(request: bytes) -> bytes:
    """Answer login steps and token requests as Kanidm does, with the account's name where it has a signed token."""
    head, _, body = request.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head:
        body = b"".join(re.findall(rb"[0-9a-f]+\r\n(.*?)\r\n", body))
    path = head.split()[1].decode()
    if path.startswith("/oauth2/"):
        right = base64.b64encode(b"wiki:right-of-wiki") in head
        return _answer(200 if right else 401, b"{}")
    if path.endswith("/_unix/_auth"):
        return _answer(200, b'{"name":"alice"}' if b"right-of" in body else b"null")
    found = re.search(rb"(?:auth-session-id=|x-kanidm-auth-session-id: )head\.(\w+)\.sig", head)
    account = found[1].decode() if found else ""
    return _rest(body, account) if path == "/v1/auth" else _page(path, dict(parse_qsl(body.decode())), account)


def _page(path: str, form: dict[str, str], account: str) -> bytes:
    if path.endswith("/begin"):
        name = form["username"].lower().partition("@")[0]
        return _answer(200, b"<form>", _cookie(name)) if name in PASSWORDS else _answer(200, b"Invalid username")
    if not account:
        return _answer(200, b"InvalidSessionState")
    if path.endswith("/mech_choose"):
        return _answer(200, b"<form>", _cookie(account))
    if path.endswith("/totp") and form["totp"] == CODE:
        return _answer(200, b"<form>", _cookie(account))
    if path.endswith("/pw") and form["password"] == PASSWORDS[account]:
        return _answer(
            303, b"", "set-cookie: bearer=x.y.z; Path=/", "location: /ui/apps", "set-cookie: auth-session-id=; Max-Age=0"
        )
    return _answer(200, b"denied", "set-cookie: auth-session-id=; Max-Age=0")


def _rest(body: bytes, account: str) -> bytes:
    step = json.loads(body)["step"]
    if "init2" in step:
        name = step["init2"]["username"]
        if name not in PASSWORDS:
            return _answer(404, b'"nomatchingentries"')
        return _answer(200, b'{"state":{"choose":["password"]}}', f"x-kanidm-auth-session-id: head.{name}.sig")
    if "begin" in step:
        return _answer(200, b'{"state":{"continue":["password"]}}', f"x-kanidm-auth-session-id: head.{account}.sig")
    right = account and step["cred"]["password"] == PASSWORDS[account]
    return _answer(200, b'{"state":{"success":"x.y.z"}}' if right else b'{"state":{"denied":"incorrect password"}}')


def _cookie(name: str) -> str:
    return f"set-cookie: auth-session-id=head.{name}.sig; Path=/"


def _answer(status: int, body: bytes, *headers: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} x", *headers, f"content-length: {len(body)}"))
    return head.encode() + b"\r\n" + body


class Guarded:
    """A front with the guard in its routes."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.guard = LoginGuard(USUAL, front.forwarder)
        front.kanidm.answer = scripted
        front.trust("127.0.0.1")
        front.ours |= self.guard.routes()
        front.ours |= dict.fromkeys(TOKEN_PATHS, self.guard.before_tokens(front.forwarder))
        for path in (b"/v1/account/Alice@localhost/_unix/_auth", b"/v1/account/bob/_unix/_auth", b"/other"):
            front.ours[path] = self.guard.otherwise

    @property
    def asked(self) -> int:
        """How many requests have reached Kanidm."""
        return len(self.front.kanidm.requests)

    def change(self, **changes: Any) -> None:
        """Reload with other limits."""
        self.guard.change(replace(USUAL, **changes))

    async def post(self, path: str, body: str | bytes, *fields: str, client: str = "192.0.2.1") -> Reply:
        """POST from an address."""
        content = body.encode() if isinstance(body, str) else body
        head = [f"POST {path} HTTP/1.1", "host: id.example.com", f"x-forwarded-for: {client}", *fields]
        if not any(field.startswith("transfer-encoding") for field in fields):
            head.append(f"content-length: {len(content)}")
        return await self.front.ask("\r\n".join(head).encode() + b"\r\n\r\n" + content, "POST")

    async def step(self, kind: str, *, token: str = "", client: str = "192.0.2.1", **form: str) -> Reply:
        """Send one step of Kanidm's login pages, as a browser."""
        fields = ["accept: text/html", "content-type: application/x-www-form-urlencoded"]
        if token:
            fields.append(f"cookie: a=b; auth-session-id={token}")
        return await self.post(f"/ui/login/{kind}", urlencode(form), *fields, client=client)

    async def login(self, name: str, password: str, client: str = "192.0.2.1") -> int:
        """Log in by a password on the pages; return the status of the last answer that came."""
        begun = await self.step("begin", username=name, client=client)
        token = token_of(begun)
        if begun.status != 200 or not token:
            return begun.status
        return (await self.step("pw", token=token, password=password, client=client)).status

    async def rest(self, step: object, *, token: str = "", client: str = "192.0.2.1") -> Reply:
        """Send one step of the REST API."""
        fields = [f"x-kanidm-auth-session-id: {token}"] if token else []
        return await self.post("/v1/auth", json.dumps({"step": step}), "content-type: application/json", *fields, client=client)

    async def token(self, name: str, secret: str, path: str = "/oauth2/token", client: str = "192.0.2.1") -> Reply:
        """Send a token request."""
        basic = base64.b64encode(f"{name}:{secret}".encode()).decode()
        return await self.post(path, "grant_type=client_credentials", f"authorization: Basic {basic}", client=client)


def token_of(reply: Reply) -> str:
    """Return the login in progress that an answer names."""
    found = [value.partition(b";")[0] for value in reply.all(b"set-cookie")]
    tokens = [value.removeprefix(b"auth-session-id=") for value in found if value.startswith(b"auth-session-id=")]
    return (tokens or reply.all(b"x-kanidm-auth-session-id") or [b""])[0].decode()


@pytest.fixture
async def guarded(front: Front) -> Guarded:
    """A front with login protection, its limits the defaults."""
    return Guarded(front)
