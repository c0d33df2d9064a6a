"""Logging in: second factor, policy, locked accounts, rights; over the stand-in and the real kanidmd 1.5.0."""

import base64
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import trio

from kiwi_id.devserver.crypto import totp

from .client import CHALLENGE, REDIRECT, Kanidm, parameters
from .servers import Server


class Browser(HTMLParser):
    """Follows redirects within the server, keeps cookies, and fills in the one form of a page."""

    def __init__(self, client: Kanidm) -> None:
        super().__init__()
        self._http = client.http
        self._cookies: dict[str, str] = {}
        self.action = ""
        self.fields: dict[str, str] = {}
        self.page = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form":
            self.action = found.get("action") or ""
        elif tag == "input" and found.get("name") and found.get("type") != "checkbox":
            self.fields[str(found["name"])] = found.get("value") or ""

    async def go(self, method: str, path: str, data: dict[str, str] | None = None, **options: Any) -> httpx.Response:
        """Request a page; an answer that leaves the server is returned, not followed."""
        headers = {"cookie": "; ".join(f"{name}={value}" for name, value in self._cookies.items())}
        answer = await self._http.request(method, path, data=data, headers=headers, **options)
        for name, header in answer.headers.multi_items():
            if name == "set-cookie":
                cookie, _, value = header.split(";")[0].partition("=")
                self._cookies[cookie] = value
                if not value:
                    del self._cookies[cookie]
        self._http.cookies.clear()
        location = answer.headers.get("location", "")
        if location.startswith("/"):
            return await self.go("GET", location)
        self.page, self.action, self.fields = answer.text, "", {}
        if "html" in answer.headers.get("content-type", ""):
            self.feed(answer.text)
        return answer

    async def submit(self, **values: str) -> httpx.Response:
        """Send the page's form, with these fields filled in."""
        assert set(values) <= set(self.fields), self.page
        return await self.go("POST", self.action, self.fields | values)


async def register_totp(client: Kanidm, name: str) -> bytes:
    """Give a person a password and a second factor; returns the factor's secret."""
    session = await client.credential_session(name)
    await client.do("POST", "/v1/credential/_update", [{"password": client.password}, session])
    status = await client.do("POST", "/v1/credential/_update", ["totpgenerate", session])
    secret = bytes(status["mfaregstate"]["TotpCheck"]["secret"])
    code = totp(secret, time.time())
    status = await client.do("POST", "/v1/credential/_update", [{"totpverify": [code, "phone"]}, session])
    assert status["primary"]["type_"] == {"PasswordMfa": [["phone"], [], 0]}
    await client.do("POST", "/v1/credential/_commit", session)
    return secret


async def test_browser_logs_in_with_password(kanidm: Server) -> None:
    """From the application's link over login and consent back to the application, by the pages' own forms."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        browser = Browser(client)
        query = {"response_type": "code", "client_id": "mail", "redirect_uri": REDIRECT, "scope": "openid", "state": "s1"}
        query |= {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
        await browser.go("GET", "/ui/oauth2", params=query)
        assert "Authenticate to access Mail" in browser.page
        await browser.submit(username="alice")
        await browser.submit(password=client.password)
        answer = await browser.submit()
        assert (answer.status_code, parameters(answer)["state"]) == (303, "s1")
        assert (await client.exchange(parameters(answer)["code"])).status_code == 200
        assert "Mail" in (await browser.go("GET", "/ui/apps")).text
        assert "Login" in (await browser.go("GET", "/ui/logout")).text


async def test_browser_logs_in_with_second_factor(kanidm: Server) -> None:
    """With TOTP the code is asked for first, then the password; a code with letters is asked for again."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        secret = await register_totp(client, "alice")
        browser = Browser(client)
        await browser.go("GET", "/ui/login")
        await browser.submit(username="alice")
        await browser.submit(totp="abc")
        assert browser.action == "/ui/login/totp"
        await browser.submit(totp=f"{totp(secret, time.time()):06}")
        assert browser.action == "/ui/login/pw"
        answer = await browser.submit(password=client.password)
        assert (answer.status_code, "Applications" in browser.page) == (200, True)


async def test_wrong_password_and_unknown_name(kanidm: Server) -> None:
    """The page says what went wrong, and after a wrong password the account rests for a moment."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        browser = Browser(client)
        await browser.go("GET", "/ui/login")
        await browser.submit(username="nobody")
        assert "Invalid username" in browser.page
        await browser.submit(username="alice")
        await browser.submit(password="wrong")
        assert "incorrect password" in browser.page
        with pytest.raises(AssertionError, match="Account is temporarily locked"):
            await client.login("alice", client.password)
        with trio.fail_after(10):
            assert await eventually(client)


async def eventually(client: Kanidm) -> str:
    """Log in as alice as soon as the account's rest is over."""
    while True:
        try:
            return await client.login("alice", client.password)
        except AssertionError:
            await trio.sleep(0.1)


