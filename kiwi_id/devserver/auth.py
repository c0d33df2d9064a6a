"""Logging in: Kanidm's step-by-step authentication and the session tokens that come out of it.

The states and reasons follow server/lib/src/idm/authsession.rs. Sessions are recorded in the account and survive a restart;
a login in progress lives in memory only and does not.
"""

import json
import secrets
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from kiwi_id.devserver.crypto import check_password, totp, unb64
from kiwi_id.devserver.directory import ANONYMOUS, Directory, Entry
from kiwi_id.devserver.http import ApiError, Request

__all__ = ["AuthResult", "Authenticator", "Identity", "bearer_token"]

_SESSION_SECONDS = 86400
_PRIVILEGED_SECONDS = 3600
_REAUTH_SECONDS = 600
_LOGIN_SECONDS = 300
_GRACE_SECONDS = 300
_LOCK_SECONDS = 1.0
_LOCKED = "Account is temporarily locked"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: the account, its session, and whether the session may write now."""

    entry: Entry
    session_id: str
    uat: dict[str, Any]
    read_write: bool


@dataclass(frozen=True, slots=True)
class AuthResult:
    """Where a login stands: `state` is choose, continue, success or denied; `value` what goes with it."""

    session_id: str
    state: str
    value: Any
    issue: str = "token"


@dataclass(slots=True)
class _Login:
    account: str
    issue: str
    privileged: bool
    mechs: list[str]
    todo: list[str] = field(default_factory=list)
    reauth: dict[str, Any] | None = None
    deadline: float = field(default_factory=lambda: time.time() + _LOGIN_SECONDS)


def bearer_token(request: Request) -> str | None:
    """The request's bearer token: the header's, else the cookie's; any Authorization header hides the cookie."""
    header = request.headers.get("authorization")
    if header is None:
        token = request.cookies.get("bearer", "")
    else:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            return None
    try:
        head, _, _ = token.split(".")
        return token if isinstance(json.loads(unb64(head)), dict) else None
    except ValueError:
        return None


