"""An access token of a demo user, got as every client gets one: by a login at a running ``kiwi-id dev`` with the demo's password.

Nothing is signed here, and no key is read. So what this can get is what whoever reads the demo's printed passwords could get in a
browser, and against any other instance it gets nothing; that such instances are refused beforehand only makes it plain.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import trio

from kiwi_id import config, control, demo
from kiwi_id.errors import ChildUnavailable, ConfigError, Exit, KiwiError, Problem
from kiwi_id.instance import layout
from kiwi_id.instance.trial import Trial
from kiwi_id.issuer.encoding import s256
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.oauth2 import Denied, Granted, Header, NeedsConsent, OAuth2
from kiwi_id.kanidm.pin import client_context
from kiwi_id.kanidm.reach import is_loopback
from kiwi_id.kanidm.rest import Kanidm, LoginDenied

CLIENT_ID = "kiwi-demo-public"
REDIRECT_URI = "http://localhost/callback"
SECONDS = 60.0


class LoginFailed(KiwiError):
    """The instance runs, but gives this user no token. Exit code 1."""

    exit_code = Exit.FAILURE


@dataclass(frozen=True, slots=True)
class Made:
    """A token, and what a service needs to check it: ``public_key`` is the file of the key. ``expires_in`` in seconds."""

    token: str = field(repr=False)
    expires_in: int
    scope: str
    user: str
    client_id: str
    issuer: str
    public_key: str

    def as_dict(self) -> dict[str, Any]:
        """Return everything, the token as ``access_token`` as in RFC 6749 §5.1."""
        members = asdict(self)
        return {"access_token": members.pop("token"), "token_type": "Bearer", **members}


def access_token(directory: Path | None, user: str, scope: str | None) -> Made:
    """Return a token of the demo's ``user`` from the ``kiwi-id dev`` in ``directory`` (None: the one that runs).

    Raises ConfigError when that is no dev instance, ChildUnavailable or KanidmUnreachable when none runs, LoginFailed.
    """
    person = next((person for person in demo.USERS if person.name == user), None)
    if person is None:
        known = ", ".join(person.name for person in demo.USERS)
        raise ConfigError([Problem("--user", "", user, known, "Tokens of others come from their own login.")])
    instance = _instance(directory if directory is not None else _running())
    scopes = scope or " ".join(demo.SCOPES)
    try:
        answer = trio.run(_log_in, instance, person, scopes)
    except (httpx.TransportError, trio.TooSlowError) as error:
        raise ChildUnavailable(f"{instance.front}: no answer ({type(error).__name__})") from None
    return Made(
        answer["access_token"],
        answer["expires_in"],
        answer["scope"],
        person.name,
        CLIENT_ID,
        instance.config.issuer or instance.server.origin,
        str(instance.config.jwt_public_key),
    )


def _running() -> Path:
    """Return the directory of the one ``kiwi-id dev`` of this user that runs in a temporary directory."""
    found = []
    for root in sorted(Path(tempfile.gettempdir()).glob("kiwi-dev-*")):
        try:
            if root.stat().st_uid != os.getuid():  # /tmp is everybody's: somebody else's is none of ours
                continue
            control.call(config.load(layout.Places.under(root).config).control_socket, "status", timeout=10)
        except (OSError, KiwiError):  # being removed, or left by one that was killed
            continue
        found.append(root)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(map(str, found))
        raise ConfigError([Problem("--dir", "", f"{len(found)} that run: {names}", "one of them", "Say which by --dir DIR.")])
    raise ChildUnavailable(
        "no 'kiwi-id dev' of yours runs with a temporary directory. Start one in another terminal, or name a kept one by --dir DIR."
    )


def _instance(root: Path) -> Trial:
    """Return the instance under ``root``. Raises ConfigError for one that others than this machine could rely on."""
    settings = config.load(layout.Places.under(root.absolute()).config)
    server = server_toml.load(settings.upstream_config)
    problems = []
    fix = "This is not an instance of 'kiwi-id dev'. Its users get their tokens by logging in; nobody else can have them."
    if server.domain != "localhost":
        problems.append(Problem(str(server.path), "domain", server.domain, "localhost", fix))
    if not is_loopback(settings.listen_addr.host):
        found = f"{settings.listen_addr}, which others can reach"
        problems.append(Problem(str(settings.path), "listen_addr", found, "a loopback address", fix))
    if problems:
        raise ConfigError(problems)
    return Trial(root, settings, server, stand_in=False)


async def _log_in(instance: Trial, person: demo.DemoUser, scope: str) -> dict[str, Any]:
    """Go through login, consent and the code flow with PKCE; return the token response."""
    context = client_context(instance.certificate)
    with trio.fail_after(SECONDS):
        async with Kanidm(instance.front, context) as kanidm:
            try:
                session = await kanidm.login(person.name, person.password)
            except LoginDenied as error:
                raise LoginFailed(
                    f"{error} Either this is no 'kiwi-id dev', or the password of '{person.name}' was changed."
                ) from None
        async with httpx.AsyncClient(base_url=instance.front, verify=context, timeout=SECONDS, trust_env=False) as http:
            return await _code_flow(http, session, scope)


async def _code_flow(http: httpx.AsyncClient, session: str, scope: str) -> dict[str, Any]:
    verifier, state = secrets.token_urlsafe(32), secrets.token_urlsafe(16)
    request = {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": REDIRECT_URI,
        "scope": scope,
        "state": state,
        "code_challenge": s256(verifier),
        "code_challenge_method": "S256",
    }
    await _consent(http, session, request)
    answer = await http.get("/oauth2/authorize", params=request, headers={"cookie": f"bearer={session}"})
    back = parse_qs(urlsplit(answer.headers.get("location", "")).query)
    if back.get("state") != [state] or "code" not in back:
        why = back.get("error_description", [f"status {answer.status_code}"])[0]
        raise LoginFailed(f"the authorization endpoint gave no code: {why}")
    form = {"grant_type": "authorization_code", "client_id": CLIENT_ID, "redirect_uri": REDIRECT_URI}
    answer = await http.post("/oauth2/token", data={**form, "code": back["code"][0], "code_verifier": verifier})
    if answer.status_code != 200:
        raise LoginFailed(f"the token endpoint gave no token: status {answer.status_code}")
    content: dict[str, Any] = answer.json()
    return content


async def _consent(http: httpx.AsyncClient, session: str, request: dict[str, str]) -> None:
    """Agree, as the user would on the page at the first time; Kanidm remembers it."""

    async def call(method: str, path: str, headers: list[Header], body: bytes = b"") -> _Answer:
        answer = await http.request(method, path, headers=headers, content=body)
        raw = [(name.lower(), value) for name, value in answer.headers.raw]
        return _Answer(answer.status_code, raw, answer.content)

    oauth2 = OAuth2(call)
    result = await oauth2.authorise(request, session)
    if isinstance(result, NeedsConsent):
        result = await oauth2.permit(result.token, session)
    if isinstance(result, Denied):
        allowed = " ".join(demo.SCOPES)
        raise LoginFailed(f"this user may not have all of these scopes: {request['scope']}; the demo has: {allowed}")
    if not isinstance(result, Granted):
        raise LoginFailed(
            f"Kanidm takes no such request: either there is no client '{CLIENT_ID}', and this is no 'kiwi-id dev', or this is no "
            f"list of scopes: {request['scope']}"
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer, as :class:`OAuth2` reads one."""

    status: int
    headers: list[Header]
    body: bytes = field(repr=False)

    def header(self, name: bytes) -> bytes:
        """Return the first header of that name, or nothing."""
        return next((value for key, value in self.headers if key == name), b"")