async def test_second_factor_by_the_api(kanidm: Server) -> None:
    """`passwordmfa` asks for TOTP and then the password; a wrong code ends the login."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        secret = await register_totp(client, "alice")
        code = totp(secret, time.time())
        assert await client.login("alice", client.password, totp=code)
        with pytest.raises(AssertionError, match="incorrect totp"):
            await client.login("alice", client.password, totp=(code + 1) % 10**6)


async def test_policy_asks_for_a_second_factor(kanidm: Server) -> None:
    """Fresh installs refuse a password alone; with TOTP, or once the policy is lifted, it can be committed."""
    async with Kanidm(kanidm) as client:
        await client.admin_login()
        await client.do("POST", "/v1/person", {"attrs": {"name": ["bob"], "displayname": ["Bob"]}})
        session = await client.credential_session("bob")
        for bad in ("short", "password"):
            answer = await client.http.post("/v1/credential/_update", json=[{"password": bad}, session])
            assert (answer.status_code, "passwordquality" in answer.json()) == (400, True)
        status = await client.do("POST", "/v1/credential/_update", [{"password": client.password}, session])
        assert (status["can_commit"], status["warnings"]) == (False, ["MfaRequired"])
        answer = await client.http.post("/v1/credential/_commit", json=session)
        assert (answer.status_code, answer.json()) == (500, "cu0004sessioninconsistent")
        await register_totp(client, "bob")


async def test_rights_of_sessions(kanidm: Server) -> None:
    """A person cannot write; a session without privilege cannot either, until it is raised by /v1/reauth."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        body = {"attrs": {"name": ["new"], "displayname": ["New"]}}
        alice = await client.login("alice", client.password, privileged=True)
        answer = await client.http.post("/v1/person", json=body, headers={"authorization": f"Bearer {alice}"})
        assert (answer.status_code, answer.json()) == (403, "accessdenied")
        await client.do("POST", "/v1/group/idm_admins/_attr/member", ["alice"])
        headers = {"authorization": f"Bearer {await client.login('alice', client.password)}"}
        answer = await client.http.post("/v1/person", json=body, headers=headers)
        assert answer.status_code == 403
        with trio.fail_after(10):
            # The real server writes a new session down a moment after the login has answered.
            while (answer := await client.http.post("/v1/reauth", json="token", headers=headers)).status_code != 200:  # noqa: ASYNC110 - another process
                await trio.sleep(0.05)
        assert answer.json()["state"] == {"continue": ["password"]}
        session = {"x-kanidm-auth-session-id": answer.headers["x-kanidm-auth-session-id"]}
        step = {"step": {"cred": {"password": client.password}}}
        raised = (await client.http.post("/v1/auth", json=step, headers=session)).json()["state"]["success"]
        client.http.cookies.clear()
        before = jwt.decode(headers["authorization"].split()[1], options={"verify_signature": False})
        after = jwt.decode(raised, options={"verify_signature": False})
        assert before["session_id"] == after["session_id"]
        answer = await client.http.post("/v1/person", json=body, headers={"authorization": f"Bearer {raised}"})
        assert answer.status_code == 200


async def test_api_tokens(kanidm: Server) -> None:
    """A service account's token logs it in, and may do what the account may do; a deleted one is gone from the list."""
    async with Kanidm(kanidm) as client:
        await client.admin_login()
        service = {"name": ["robot"], "displayname": ["Robot"], "entry_managed_by": ["idm_admins"]}
        await client.do("POST", "/v1/service_account", {"attrs": service})
        path = "/v1/service_account/robot/_api_token"
        token = await client.do("POST", path, {"label": "t", "expiry": None, "read_write": True})
        headers = {"authorization": f"Bearer {token}"}
        whoami = await client.http.get("/v1/self", headers=headers)
        assert whoami.json()["youare"]["attrs"]["name"] == ["robot"]
        body = {"attrs": {"name": ["new"], "displayname": ["New"]}}
        assert (await client.http.post("/v1/person", json=body, headers=headers)).status_code == 403
        listed = await client.do("GET", path)
        assert [entry["label"] for entry in listed] == ["t"]
        await client.do("DELETE", f"{path}/{listed[0]['token_id']}")
        assert await client.do("GET", path) == []


