"""Credential update sessions: reset intents, passwords and TOTP (server/lib/src/idm/credupdatesession.rs).

Intents live in the account and survive a restart; an open update session does not. Passkeys cannot be registered here.
"""

import secrets
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from kiwi_id.devserver.app import App
from kiwi_id.devserver.crypto import b64, hash_password, new_secret, totp
from kiwi_id.devserver.directory import Directory, Entry
from kiwi_id.devserver.http import ApiError, HttpError, Request, Response, Router, json_response

__all__ = ["add_routes", "detail"]

_DEFAULT_TTL = 3600
_MINIMUM_LENGTH = 10
_WEAK = ("password", "12345", "qwert", "kanidm")


def add_routes(router: Router, app: App) -> None:
    """Register the routes of this module."""
    handlers = _Credentials(app)
    router.add("GET", "/v1/person/{id}/_credential/_update_intent", handlers.intent)
    router.add("GET", "/v1/person/{id}/_credential/_update_intent/{ttl}", handlers.intent)
    router.add("GET", "/v1/person/{id}/_credential/_update", handlers.direct)
    router.add("GET", "/v1/person/{id}/_credential/_status", handlers.person_status)
    router.add("POST", "/v1/credential/_exchange_intent", handlers.exchange)
    router.add("POST", "/v1/credential/_status", handlers.status)
    router.add("POST", "/v1/credential/_update", handlers.update)
    router.add("POST", "/v1/credential/_commit", handlers.commit)
    router.add("POST", "/v1/credential/_cancel", handlers.cancel)


@dataclass(slots=True)
class _Session:
    account: str
    intent: str | None
    primary: dict[str, Any] | None
    regstate: Any = "None"
    pending: list[int] = field(default_factory=list)


def detail(primary: dict[str, Any] | None) -> dict[str, Any] | None:
    """A password credential as REST answers describe it; None for none."""
    if primary is None:
        return None
    kind: Any = "GeneratedPassword" if primary.get("generated") else "Password"
    if primary.get("totp"):
        kind = {"PasswordMfa": [list(primary["totp"]), [], 0]}
    return {"uuid": primary["cred"], "type_": kind}


def _primary_of(account: Entry) -> dict[str, Any] | None:
    if not account.private.get("password"):
        return None
    return {key: account.private[key] for key in ("cred", "password", "totp", "generated") if key in account.private}


