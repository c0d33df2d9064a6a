"""The load: people who log in, programs that read and write, relying parties that refresh. Each goes on for ever."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import trio

from kiwi_id import demo
from kiwi_id.kanidm.rest import Kanidm, KanidmRefused, KanidmUnreachable
from tests.faults.tally import Anew, Lost, Tally, Uncertain
from tests.faults.wire import Client

VERIFIER = "soak-verifier-of-sufficient-length-0123456789abcdef"
CHALLENGE = "RpLVecD6fJcSC8kwFafjxgHTfd4HdQRPmyMgKYAkzfc"
_AGAIN = 0.05
# The session of an administrator may write for ten minutes (Kanidm's default policy); a new one is begun well before.
_PRIVILEGED = 240.0


@dataclass
class Setting:
    """Where the load goes: the front's port, the confidential client, and an administrator's way in."""

    port: int
    client_id: str
    secret: str
    admin_password: str
    tally: Tally
    pace: float
    names: Iterator[str]

    @property
    def basic(self) -> tuple[tuple[str, str]]:
        """The client's credentials."""
        pair = base64.b64encode(f"{self.client_id}:{self.secret}".encode()).decode()
        return (("authorization", f"Basic {pair}"),)


async def for_ever(client: Client, what: Callable[[], Awaitable[None]], pause: float) -> None:
    """Do it again and again; what went wrong has been counted. Closes the client's connection at the end."""
    try:
        while True:
            with suppress(Uncertain, Anew, Lost):
                await what()
            await trio.sleep(pause)
    finally:
        client.close()


async def log_in(setting: Setting, client: Client, user: demo.DemoUser) -> dict[str, Any]:
    """Do a whole login in a browser that has no session yet; return the tokens. Raises Uncertain, Anew, Lost."""
    tally, since = setting.tally, setting.tally.lives
    client.cookies.clear()
    query = {
        "response_type": "code",
        "client_id": setting.client_id,
        "redirect_uri": demo.REDIRECT_URI,
        "scope": "openid profile email groups",
        "state": "soak",
        "nonce": "soak",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    }

    async def step(kind: str, method: str, target: str, expected: tuple[int, ...], form: dict[str, str] | None = None) -> Any:
        return await tally.ask(kind, client, method, target, expected, since=since, form=form)

    answer = await step("authorize", "GET", "/oauth2/authorize?" + urlencode(query), (302, 303))
    await step("login page", "GET", answer.location, (200,))
    await step("name", "POST", "/ui/login/begin", (200,), {"username": user.name, "password": "", "totp": ""})
    answer = await step("password", "POST", "/ui/login/pw", (303,), {"password": user.password})
    answer = await step("resume", "GET", answer.location, (200, 302, 303))
    if answer.status == 200:
        token = re.search(rb'name="consent_token"\s+value="([^"]+)"', answer.body)
        if token is None:
            raise _unlike(tally, "resume", since)
        answer = await step("consent", "POST", "/ui/oauth2/consent", (302, 303), {"consent_token": token[1].decode()})
    code = parse_qs(urlsplit(answer.location).query).get("code")
    if not code:
        raise _unlike(tally, "resume", since)
    form = {
        "grant_type": "authorization_code",
        "code": code[0],
        "redirect_uri": demo.REDIRECT_URI,
        "code_verifier": VERIFIER,
    }
    # A code outlives kanidmd, and so do sessions: from here on nothing has to begin anew.
    answer = await tally.ask("token", client, "POST", "/oauth2/token", headers=setting.basic, form=form)
    tokens: dict[str, Any] = json.loads(answer.body)
    bearer = (("authorization", f"Bearer {tokens['access_token']}"),)
    answer = await tally.ask("userinfo", client, "GET", "/oauth2/userinfo", headers=bearer)
    if b'"sub"' not in answer.body:
        tally.note("userinfo", "lost", repr(answer.body[:200]))
        raise Lost
    return tokens


def _unlike(tally: Tally, kind: str, since: int) -> Exception:
    """Return what a page is that should have been another: the login begun anew, or a loss."""
    if since != tally.lives:
        tally.note(kind, "anew")
        return Anew()
    tally.note(kind, "lost", "another page than expected")
    return Lost()


async def logins(setting: Setting, user: demo.DemoUser) -> None:
    """Log in, again and again."""
    client = Client(setting.port)

    async def one() -> None:
        await log_in(setting, client, user)
        setting.tally.note("whole login", "ok")
        await setting.tally.ask("logout", client, "GET", "/ui/logout", (200, 302, 303))

    await for_ever(client, one, setting.pace)


