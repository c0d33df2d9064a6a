"""Sends the recorded sequence of requests to a server and records the exchanges, in the form of the recordings."""

import base64
import hashlib
import re
import secrets
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx

from .servers import Server

__all__ = ["CALLBACK", "PASSWORD", "Recorder", "replay"]

CALLBACK = "https://mail.example.com/callback"
PASSWORD = "correct-horse-battery-9x"
_ALL_SCOPES = "openid profile email groups"


class Recorder:
    """Talks to one server; every request gets a label and is kept with its answer."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.exchanges: list[dict[str, Any]] = []
        self._client = server.client()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def reconnect(self) -> None:
        """Use new connections, after the server was restarted."""
        await self._client.aclose()
        self._client = self.server.client()

    async def send(self, label: str, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request (httpx's options; `cookies` as a dict) and record it under `label`."""
        headers = dict(options.pop("headers", {}))
        cookies = options.pop("cookies", None)
        if cookies:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        response = await self._client.request(method, path, headers=headers, **options)
        self._client.cookies.clear()
        self.exchanges.append(
            {
                "label": label,
                "method": method,
                "url": str(response.request.url),
                "status": response.status_code,
                "headers": response.headers.multi_items(),
                "body": response.text,
            }
        )
        return response


def set_cookies(response: httpx.Response) -> dict[str, str]:
    """The cookies that an answer sets, without those that it removes."""
    pairs = (value.split(";")[0].partition("=") for name, value in response.headers.multi_items() if name == "set-cookie")
    return {name: value for name, _, value in pairs if value}


def pkce() -> tuple[str, str]:
    """A verifier and its S256 challenge (RFC 7636)."""
    verifier = secrets.token_urlsafe(48)
    digest = hashlib.sha256(verifier.encode()).digest()
    return verifier, base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


async def replay(server: Server) -> list[dict[str, Any]]:
    """Do everything that was recorded, in the same order; the server must be fresh and is restarted on the way."""
    recorder = Recorder(server)
    try:
        bearer = await _admin_login(recorder)
        secret = await _provision(recorder, bearer)
        await _credentials(recorder, bearer)
        await _plain_routes(recorder)
        await _browser_flow(recorder, secret)
    finally:
        await recorder.aclose()
    return recorder.exchanges


async def _admin_login(recorder: Recorder) -> dict[str, str]:
    password = await recorder.server.recover("idm_admin")
    await recorder.send("status", "GET", "/status")
    step: dict[str, Any] = {"init2": {"username": "idm_admin", "issue": "token", "privileged": True}}
    answer = await recorder.send("auth-init", "POST", "/v1/auth", json={"step": step})
    session = {"x-kanidm-auth-session-id": answer.headers["x-kanidm-auth-session-id"]}
    await recorder.send("auth-begin", "POST", "/v1/auth", json={"step": {"begin": "password"}}, headers=session)
    step = {"cred": {"password": password}}
    answer = await recorder.send("auth-cred", "POST", "/v1/auth", json={"step": step}, headers=session)
    return {"authorization": f"Bearer {answer.json()['state']['success']}"}


async def _provision(recorder: Recorder, bearer: dict[str, str]) -> str:
    async def post(path: str, body: Any, label: str = "") -> None:
        await recorder.send(label or f"POST {path}", "POST", path, json=body, headers=bearer)

    person = {"name": ["alice"], "displayname": ["Alice Example"]}
    await post("/v1/person", {"attrs": {**person, "mail": ["alice@example.com"]}})
    await post("/v1/person", {"attrs": person}, "duplicate person")
    await post("/v1/group", {"attrs": {"name": ["mail_users"]}})
    await post("/v1/group/mail_users/_attr/member", ["alice"])
    strict = {"oauth2_strict_redirect_uri": ["true"]}
    mail = {"name": ["kiwi-mail"], "displayname": ["Mail"], "oauth2_rs_origin_landing": ["https://mail.example.com/"]}
    await post("/v1/oauth2/_basic", {"attrs": {**mail, **strict}})
    await post("/v1/oauth2/kiwi-mail/_attr/oauth2_rs_origin", [CALLBACK])
    await post("/v1/oauth2/kiwi-mail/_scopemap/mail_users", _ALL_SCOPES.split())
    app = {"name": ["kiwi-pub"], "displayname": ["Pub"], "oauth2_rs_origin_landing": ["https://app.example.com/callback"]}
    await post("/v1/oauth2/_public", {"attrs": {**app, **strict}})
    await post("/v1/oauth2/kiwi-pub/_scopemap/mail_users", _ALL_SCOPES.split())
    answer = await recorder.send("basic secret", "GET", "/v1/oauth2/kiwi-mail/_basic_secret", headers=bearer)
    await recorder.send("get rs", "GET", "/v1/oauth2/kiwi-mail", headers=bearer)
    await recorder.send("get missing", "GET", "/v1/oauth2/missing", headers=bearer)
    await recorder.send("get person", "GET", "/v1/person/alice", headers=bearer)
    return str(answer.json())


async def _credentials(recorder: Recorder, bearer: dict[str, str]) -> None:
    policy = "/v1/group/idm_all_persons/_attr/credential_type_minimum"
    await recorder.send("cred type any", "PUT", policy, json=["any"], headers=bearer)
    answer = await recorder.send("intent", "GET", "/v1/person/alice/_credential/_update_intent/3600", headers=bearer)
    intent = answer.json()["token"]
    session = (await recorder.send("exchange", "POST", "/v1/credential/_exchange_intent", json=intent)).json()[0]
    await recorder.send("update pw", "POST", "/v1/credential/_update", json=[{"password": PASSWORD}, session])
    await recorder.send("commit", "POST", "/v1/credential/_commit", json=session)


