"""Typed client of Kanidm's REST API: sign in, create people, groups and OAuth2 clients, set credentials.

Every call is safe to repeat: what exists is left as it is. Paths and bodies are the same from Kanidm 1.5.0 to 1.10.5; where
statuses differ (a duplicate is 500, 400 or 409 by version) we look instead of relying on them. httpx serves here and not in
the proxy, because these calls are rare.
"""

from __future__ import annotations

import base64
import hmac
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import trio

from kiwi_id.errors import Exit, KiwiError

SESSION_HEADER = "x-kanidm-auth-session-id"
Entry = dict[str, list[str]]
"""Attributes of an entry: each name with its values."""


class KanidmUnreachable(KiwiError):
    """No answer from Kanidm: connection, TLS or time. Exit code 69."""

    exit_code = Exit.UNAVAILABLE


class KanidmRefused(KiwiError):
    """Kanidm answered, but not with success; ``status`` is the HTTP status. Exit code 1."""

    exit_code = Exit.FAILURE

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class LoginDenied(KanidmRefused):
    """Wrong name or password, or the account may not sign in by password alone; ``offered`` are the mechanisms it may use."""

    def __init__(self, message: str, offered: Sequence[str] = ()) -> None:
        super().__init__(message, 401)
        self.offered = tuple(offered)