class Authenticator:
    """Runs logins and checks session tokens."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._logins: dict[str, _Login] = {}
        self._locked: dict[str, float] = {}

    def identify(self, request: Request) -> Identity:
        """Who sent the request; ApiError 401 `notauthenticated` or `sessionexpired`."""
        token = bearer_token(request)
        claims = self._directory.session_key.verify(token) if token else None
        if claims is None:
            raise ApiError(401, "notauthenticated")
        api = "account_id" in claims
        account = self._directory.get(claims.get("account_id" if api else "uuid", ""))
        session = claims.get("token_id" if api else "session_id", "")
        if account is None:
            raise ApiError(404, "nomatchingentries")
        expiry = claims.get("expiry")
        known = account.private.get("tokens" if api else "sessions", {})
        # Kanidm honours a young API token that it does not know, lest another replica made it; so a deleted one too.
        young = api and claims["issued_at"] + _GRACE_SECONDS > time.time()
        unknown = account.uuid != ANONYMOUS and session not in known and not young
        if (expiry is not None and expiry <= time.time()) or unknown or account.expired:
            raise ApiError(401, "sessionexpired")
        if api:
            return Identity(account, session, claims, claims.get("purpose") == "readwrite")
        purpose = claims.get("purpose")
        until = purpose["readwrite"]["expiry"] if isinstance(purpose, dict) else None
        return Identity(account, session, claims, until is not None and until > time.time())

    def maybe(self, request: Request) -> Identity | None:
        """Who sent the request, or None without a live session."""
        try:
            return self.identify(request)
        except ApiError:
            return None

    def logout(self, request: Request) -> None:
        """End the request's session, if it has one."""
        identity = self.maybe(request)
        if identity and identity.entry.private.get("sessions", {}).pop(identity.session_id, None):
            self._directory.save(identity.entry)

    def start(self, username: str, issue: str, privileged: bool) -> AuthResult:
        """The step `init2`; ApiError 404 for an unknown account."""
        account = self._directory.get(username)
        if account is None or not account.is_a("account"):
            raise ApiError(404, "nomatchingentries")
        session_id = _new_session_id()
        if account.expired:
            return AuthResult(session_id, "denied", "account expired")
        if account.uuid == ANONYMOUS:
            mechs = ["anonymous"]
        elif account.private.get("password"):
            mechs = ["passwordmfa" if account.private.get("totp") else "password"]
        else:
            return AuthResult(session_id, "denied", "invalid credential state")
        now = time.time()
        self._logins = {key: login for key, login in self._logins.items() if login.deadline > now}
        self._logins[session_id] = _Login(account.uuid, issue, privileged, mechs)
        return AuthResult(session_id, "choose", mechs, issue)

    def reauth(self, request: Request, issue: str) -> AuthResult:
        """Start a login for more rights in the same session; ApiError 500 when the session cannot have them."""
        identity = self.identify(request)
        purpose = identity.uat.get("purpose")
        if not isinstance(purpose, dict) or identity.entry.private["sessions"][identity.session_id]["scope"] != "capable":
            raise ApiError(500, "invalidstate")
        result = self.start(identity.entry.name, issue, False)
        if result.state != "choose":
            return result
        self._logins[result.session_id].reauth = identity.uat
        return self.begin(result.session_id, result.value[0])

    def begin(self, session_id: str | None, mech: str) -> AuthResult:
        """The step `begin`."""
        session_id, login = self._login(session_id, "session id not present in cred presented to 'begin' step")
        if mech not in login.mechs:
            return self._deny(session_id, "invalid authentication method in this context")
        if self._is_locked(login.account):
            return self._deny(session_id, _LOCKED)
        login.todo = {"anonymous": ["anonymous"], "password": ["password"], "passwordmfa": ["totp", "password"]}[mech]
        return AuthResult(session_id, "continue", [login.todo[0]], login.issue)

    def credential(self, session_id: str | None, kind: str, value: Any) -> AuthResult:
        """The step `cred`, with `kind` anonymous, password or totp."""
        session_id, login = self._login(session_id, "session id not present in cred to 'cred' step")
        account = self._directory.get(login.account)
        if account is None or not login.todo or kind != login.todo[0]:
            return self._deny(session_id, "invalid authentication method in this context")
        if self._is_locked(account.uuid):
            return self._deny(session_id, _LOCKED)
        if kind == "password" and not check_password(str(value), account.private["password"]):
            self._locked[account.uuid] = time.monotonic() + _LOCK_SECONDS
            return self._deny(session_id, "incorrect password")
        if kind == "totp" and not self._totp_matches(account, value):
            self._locked[account.uuid] = time.monotonic() + _LOCK_SECONDS
            return self._deny(session_id, "incorrect totp")
        login.todo = login.todo[1:]
        if login.todo:
            return AuthResult(session_id, "continue", [login.todo[0]], login.issue)
        del self._logins[session_id]
        return AuthResult(session_id, "success", self._issue(account, login), login.issue)

    def _login(self, session_id: str | None, message: str) -> tuple[str, _Login]:
        if session_id is None:
            raise ApiError(500, {"invalidauthstate": message})
        login = self._logins.get(session_id)
        if login is None or login.deadline < time.time():
            raise ApiError(500, "invalidsessionstate")
        return session_id, login

    def _deny(self, session_id: str, reason: str) -> AuthResult:
        self._logins.pop(session_id, None)
        return AuthResult(session_id, "denied", reason)

    def _is_locked(self, account: str) -> bool:
        return self._locked.get(account, 0.0) > time.monotonic()

    def _totp_matches(self, account: Entry, value: Any) -> bool:
        now = time.time()
        # One step back is accepted, as Kanidm does: the person may have typed slowly.
        return any(
            value in (totp(bytes(secret), now), totp(bytes(secret), now - 30)) for secret in account.private["totp"].values()
        )

    def _issue(self, account: Entry, login: _Login) -> str:
        now = int(time.time())
        purpose: Any
        if account.uuid == ANONYMOUS:
            scope, purpose, lifetime = "readonly", "readonly", _SESSION_SECONDS
        elif login.reauth is not None:
            scope, purpose, lifetime = "capable", {"readwrite": {"expiry": now + _REAUTH_SECONDS}}, 0
        elif login.privileged or account.private.get("generated"):
            scope, lifetime = "readwrite", _PRIVILEGED_SECONDS
            purpose = {"readwrite": {"expiry": now + _SESSION_SECONDS}}
        else:
            scope, purpose, lifetime = "capable", {"readwrite": {"expiry": None}}, _SESSION_SECONDS
        old = login.reauth or {"session_id": str(uuid.uuid4()), "issued_at": now, "expiry": now + lifetime}
        uat = {
            "session_id": old["session_id"],
            "issued_at": old["issued_at"],
            "expiry": old["expiry"],
            "purpose": purpose,
            "uuid": account.uuid,
            "displayname": account.first("displayname") or account.name,
            "spn": self._directory.spn(account),
            "mail_primary": account.first("mail"),
            "ui_hints": ["credentialupdate"] if account.is_a("person") else [],
            "limit_search_max_results": None,
            "limit_search_max_filter_test": None,
        }
        if account.uuid != ANONYMOUS:
            sessions = {key: value for key, value in account.private.get("sessions", {}).items() if value["expiry"] > now}
            sessions[uat["session_id"]] = {"expiry": uat["expiry"], "issued_at": uat["issued_at"], "scope": scope}
            account.private["sessions"] = sessions
            self._directory.save(account)
        return self._directory.session_key.sign(uat)


def _new_session_id() -> str:
    # Kanidm's login session ids begin with the time (uuid_from_duration).
    now = f"{int(time.time()):016x}{secrets.token_hex(8)}"
    return f"{now[:8]}-{now[8:12]}-{now[12:16]}-{now[16:20]}-{now[20:]}"