async def refreshes(setting: Setting, user: demo.DemoUser) -> None:
    """Keep one session alive by refreshing its tokens, as a relying party does: what is uncertain is asked once more."""
    client, tokens = Client(setting.port), dict[str, Any]()

    async def ask(since: int | None) -> None:
        form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        answer = await setting.tally.ask("refresh", client, "POST", "/oauth2/token", since=since, headers=setting.basic, form=form)
        tokens.update(json.loads(answer.body))

    async def one() -> None:
        if not tokens:
            tokens.update(await log_in(setting, client, user))
        try:
            await ask(None)
        except Uncertain:
            try:
                # It may have been used up: then Kanidm takes it for stolen, ends the session, and the person logs in again.
                answer = await client.ask(
                    "POST",
                    "/oauth2/token",
                    headers=setting.basic,
                    form={"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]},
                )
            except Exception:
                tokens.clear()
                raise
            tokens.clear()
            if answer.status == 200:
                tokens.update(json.loads(answer.body))
            setting.tally.note("refresh after an uncertain one", "ok" if tokens else "anew")
        except Lost:
            tokens.clear()
            raise

    await for_ever(client, one, setting.pace)


async def early_answers(setting: Setting) -> None:
    """Post what kanidmd answers as soon as it has seen the head, and then closes: the answer must come, and no 502.

    A few go down with kanidmd's own connection, which it closes with the body unread.
    """
    client = Client(setting.port)

    async def one() -> None:
        await setting.tally.ask("early answer", client, "POST", "/v1/none", (404,), body="x" * 60000)

    await for_ever(client, one, setting.pace)


class Administrator:
    """A session that may write; begun anew before it grows old. Not counted: it is a means of the load, not the load."""

    def __init__(self, setting: Setting, url: str, context: Any) -> None:
        self._setting, self._url, self._context = setting, url, context
        self._token, self._until = "", 0.0
        self._one_at_a_time = trio.Lock()

    async def bearer(self) -> tuple[tuple[str, str]]:
        """Return the header of a session that may write now."""
        async with self._one_at_a_time:
            while trio.current_time() > self._until:
                with suppress(KanidmRefused, KanidmUnreachable):
                    async with Kanidm(self._url, self._context) as kanidm:
                        self._token = await kanidm.login("idm_admin", self._setting.admin_password)
                        self._until = trio.current_time() + _PRIVILEGED
                        break
                await trio.sleep(_AGAIN)
        return (("authorization", f"Bearer {self._token}"),)


async def reads(setting: Setting, administrator: Administrator) -> None:
    """Read over REST."""
    client, paths = Client(setting.port), ("/v1/person/alice", "/v1/self", "/status", "/v1/group/kiwi_users")
    number = 0

    async def one() -> None:
        nonlocal number
        number += 1
        path = paths[number % len(paths)]
        await setting.tally.ask("read", client, "GET", path, headers=await administrator.bearer())

    await for_ever(client, one, setting.pace / 10)


async def writes(setting: Setting, administrator: Administrator) -> None:
    """Create groups of unique names and remove them again. One that is there already has been created twice."""
    client = Client(setting.port)

    async def one() -> None:
        name = next(setting.names)
        headers = (*await administrator.bearer(), ("x-request-id", f"create-{name}"))
        create = {"attrs": {"name": [name]}}
        try:
            answer = await setting.tally.ask(
                "create", client, "POST", "/v1/group", (200, 400, 409, 500), headers=headers, body=create
            )
            if answer.status != 200:
                duplicate = any(word in answer.body.lower() for word in (b"attrunique", b"uniqueness", b"duplicate", b"unique"))
                setting.tally.duplicates += duplicate
                setting.tally.note("create", "lost", f"{answer.status} {answer.body[:200]!r}")
        except Uncertain:
            answer = await setting.tally.ask("look", client, "GET", f"/v1/group/{name}", headers=headers[:1])
            done = answer.body not in (b"", b"null")
            setting.tally.note("an uncertain create had been done" if done else "an uncertain create had not been done", "ok")
            if not done:
                return
        with suppress(Uncertain):
            remove = (headers[0], ("x-request-id", f"remove-{name}"))
            await setting.tally.ask("remove", client, "DELETE", f"/v1/group/{name}", headers=remove)

    await for_ever(client, one, setting.pace / 2)
