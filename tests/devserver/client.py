"""A small client of Kanidm for the stand-in's tests: an administrator, a person, an OAuth2 client."""

import base64
import hashlib
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import httpx

from .servers import Server

__all__ = ["CHALLENGE", "REDIRECT", "VERIFIER", "Kanidm", "parameters"]

VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
REDIRECT = "https://mail.example.com/callback"


def parameters(response: httpx.Response) -> dict[str, str]:
    """The query parameters of an answer's redirect."""
    return dict(parse_qsl(urlsplit(response.headers["location"]).query))


class Kanidm:
    """Talks to one server; `setup` makes the person alice, who may use the client `mail`."""

    password = "correct-horse-battery-9x"

    def __init__(self, server: Server) -> None:
        self._server = server
        self.http = server.client()
        self.headers: dict[str, str] = {}
        self.secret = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    async def login(self, name: str, password: str, totp: int | None = None, privileged: bool = False) -> str:
        """Log in and return the session token."""
        step: dict[str, Any] = {"init2": {"username": name, "issue": "token", "privileged": privileged}}
        answer = await self.http.post("/v1/auth", json={"step": step})
        session = {"x-kanidm-auth-session-id": answer.headers["x-kanidm-auth-session-id"]}
        steps: list[dict[str, Any]] = [{"begin": answer.json()["state"]["choose"][0]}]
        if totp is not None:
            steps.append({"cred": {"totp": totp}})
        steps.append({"cred": {"password": password}})
        for step in steps:
            answer = await self.http.post("/v1/auth", json={"step": step}, headers=session)
            if "denied" in answer.json()["state"]:
                break
        self.http.cookies.clear()
        state = answer.json()["state"]
        assert "success" in state, state
        return str(state["success"])

    async def admin_login(self) -> None:
        """Recover idm_admin and log in as it."""
        token = await self.login("idm_admin", await self._server.recover("idm_admin"), privileged=True)
        self.headers = {"authorization": f"Bearer {token}"}

    async def do(self, method: str, path: str, body: Any = None) -> Any:
        """One request as administrator, which must succeed; its JSON answer."""
        answer = await self.http.request(method, path, json=body, headers=self.headers)
        assert answer.status_code == 200, (path, answer.text)
        return answer.json()

    async def credential_session(self, name: str) -> Any:
        """Open a credential update session for a person; the token to send with each change."""
        intent = (await self.do("GET", f"/v1/person/{name}/_credential/_update_intent"))["token"]
        return (await self.do("POST", "/v1/credential/_exchange_intent", intent))[0]

    async def setup(self) -> None:
        """Make alice with her password, the group `readers`, and the client `mail` that the group may use."""
        await self.admin_login()
        person = {"name": ["alice"], "displayname": ["Alice"], "mail": ["alice@example.com"]}
        await self.do("POST", "/v1/person", {"attrs": person})
        await self.do("PUT", "/v1/group/idm_all_persons/_attr/credential_type_minimum", ["any"])
        session = await self.credential_session("alice")
        await self.do("POST", "/v1/credential/_update", [{"password": self.password}, session])
        await self.do("POST", "/v1/credential/_commit", session)
        await self.do("POST", "/v1/group", {"attrs": {"name": ["readers"], "member": ["alice"]}})
        client = {"name": ["mail"], "displayname": ["Mail"], "oauth2_rs_origin_landing": [REDIRECT]}
        await self.do("POST", "/v1/oauth2/_basic", {"attrs": {**client, "oauth2_strict_redirect_uri": ["true"]}})
        await self.do("POST", "/v1/oauth2/mail/_scopemap/readers", ["openid", "email", "profile"])
        self.secret = await self.do("GET", "/v1/oauth2/mail/_basic_secret")

    async def authorise(self, bearer: str | None, **changes: str | None) -> httpx.Response:
        """Ask the JSON authorization API; a parameter that is None is left out."""
        query: dict[str, str | None] = {
            "response_type": "code",
            "client_id": "mail",
            "redirect_uri": REDIRECT,
            "scope": "openid",
            "state": "a b&c",
            "nonce": "n1",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            **changes,
        }
        kept = {name: value for name, value in query.items() if value is not None}
        headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
        return await self.http.get("/oauth2/authorise", params=kept, headers=headers)

    async def code(self, bearer: str, **changes: str | None) -> str:
        """A code, with the consent given when it is asked for."""
        answer = await self.authorise(bearer, **changes)
        if answer.status_code == 200:
            ticket = {"token": answer.json()["ConsentRequested"]["consent_token"]}
            headers = {"authorization": f"Bearer {bearer}"}
            answer = await self.http.get("/oauth2/authorise/permit", params=ticket, headers=headers)
        assert answer.status_code == 302, answer.text
        return parameters(answer)["code"]

    async def token(self, **form: str) -> httpx.Response:
        """Ask the token endpoint as the client `mail`."""
        return await self.http.post("/oauth2/token", data=form, auth=("mail", self.secret))

    async def exchange(self, code: str) -> httpx.Response:
        """Exchange a code for tokens."""
        form = {"grant_type": "authorization_code", "redirect_uri": REDIRECT, "code_verifier": VERIFIER}
        return await self.token(code=code, **form)

    async def refresh(self, token: str, **form: str) -> httpx.Response:
        """Exchange a refresh token."""
        if not self.secret:
            self.secret = await self.do("GET", "/v1/oauth2/mail/_basic_secret")
        return await self.token(grant_type="refresh_token", refresh_token=token, **form)

    async def userinfo(self, token: str, client: str = "mail") -> httpx.Response:
        """Ask for the claims of an access token."""
        return await self.http.get(f"/oauth2/openid/{client}/userinfo", headers={"authorization": f"Bearer {token}"})
