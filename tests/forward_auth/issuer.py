"""Forward-auth over the issuer and the fake Kanidm of the issuer's unit tests: no sockets, no processes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from kiwi_id.forward_auth.login import LOGIN_COOKIE, Login
from kiwi_id.forward_auth.renewal import Renewals
from kiwi_id.forward_auth.rules import Rules
from kiwi_id.forward_auth.session import Session, Sessions
from kiwi_id.issuer.http import Request, Response
from tests.issuer.unit.fake_kanidm import Registered
from tests.issuer.unit.issuer import ISSUER, World, header

HOST = "wiki.example"
RULES = Rules(
    client_id="fa",
    secret="fa-secret",
    hosts=frozenset({HOST, "files.example"}),
    domain="",
    recheck=300.0,
    lifetime=3600.0,
    audiences=frozenset({"fa"}),
    issuer=ISSUER,
)


class ForwardAuth:
    """A browser's way through login and callback; ``cookies`` are those of ``HOST``, ``issuer`` holds those of the issuer."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.issuer = World()
        self.kanidm = self.issuer.kanidm
        self.kanidm.clients["fa"] = Registered("fa-secret", (f"https://{HOST}/auth/callback", f"{ISSUER}/auth/callback"))
        self.rules, self.renewals = rules, Renewals()
        self.cookies: dict[str, str] = {}
        self.sessions = Sessions(rules, self.issuer.ctx.keys)
        self.login = Login(self.issuer.ctx, rules, self.sessions, self.renewals, self.issuer.service.handle)

    def request(self, path: str, query: str = "") -> Request:
        """Return a request of the browser to ``HOST``."""
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return Request("GET", path, query.encode("latin-1"), [(b"cookie", cookies.encode())], b"", "192.0.2.1", b"req-1")

    def keep(self, answer: Response) -> Response:
        """Take the cookies of an answer."""
        for name, value in answer.headers:
            if name == b"set-cookie":
                cookie, _, rest = value.decode().partition("=")
                content = rest.partition(";")[0]
                if content:
                    self.cookies[cookie] = content
                else:
                    self.cookies.pop(cookie, None)
        return answer

    async def begin(self, query: str = f"rd=https://{HOST}/page", host: str = HOST) -> str:
        """Begin a login; return the query with which the issuer sends the browser to the callback."""
        answer = self.keep(await self.login.begin(self.request("/auth/login", query), host))
        sent = header(answer, "location")
        assert sent.startswith(f"{ISSUER}/oauth2/authorize?"), answer
        if "bearer" not in self.issuer.cookies:
            self.issuer.log_in("fa")
        came = await self.issuer.send("GET", "/oauth2/authorize", query=sent.partition("?")[2])
        back = header(came, "location")
        assert back.startswith("https://"), came
        return back.partition("?")[2]

    async def finish(self, query: str, host: str = HOST) -> Response:
        """Go to the callback."""
        return self.keep(await self.login.finish(self.request("/auth/callback", query), host))

    async def session(self) -> Session:
        """Log in and return the session."""
        answer = await self.finish(await self.begin())
        assert header(answer, "location") == f"https://{HOST}/page"
        found = self.sessions.found(self.request("/"), HOST)
        assert found is not None
        assert LOGIN_COOKIE not in self.cookies
        return found

    async def current(self, session: Session) -> Session | None:
        """Return a session as it is by now."""
        return await self.renewals.current(self.issuer.ctx, self.rules, session)

    def asked(self) -> int:
        """How often Kanidm's token endpoint was asked."""
        return sum(path == "/oauth2/token" for _, path in self.kanidm.calls)


def aged(session: Session, seconds: float, **change: Any) -> Session:
    """Return a session as if Kanidm had last been asked about it so long ago."""
    return replace(session, checked=int(time.time() - seconds), **change)