class _Credentials:
    def __init__(self, app: App) -> None:
        self._app = app
        self._directory: Directory = app.directory
        self._sessions: dict[str, _Session] = {}

    def _person(self, request: Request) -> Entry:
        identity = self._app.auth.identify(request)
        account = self._directory.get(request.params["id"])
        if account is None or not account.is_a("account"):
            raise ApiError(404, "nomatchingentries")
        own = account.uuid == identity.entry.uuid
        if not identity.read_write or not (own or self._directory.may_write(identity.entry)):
            raise ApiError(500, "notauthorised")
        return account

    async def intent(self, request: Request) -> Response:
        account = self._person(request)
        text_ttl = request.params.get("ttl", str(_DEFAULT_TTL))
        if not text_ttl.isdecimal():
            raise HttpError(400, f"Invalid URL: Cannot parse `ttl` with value `{text_ttl}` to a `u64`")
        ttl = min(max(int(text_ttl), 300), 86400)
        token = "-".join(new_secret(5) for _ in range(4))
        expiry = int(time.time()) + ttl
        account.private.setdefault("intents", {})[token] = expiry
        self._directory.save(account)
        return json_response({"token": token, "expiry_time": expiry})

    async def direct(self, request: Request) -> Response:
        account = self._person(request)
        return json_response(self._open(account, None))

    async def person_status(self, request: Request) -> Response:
        identity = self._app.auth.identify(request)
        account = self._directory.get(request.params["id"])
        if account is None:
            raise ApiError(404, "nomatchingentries")
        if account.uuid != identity.entry.uuid and not self._directory.may_write(identity.entry):
            raise ApiError(403, "accessdenied")
        found = detail(_primary_of(account))
        return json_response({"creds": [found] if found else []})

    async def exchange(self, request: Request) -> Response:
        token = await request.json()
        for account in self._directory.of_class("account"):
            expiry = account.private.get("intents", {}).get(token if isinstance(token, str) else "")
            if expiry == 0 or (expiry and expiry < time.time()):
                raise ApiError(401, "sessionexpired")
            if expiry:
                return json_response(self._open(account, token))
        # The real server tells the caller to wait, in case another replica knows this token.
        raise ApiError(500, {"wait": int(time.time()) + 150})

    def _open(self, account: Entry, intent: str | None) -> list[Any]:
        # Kanidm's token is a JWE; this one only has its looks.
        head = b64(b'{"alg":"A128KW","enc":"A128GCM","kid":"stand-in"}')
        token = ".".join([head, *(b64(secrets.token_bytes(size)) for size in (24, 12, 100, 16))])
        session = self._sessions[token] = _Session(account.uuid, intent, _primary_of(account))
        return [{"token": token}, self._status(session)]

    def _find(self, value: Any) -> _Session:
        token = value.get("token") if isinstance(value, dict) else None
        if not isinstance(token, str):
            raise HttpError(422, "Failed to deserialize the JSON body into the target type: missing field `token`")
        if token not in self._sessions:
            raise ApiError(500, "invalidstate")
        return self._sessions[token]

    def _status(self, session: _Session) -> dict[str, Any]:
        account = self._directory.get(session.account)
        if account is None:
            raise ApiError(404, "nomatchingentries")
        lacking = session.primary is not None and not session.primary.get("totp") and self._directory.needs_mfa(account)
        return {
            "spn": self._directory.spn(account),
            "displayname": account.first("displayname"),
            "ext_cred_portal": "None",
            "mfaregstate": session.regstate,
            "can_commit": not lacking,
            "warnings": ["MfaRequired"] if lacking else [],
            "primary": detail(session.primary),
            "primary_state": "Modifiable",
            "passkeys": [],
            "passkeys_state": "Modifiable",
            "attested_passkeys": [],
            "attested_passkeys_state": "DeleteOnly",
            "attested_passkeys_allowed_devices": [],
            "unixcred": None,
            "unixcred_state": "PolicyDeny",
            "sshkeys": {},
            "sshkeys_state": "AccessDeny",
        }

    async def status(self, request: Request) -> Response:
        return json_response(self._status(self._find(await request.json())))

    async def cancel(self, request: Request) -> Response:
        body = await request.json()
        self._find(body)
        del self._sessions[body["token"]]
        return json_response(None)

    async def update(self, request: Request) -> Response:
        body = await request.json()
        if not isinstance(body, list) or len(body) != 2:
            raise HttpError(422, "Failed to deserialize the JSON body into the target type: expected a tuple of size 2")
        session = self._find(body[1])
        kind, value = (body[0], None) if isinstance(body[0], str) else next(iter(dict(body[0]).items()), ("", None))
        if kind == "password" and isinstance(value, str):
            _check_quality(value)
            old = session.primary or {}
            session.primary = {"cred": str(uuid.uuid4()), "password": hash_password(value), "totp": old.get("totp", {})}
        elif kind == "primaryremove":
            session.primary = None
        elif kind == "cancelmfareg":
            session.regstate = "None"
        elif kind == "totpgenerate":
            self._totp_generate(session)
        elif kind == "totpverify" and isinstance(value, list) and len(value) == 2:
            self._totp_verify(session, value[0], str(value[1]))
        elif kind == "totpremove" and session.primary:
            session.primary["totp"].pop(str(value), None)
        else:
            raise HttpError(422, f"Failed to deserialize the JSON body into the target type: unknown variant `{kind}`")
        return json_response(self._status(session))

    def _totp_generate(self, session: _Session) -> None:
        if session.primary is None:
            raise ApiError(500, "invalidstate")
        account = self._directory.get(session.account)
        session.pending = list(secrets.token_bytes(32))
        session.regstate = {
            "TotpCheck": {
                "accountname": account.name if account else "",
                "issuer": f"Kanidm {self._directory.domain}",
                "secret": session.pending,
                "algo": "sha256",
                "step": 30,
                "digits": 6,
            }
        }

    def _totp_verify(self, session: _Session, code: Any, label: str) -> None:
        if session.primary is None or not session.pending:
            raise ApiError(500, "invalidrequeststate")
        if code not in (totp(bytes(session.pending), time.time() - back) for back in (0, 30)):
            session.regstate = "TotpTryAgain"
            return
        session.primary.setdefault("totp", {})[label] = session.pending
        session.pending, session.regstate = [], "None"

    async def commit(self, request: Request) -> Response:
        body = await request.json()
        session = self._find(body)
        if not self._status(session)["can_commit"]:
            raise ApiError(500, "cu0004sessioninconsistent")
        account = self._directory.get(session.account)
        if account is None:
            raise ApiError(404, "nomatchingentries")
        for key in ("cred", "password", "totp", "generated"):
            account.private.pop(key, None)
        account.private |= session.primary or {}
        if session.intent:
            account.private["intents"][session.intent] = 0
        self._directory.save(account)
        del self._sessions[body["token"]]
        return json_response(None)


def _check_quality(password: str) -> None:
    if len(password) < _MINIMUM_LENGTH:
        raise ApiError(400, {"passwordquality": [{"tooshort": _MINIMUM_LENGTH}]})
    if len(set(password)) < 4 or any(password.lower().startswith(weak) for weak in _WEAK):
        raise ApiError(400, {"passwordquality": ["addanotherwordortwouncommonwordsarebetter"]})