@dataclass(frozen=True, slots=True)
class Totp:
    """A time-based one-time password secret (RFC 6238): raw ``secret``, ``algorithm`` as in hashlib, ``step`` in seconds."""

    secret: bytes
    algorithm: str
    step: int
    digits: int

    def code(self, at: float | None = None) -> str:
        """Return the code for the Unix time ``at`` (default: now), with leading zeros."""
        counter = int((time.time() if at is None else at) // self.step)
        digest = hmac.digest(self.secret, counter.to_bytes(8, "big"), self.algorithm)
        offset = digest[-1] & 15
        number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
        return str(number % 10**self.digits).zfill(self.digits)

    @property
    def base32(self) -> str:
        """The secret as authenticator apps show it."""
        return base64.b32encode(self.secret).decode().rstrip("=")


class Kanidm:
    """A connection to one Kanidm; use as ``async with``. Not signed in until :meth:`login`.

    ``url`` is ``https://host:port`` of kanidmd itself or of a front before it; ``context`` says which certificate is trusted
    (:func:`kiwi_id.kanidm.pin.client_context` for the pinned chain). ``timeout`` seconds bound each call as a whole.
    """

    def __init__(self, url: str, context: ssl.SSLContext, *, timeout: float = 30.0) -> None:
        # trust_env=False: a proxy or CA bundle of somebody's shell must not come between us and the pinned server.
        self._client = httpx.AsyncClient(base_url=url, verify=context, timeout=timeout, trust_env=False)
        self._url, self._timeout = url, timeout

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with trio.move_on_after(2, shield=True):
            await self._client.aclose()

    async def call(self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None) -> Any:
        """Make one call and return the JSON of its answer. Raises KanidmUnreachable, KanidmRefused."""
        return (await self._call(method, path, body, headers)).json()

    async def _call(self, method: str, path: str, body: Any, headers: Mapping[str, str] | None = None) -> httpx.Response:
        try:
            with trio.fail_after(self._timeout):
                answer = await self._client.request(method, path, json=body, headers=headers)
        except (trio.TooSlowError, httpx.TimeoutException):
            raise KanidmUnreachable(f"{self._url}: no answer to {method} {path} within {self._timeout:g} s.") from None
        except httpx.TransportError as error:
            raise KanidmUnreachable(f"{self._url}: {method} {path} failed: {_reason(error)}") from None
        if answer.status_code != 200:
            # Kanidm's reasons are short codes such as {"plugin":…}, never what was sent.
            raise KanidmRefused(f"Kanidm refused {method} {path}: {answer.status_code} {answer.text[:200]}", answer.status_code)
        return answer

    async def login(self, name: str, password: str) -> str:
        """Sign in with write privileges, keep the session for all later calls, and return its token.

        The three steps of ``/v1/auth``. Raises LoginDenied when the password is wrong or does not suffice.
        """
        self._client.headers.pop("authorization", None)
        init = {"step": {"init2": {"username": name, "issue": "token", "privileged": True}}}
        try:
            answer = await self._call("POST", "/v1/auth", init)
        except KanidmRefused as refused:
            if refused.status in (401, 404):  # nobody of that name
                raise LoginDenied(f"Kanidm knows no account '{name}' that may sign in.") from None
            raise
        state = answer.json()["state"]
        offered: list[str] = state.get("choose", [])
        if "password" not in offered:
            how = f"only by: {', '.join(offered)}" if offered else _denial(state)
            raise LoginDenied(f"'{name}' may not sign in by password alone; {how}.", offered)
        step: Any
        for step in ({"begin": "password"}, {"cred": {"password": password}}):
            headers = {SESSION_HEADER: answer.headers[SESSION_HEADER]}
            answer = await self._call("POST", "/v1/auth", {"step": step}, headers)
            state = answer.json()["state"]
            if "denied" in state:  # at the first step already while the account is locked
                break
        token = state.get("success")
        # The header alone must count: with the cookies of the sign-in kept, Kanidm would see two sessions.
        self._client.cookies.clear()
        if not isinstance(token, str):
            raise LoginDenied(f"Kanidm did not accept the password of '{name}': {_denial(state)}.", offered)
        self._client.headers["authorization"] = f"Bearer {token}"
        return token

    def use_token(self, token: str) -> None:
        """Use ``token``, an API token of a service account, for all later calls; there is nothing to sign in with."""
        self._client.headers["authorization"] = f"Bearer {token}"

    async def get(self, kind: str, name: str) -> Entry | None:
        """Return the attributes of the entry ``/v1/{kind}/{name}`` (kind: person, group, oauth2, …), None if there is none."""
        entry = await self.call("GET", f"/v1/{kind}/{name}")
        return None if entry is None else entry["attrs"]

    async def _create(self, kind: str, path: str, name: str, attrs: Entry) -> bool:
        if await self.get(kind, name) is not None:
            return False
        try:
            await self.call("POST", path, {"attrs": {"name": [name], **attrs}})
        except KanidmRefused:
            # Created by somebody else since we looked? The status of a duplicate differs by version, so look again.
            if await self.get(kind, name) is None:
                raise
            return False
        return True

    async def create_person(self, name: str, displayname: str, *, mail: Sequence[str] = ()) -> bool:
        """Create a person if absent; return whether it was created."""
        attrs = {"displayname": [displayname]}
        return await self._create("person", "/v1/person", name, attrs | ({"mail": list(mail)} if mail else {}))

    async def create_group(self, name: str) -> bool:
        """Create a group if absent; return whether it was created."""
        return await self._create("group", "/v1/group", name, {})

    async def add_members(self, group: str, *members: str) -> None:
        """Add accounts or groups, by name, to ``group``; those already in it stay."""
        await self.call("POST", f"/v1/group/{group}/_attr/member", list(members))

    async def create_client(self, name: str, displayname: str, landing: str, *, public: bool = False) -> bool:
        """Create an OAuth2 client if absent: confidential with a generated secret, or ``public`` (PKCE, no secret)."""
        attrs = {
            "displayname": [displayname],
            "oauth2_rs_origin_landing": [landing],
            "oauth2_strict_redirect_uri": ["true"],
        }
        return await self._create("oauth2", "/v1/oauth2/_public" if public else "/v1/oauth2/_basic", name, attrs)

    async def add_redirect_uris(self, client: str, *uris: str) -> None:
        """Allow exactly these redirect URIs in addition to the landing page and those already allowed."""
        await self.call("POST", f"/v1/oauth2/{client}/_attr/oauth2_rs_origin", list(uris))

    async def set_scopes(self, client: str, group: str, scopes: Sequence[str]) -> None:
        """Let members of ``group`` use ``client`` with these scopes, replacing those mapped before."""
        await self.call("POST", f"/v1/oauth2/{client}/_scopemap/{group}", list(scopes))

    async def patch_client(self, client: str, attrs: Entry) -> None:
        """Replace attributes of an OAuth2 client, such as ``{"oauth2_allow_localhost_redirect": ["true"]}``."""
        await self.call("PATCH", f"/v1/oauth2/{client}", {"attrs": attrs})

    async def client_secret(self, client: str) -> str:
        """Return the secret that Kanidm generated for a confidential client; a public one has none (KanidmRefused)."""
        secret = await self.call("GET", f"/v1/oauth2/{client}/_basic_secret")
        if not isinstance(secret, str):
            raise KanidmRefused(f"The OAuth2 client '{client}' has no secret: it is public, or does not exist.", 404)
        return secret

    async def allow_password_only(self, group: str = "idm_all_persons") -> None:
        """Lift the demand for a second factor from members of ``group``. For demos and tests only."""
        await self.call("PUT", f"/v1/group/{group}/_attr/credential_type_minimum", ["any"])

    async def update_credentials(self, person: str, *, ttl: int = 3600) -> CredentialUpdate:
        """Begin to change the credentials of ``person`` as an administrator, by a reset token valid ``ttl`` (300–86400) s."""
        intent = await self.call("GET", f"/v1/person/{person}/_credential/_update_intent/{ttl}")
        session, _status = await self.call("POST", "/v1/credential/_exchange_intent", intent["token"])
        return CredentialUpdate(self, person, session)

    async def has_credentials(self, person: str) -> bool:
        """Return whether ``person`` has any way to sign in: a password, a passkey."""
        status = await self.call("GET", f"/v1/person/{person}/_credential/_status")
        return bool(status["creds"])

    async def set_password(self, person: str, password: str) -> None:
        """Set the password of ``person``. Raises KanidmRefused, with Kanidm's reason, when it is too weak."""
        update = await self.update_credentials(person)
        await update.password(password)
        await update.commit()


def _denial(state: Mapping[str, Any]) -> str:
    """Return Kanidm's reason for a refused login, which names no secret, in words where it needs some."""
    reason = str(state.get("denied", "no reason given"))
    words = {
        "invalid credential state": "in no way yet: it has no credential",
        "Account is temporarily locked": "the account is locked for some seconds after wrong ones",
    }
    return words.get(reason, reason)


def _reason(error: BaseException) -> str:
    """Return the words of ``error``, else of what caused it: httpx's own are often empty, as for a refused certificate."""
    cause: BaseException | None = error
    while cause is not None:
        if str(cause):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


class CredentialUpdate:
    """A change of one person's credentials: nothing counts until :meth:`commit`, and Kanidm forgets it by itself."""

    def __init__(self, kanidm: Kanidm, person: str, session: Mapping[str, str]) -> None:
        self._kanidm, self._person, self._session = kanidm, person, dict(session)

    async def _update(self, change: Any) -> dict[str, Any]:
        status: dict[str, Any] = await self._kanidm.call("POST", "/v1/credential/_update", [change, self._session])
        return status

    async def password(self, password: str) -> None:
        """Set the password. Raises KanidmRefused when Kanidm finds it too weak."""
        await self._update({"password": password})

    async def add_totp(self, label: str) -> Totp:
        """Add a one-time password to the password, under ``label``; return its secret."""
        # Variant names are lower-cased, those of the states are not: proto/src/internal/credupdate.rs.
        status = await self._update("totpgenerate")
        made = status["mfaregstate"]["TotpCheck"]
        totp = Totp(bytes(made["secret"]), made["algo"], made["step"], made["digits"])
        status = await self._update({"totpverify": [int(totp.code()), label]})
        if status["mfaregstate"] != "None":
            raise KanidmRefused(f"Kanidm did not accept the one-time password: {status['mfaregstate']}", 400)
        return totp

    async def commit(self) -> None:
        """Make all changes count. Raises KanidmRefused when what there is now does not suffice for the person's policy."""
        await self._kanidm.call("POST", "/v1/credential/_commit", self._session)
