"""A Kanidm of few words in memory, in place of the issuer's ``call``: the JSON authorization API, tokens, sessions.

As strict as the real one where the issuer depends on it: scopes, redirect URIs, PKCE, Basic credentials as they are, statuses.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import trio

from kiwi_id.kanidm.oauth2 import Header

SCOPES = ["openid", "profile", "email", "groups"]
ALICE = "8f2a6d60-0000-4000-8000-00000000a11c"
BOB = "8f2a6d60-0000-4000-8000-0000000000b0"


@dataclass
class Answer:
    """One answer, as the issuer's caller returns it."""

    status: int
    headers: list[Header] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: bytes) -> bytes:
        """Return the first header of that name."""
        return next((value for key, value in self.headers if key == name), b"")


@dataclass
class Registered:
    """A client: ``secret`` None for a public one."""

    secret: str | None
    uris: tuple[str, ...]
    claims: dict[str, Any] = field(default_factory=dict)


def jws(payload: dict[str, Any]) -> str:
    """Return a JWS of Kanidm's; nobody but Kanidm checks its signature, and this one knows its tokens by heart."""
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (b"{}", json.dumps(payload).encode(), b"sig"))


class FakeKanidm:
    """See the module. ``calls`` are the requests made, as (method, path)."""

    def __init__(self) -> None:
        self.clients = {
            "mail": Registered(
                "s3cret:/+ %é", ("https://mail.example/cb", "https://mail.example/cb?tenant=7&x=a%20b", "app.mail:/cb")
            ),
            "spa": Registered(None, ("https://spa.example/cb",)),
            "wiki": Registered("wiki-secret-0123456789", ("https://wiki.example/cb",)),
        }
        self.clients["mail"].secret = "s3cret/+ %é"
        self.sessions: dict[str, dict[str, Any]] = {}
        self.ended: set[str] = set()
        self.denied: set[str] = set()
        self.consented: set[tuple[str, str]] = set()
        self.codes: dict[str, dict[str, str]] = {}
        self.access: dict[str, tuple[str, str]] = {}  # token: (client, family)
        self.refresh: dict[str, tuple[str, str, str]] = {}  # token: (client, family, bearer)
        # The real one tells a used refresh token by the second in which it was made; this one at once, unless told to be as real.
        self.notices_at_once = True
        self.used: set[str] = set()
        self.seconds_of: dict[str, int] = {}  # refresh token: second in which it was made
        self.refreshed: dict[str, int] = {}  # family: second of its last tokens
        self.bearers: dict[str, str] = {}  # family: the session behind it
        self.dead: set[str] = set()
        self.calls: list[tuple[str, str]] = []
        self._count = 0

    def _new(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count:06d}"

    def _is_over(self, family: str) -> bool:
        return family in self.dead or self.bearers[family] in self.ended

    def log_in(self, uuid: str = ALICE, *, issued_at: float | None = None) -> str:
        """Return the ``bearer`` cookie of a new session."""
        name = "alice" if uuid == ALICE else "bob"
        uat = {
            "session_id": self._new("session"),
            "uuid": uuid,
            "spn": f"{name}@id.example",
            "displayname": name.title(),
            "issued_at": int(time.time() if issued_at is None else issued_at),
            "expiry": None,
        }
        bearer = jws(uat)
        self.sessions[bearer] = uat
        return bearer

    async def tell_secret(self, client_id: str) -> str | None:
        """Tell Kiwi ID's account the secret of a client, as Kanidm has made it."""
        self.calls.append(("GET", f"/v1/oauth2/{client_id}/_basic_secret"))
        await trio.lowlevel.checkpoint()
        return self.clients[client_id].secret if client_id in self.clients else None

    async def __call__(self, method: str, target: str, headers: list[Header], body: bytes = b"") -> Answer:
        """Answer one request."""
        target.encode("ascii")
        for name, value in headers:
            assert re.fullmatch(rb"[!-9;-~]+", name), name
            assert not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value), value
        parts = urlsplit(target)
        self.calls.append((method, parts.path))
        query = dict(parse_qsl(parts.query, keep_blank_values=True, errors="strict"))
        form = dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict"))
        bearer = next((v.decode()[7:] for n, v in headers if n == b"authorization" and v.startswith(b"Bearer ")), "")
        if match := re.fullmatch(r"/oauth2/openid/([^/]*)/(.*)", parts.path):
            return self._of_client(unquote(match[1]), match[2], bearer)
        routes: dict[str, Callable[[], Answer]] = {
            "/oauth2/authorise": lambda: self._authorise(query, bearer),
            "/oauth2/authorise/permit": lambda: self._permit(query, bearer),
            "/v1/self/_uat": lambda: _json(self.sessions[bearer]) if bearer in self.sessions else Answer(401),
            "/oauth2/token": lambda: self._token(form, headers),
            "/oauth2/token/introspect": lambda: self._introspect(form, headers),
            "/oauth2/token/revoke": lambda: self._revoke(form, headers),
            "/ui/logout": lambda: self._log_out(headers),
        }
        return routes[parts.path]()

    def _of_client(self, name: str, what: str, bearer: str) -> Answer:
        if name not in self.clients:
            return Answer(404)
        if what == "userinfo":
            token = self.access.get(bearer)
            if token is None or token[0] != name or self._is_over(token[1]):
                return Answer(400, [], b'{"error":"invalid_token"}')
            return _json(self._user(name))
        return _json({"issuer": f"https://id.example/oauth2/openid/{name}", "scopes_supported": SCOPES})

    def _user(self, client: str) -> dict[str, Any]:
        return {
            "iss": f"https://id.example/oauth2/openid/{client}",
            "sub": ALICE,
            "aud": client,
            "iat": 1,
            "exp": 2,
            "scopes": SCOPES,
            "name": "Alice <b>",
            "preferred_username": "alice@id.example",
            "email": "alice@example.com",
            "email_verified": True,
            "groups": ["mail_users@id.example", "0e9f2b30-0000-4000-8000-000000000001"],
            **self.clients[client].claims,
        }

    def _authorise(self, query: dict[str, str], bearer: str) -> Answer:
        client = self.clients.get(query["client_id"])
        assert {"response_type", "client_id", "redirect_uri", "scope", "state", "code_challenge"} <= query.keys()
        if client is None or query["redirect_uri"] not in client.uris:
            return Answer(400)
        if bearer not in self.sessions or bearer in self.ended:
            return Answer(401)
        if query["client_id"] in self.denied:
            return Answer(403)
        if (query["client_id"], bearer) not in self.consented:
            token = urlencode({**query, "bearer": bearer})
            return _json({"ConsentRequested": {"client_name": "X", "scopes": ["openid"], "consent_token": token}})
        return self._granted(query, bearer)

    def _permit(self, query: dict[str, str], bearer: str) -> Answer:
        asked = dict(parse_qsl(query["token"], keep_blank_values=True))
        assert asked.pop("bearer") == bearer
        self.consented.add((asked["client_id"], bearer))
        return self._granted(asked, bearer)

    def _granted(self, asked: dict[str, str], bearer: str) -> Answer:
        code = "gAAAA" + self._new("code")
        self.codes[code] = {**asked, "bearer": bearer}
        query = urlencode({"code": code, "state": asked["state"]})
        where = asked["redirect_uri"] + ("&" if "?" in asked["redirect_uri"] else "?") + query
        return Answer(302, [(b"location", where.encode())], b'"Permitted"')

    def _who(self, form: dict[str, str], headers: list[Header]) -> str | None:
        basic = next((value[6:] for name, value in headers if name == b"authorization" and value.startswith(b"Basic ")), None)
        name, secret = form.get("client_id", ""), form.get("client_secret")
        if basic is not None:
            name, _, secret = base64.b64decode(basic).decode().partition(":")
        client = self.clients.get(name)
        if client is None or (client.secret is not None and secret != client.secret):
            return None
        return name

    def _token(self, form: dict[str, str], headers: list[Header]) -> Answer:
        name = self._who(form, headers)
        if name is None:
            return Answer(401)
        grant = form["grant_type"]
        if grant == "client_credentials":
            return _json({"access_token": self._new("gAAAAopaque"), "expires_in": 900, "token_type": "Bearer", "scope": "openid"})
        if grant == "refresh_token":
            held = self.refresh.get(form["refresh_token"])
            if held is None or held[0] != name or self._is_over(held[1]):
                return Answer(400, [], b'{"error":"invalid_request"}')
            made, last = self.seconds_of[form["refresh_token"]], self.refreshed[held[1]]
            if made < last or (self.notices_at_once and form["refresh_token"] in self.used):
                self.dead.add(held[1])  # an old one, so it was stolen
                return Answer(400, [], b'{"error":"invalid_request"}')
            self.used.add(form["refresh_token"])
            return self._issue(name, held[2], held[1], "")
        asked = self.codes.get(form["code"])
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if asked is None or asked["client_id"] != name or asked["code_challenge"] != challenge:
            return Answer(400, [], b'{"error":"invalid_request"}')
        if asked["redirect_uri"] != form["redirect_uri"]:
            return Answer(400, [], b'{"error":"invalid_origin"}')
        return self._issue(name, asked["bearer"], self._new("family"), asked.get("nonce", ""))

    def _issue(self, name: str, bearer: str, family: str, nonce: str) -> Answer:
        subject = self.sessions[bearer]["uuid"]
        now = int(time.time())
        told = {"sub": subject, "client_id": name, "iat": now, "jti": self._new("jti"), "scope": " ".join(SCOPES)}
        access = jws({**told, "nonce": nonce or None})
        refresh = self._new("refresh")
        self.access[access] = (name, family)
        self.refresh[refresh] = (name, family, bearer)
        self.seconds_of[refresh] = self.refreshed[family] = now
        self.bearers[family] = bearer
        identity = {**self._user(name), "sub": subject, **({"nonce": nonce} if nonce else {})}
        return _json(
            {
                "access_token": access,
                "refresh_token": refresh,
                "id_token": jws(identity),
                "expires_in": 900,
                "token_type": "Bearer",
                "scope": " ".join(SCOPES),
            }
        )

    def _introspect(self, form: dict[str, str], headers: list[Header]) -> Answer:
        name = self._who(form, headers)
        if name is None:
            return Answer(401)
        token = self.access.get(form["token"])
        return _json({"active": token is not None and token[0] == name and not self._is_over(token[1])})

    def _revoke(self, form: dict[str, str], headers: list[Header]) -> Answer:
        if self._who(form, headers) is None:
            return Answer(401)
        held: Any = self.access.get(form["token"]) or self.refresh.get(form["token"])
        if held is not None:
            self.dead.add(held[1])
        return Answer(200)

    def _log_out(self, headers: list[Header]) -> Answer:
        self.ended.update(value.decode().removeprefix("bearer=") for name, value in headers if name == b"cookie")
        return Answer(303, [(b"location", b"/ui/login"), (b"set-cookie", b"bearer=; Max-Age=0")])


def _json(content: Any) -> Answer:
    return Answer(200, [(b"content-type", b"application/json")], json.dumps(content).encode())