async def _plain_routes(recorder: Recorder) -> None:
    client = "/oauth2/openid/kiwi-mail"
    await recorder.send("native discovery", "GET", f"{client}/.well-known/openid-configuration")
    await recorder.send("native jwks", "GET", f"{client}/public_key.jwk")
    await recorder.send("unknown client discovery", "GET", "/oauth2/openid/nope/.well-known/openid-configuration")
    free = ("/.well-known/openid-configuration", "/oauth2/authorize", "/oauth2/userinfo", "/oauth2/keys")
    others = ("/oauth2/token", "/", "/ui", "/robots.txt", "/.well-known/change-password", "/nope")
    for path in (*free, *others):
        await recorder.send(f"GET {path}", "GET", path)


async def _browser_flow(recorder: Recorder, secret: str) -> None:
    verifier, challenge = pkce()
    query = {
        "response_type": "code",
        "client_id": "kiwi-mail",
        "redirect_uri": CALLBACK,
        "scope": _ALL_SCOPES,
        "state": "st1",
        "nonce": "n1",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    authorize = f"/ui/oauth2?{urlencode(query)}"
    jar = set_cookies(await recorder.send("authorize page", "GET", authorize))
    jar |= set_cookies(await recorder.send("login begin", "POST", "/ui/login/begin", data={"username": "alice"}, cookies=jar))
    answer = await recorder.send("login pw", "POST", "/ui/login/pw", data={"password": PASSWORD}, cookies=jar)
    session = {"bearer": set_cookies(answer)["bearer"]}
    page = await recorder.send("resume", "GET", "/ui/oauth2/resume", cookies={**jar, **session})
    found = re.search(r'name="consent_token" value="([^"]+)"', page.text)
    assert found, page.text
    consent = {"consent_token": found[1]}
    answer = await recorder.send("consent", "POST", "/ui/oauth2/consent", data=consent, cookies=session)
    code = dict(parse_qsl(urlsplit(answer.headers["location"]).query))["code"]
    access = await _token_requests(recorder, secret, code, verifier)
    await _bad_requests(recorder, query, session)
    await recorder.server.restart()
    await recorder.reconnect()
    await recorder.send("session after restart", "GET", authorize, cookies=session)
    userinfo = "/oauth2/openid/kiwi-mail/userinfo"
    await recorder.send("userinfo after restart", "GET", userinfo, headers={"authorization": f"Bearer {access}"})


async def _token_requests(recorder: Recorder, secret: str, code: str, verifier: str) -> str:
    """Everything at and around the token endpoint; returns the access token that was revoked."""
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": verifier}
    basic = ("kiwi-mail", secret)

    async def post(label: str, data: dict[str, str], auth: tuple[str, str] | None = basic, path: str = "") -> httpx.Response:
        options: dict[str, Any] = {"data": data} | ({"auth": auth} if auth else {})
        return await recorder.send(label, "POST", f"/oauth2/token{path}", **options)

    tokens = (await post("token basic", form)).json()
    await post("token code reuse", form)
    await post("token post auth reuse", {**form, "client_id": "kiwi-mail", "client_secret": secret}, auth=None)
    await post("token no secret", {**form, "client_id": "kiwi-mail"}, auth=None)
    await post("token bad secret", form, auth=("kiwi-mail", "bad"))
    await post("token unknown client", form, auth=("nope", "bad"))
    await post("token bad verifier", {**form, "code_verifier": "x" * 43})
    await post("token bad code", {**form, "code": "junk"})
    await post("token bad redirect", {**form, "redirect_uri": "https://evil.example/"})
    await post("token bad grant", {"grant_type": "password"})
    json_type = {"content-type": "application/json"}
    await recorder.send("token json body", "POST", "/oauth2/token", content=b"junk", headers=json_type)
    userinfo = "/oauth2/openid/kiwi-mail/userinfo"
    access = tokens["access_token"]
    await recorder.send("userinfo", "GET", userinfo, headers={"authorization": f"Bearer {access}"})
    await recorder.send("userinfo junk", "GET", userinfo, headers={"authorization": "Bearer junk"})
    await recorder.send("userinfo none", "GET", userinfo)
    await post("introspect", {"token": access}, path="/introspect")
    await post("introspect junk", {"token": "junk"}, path="/introspect")
    await post("refresh", {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]})
    await post("revoke", {"token": access}, path="/revoke")
    await post("introspect revoked", {"token": access}, path="/introspect")
    await post("client creds", {"grant_type": "client_credentials", "scope": "openid"})
    return str(access)


async def _bad_requests(recorder: Recorder, query: dict[str, str], session: dict[str, str]) -> None:
    def without(*names: str) -> dict[str, str]:
        return {name: value for name, value in query.items() if name not in names}

    for label, changed in (
        ("no_state", without("state")),
        ("no_scope", without("scope")),
        ("ui_locales", {**query, "ui_locales": "en"}),
        ("form_post", {**query, "response_mode": "form_post"}),
        ("bad_redirect", {**query, "redirect_uri": "https://evil.example/"}),
        ("unknown_client", {**query, "client_id": "nope"}),
        ("bad_scope", {**query, "scope": "openid offline_access"}),
        ("no_pkce", without("code_challenge", "code_challenge_method")),
        ("prompt_none", {**query, "prompt": "none"}),
        ("token_type", {**query, "response_type": "token"}),
    ):
        path = f"/ui/oauth2?{urlencode(changed)}"
        await recorder.send(f"authz {label} (no session)", "GET", path)
        await recorder.send(f"authz {label} (session)", "GET", path, cookies=session)