async def test_anonymous(kanidm: Server) -> None:
    """Anyone may be anonymous: reading what is public, and no OAuth2."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        step: dict[str, Any] = {"init2": {"username": "anonymous", "issue": "token"}}
        answer = await client.http.post("/v1/auth", json={"step": step})
        session = {"x-kanidm-auth-session-id": answer.headers["x-kanidm-auth-session-id"]}
        for step in ({"begin": "anonymous"}, {"cred": "anonymous"}):
            answer = await client.http.post("/v1/auth", json={"step": step}, headers=session)
        client.http.cookies.clear()
        bearer = answer.json()["state"]["success"]
        assert (await client.authorise(bearer)).status_code == 403
        alice = await client.http.get("/v1/person/alice", headers={"authorization": f"Bearer {bearer}"})
        assert "mail" not in alice.json()["attrs"]


async def test_how_a_session_is_presented(kanidm: Server) -> None:
    """The scheme's case does not matter, any Authorization header hides the cookie, and a deleted account is 404."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        bearer = await client.login("alice", client.password)
        cookie = {"cookie": f"bearer={bearer}"}
        for headers, status in (
            ({"authorization": f"bearer {bearer}"}, 200),
            (cookie, 200),
            ({**cookie, "authorization": "Basic eDp5"}, 401),
            ({"authorization": "Bearer junk"}, 401),
        ):
            assert (await client.http.get("/v1/self", headers=headers)).status_code == status
        await client.do("DELETE", "/v1/person/alice")
        assert (await client.http.get("/v1/self", headers=cookie)).status_code == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/self", 400), ("/ui/login", 400), ("/ui", 308), ("/", 303), ("/status", 200), ("/oauth2/openid/x/public_key.jwk", 404)],
)
async def test_forwarded_for_is_read_where_the_client_matters(directory: Path, path: str, status: int) -> None:
    """With trust_x_forward_for an address that does not parse is 400, but only where Kanidm looks at it."""
    server = Server(directory, settings="trust_x_forward_for = true")
    try:
        await server.start()
        async with server.client() as client:
            for header in ("192.0.2.1:99", "unknown, 192.0.2.1"):
                assert (await client.get(path, headers={"x-forwarded-for": header})).status_code == status
    finally:
        await server.stop()


async def test_reset_link_sets_a_password(running: Server) -> None:
    """A reset link leads to a form; what it refuses is said; the link works once."""
    async with Kanidm(running) as client:
        await client.setup()
        intent = (await client.do("GET", "/v1/person/alice/_credential/_update_intent"))["token"]
        browser = Browser(client)
        await browser.go("GET", "/ui/reset", params={"token": intent})
        await browser.submit(new_password="another-horse-9x", new_password_check="differs")
        assert "differ" in browser.page
        await browser.submit(new_password="short", new_password_check="short")
        assert "too easy" in browser.page
        await browser.submit(new_password="another-horse-9x", new_password_check="another-horse-9x")
        assert "Your new password is set" in browser.page
        await browser.go("GET", "/ui/reset", params={"token": intent})
        assert "was used already" in browser.page
        assert await client.login("alice", "another-horse-9x")


async def test_sessions_are_listed_and_ended(kanidm: Server) -> None:
    """A person sees the own sessions and can end one; to an administrator the list is empty."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        headers = {"authorization": f"Bearer {await client.login('alice', client.password)}"}
        path = "/v1/account/alice/_user_auth_token"
        with trio.fail_after(10):
            while not (listed := (await client.http.get(path, headers=headers)).json()):  # noqa: ASYNC110 - another process
                await trio.sleep(0.05)
        assert sorted(listed[0]) == ["account_id", "issued_at", "purpose", "session_id", "state"]
        assert (list(listed[0]["state"]), listed[0]["purpose"]) == (["expiresat"], "privilegecapable")
        assert await client.do("GET", path) == []
        one = f"{path}/{listed[0]['session_id']}"
        assert (await client.http.delete(one, headers=client.headers)).status_code == 404
        assert (await client.http.delete(one, headers=headers)).status_code == 200
        answer = await client.http.get("/v1/self", headers=headers)
        assert (answer.status_code, answer.json()) == (401, "sessionexpired")


async def test_stand_in_says_what_it_is(running: Server) -> None:
    """Every page of the stand-in carries its notice, and loads nothing that its own policy forbids."""
    async with running.client() as client:
        for path in ("/ui/login", "/ui/reset", "/ui/oauth2/resume"):
            page = (await client.get(path)).text
            assert "Kiwi ID stand-in for Kanidm – for development and tests only" in page
            for link in re.findall(r'(?:href|src)="(/pkg/[^"]+)"', page):
                assert (await client.get(link)).status_code == 200
            assert "<style" not in page
            assert "<script" not in page


def test_totp_of_rfc_6238() -> None:
    """The one-time codes are those of RFC 6238, appendix B, for SHA-256."""
    secret = base64.b32decode(base64.b32encode(b"12345678901234567890123456789012"))
    assert [totp(secret, now, digits=8) for now in (59, 1111111109, 20000000000)] == [46119246, 68084774, 77737706]
