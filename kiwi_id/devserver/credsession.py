"""Credential update sessions: reset intents, passwords and TOTP (server/lib/src/idm/credupdatesession.rs).

Intents live in the account and survive a restart; an open update session does not. Passkeys cannot be registered here.
"""

import secrets
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from kiwi_id.devserver.crypto import b64, hash_password, new_secret, totp
from kiwi_id.devserver.directory import Directory, Entry
from kiwi_id.devserver.http import ApiError, HttpError

__all__ = ["CredentialSessions", "detail", "primary_of"]

_MINIMUM_LENGTH = 10
_WEAK = ("password", "12345", "qwert", "kanidm")
_WAIT_SECONDS = 150


@dataclass(slots=True)
class _Session:
    account: str
    intent: str | None
    primary: dict[str, Any] | None
    regstate: Any = "None"
    pending: list[int] = field(default_factory=list)


def primary_of(account: Entry) -> dict[str, Any] | None:
    """The account's password credential, or None."""
    if not account.private.get("password"):
        return None
    return {key: account.private[key] for key in ("cred", "password", "totp", "generated") if key in account.private}


def detail(primary: dict[str, Any] | None) -> dict[str, Any] | None:
    """A password credential as REST answers describe it; None for none."""
    if primary is None:
        return None
    kind: Any = "GeneratedPassword" if primary.get("generated") else "Password"
    if primary.get("totp"):
        kind = {"PasswordMfa": [list(primary["totp"]), [], 0]}
    return {"uuid": primary["cred"], "type_": kind}


class CredentialSessions:
    """The open update sessions by token, and the intents that open them."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._sessions: dict[str, _Session] = {}

    def intend(self, account: Entry, ttl: int) -> dict[str, Any]:
        """Make an intent: a token for a reset link that lives `ttl` seconds, five minutes to a day."""
        token = "-".join(new_secret(5) for _ in range(4))
        expiry = int(time.time()) + min(max(ttl, 300), 86400)
        account.private.setdefault("intents", {})[token] = expiry
        self._directory.save(account)
        return {"token": token, "expiry_time": expiry}

    def exchange(self, intent: Any) -> str:
        """Open a session with an intent; ApiError 401 for a used or old one, 500 for an unknown one."""
        for account in self._directory.of_class("account"):
            expiry = account.private.get("intents", {}).get(intent if isinstance(intent, str) else "")
            if expiry == 0 or (expiry and expiry < time.time()):
                raise ApiError(401, "sessionexpired")
            if expiry:
                return self.open(account, intent)
        # The real server tells the caller to wait, in case another replica knows this token.
        raise ApiError(500, {"wait": int(time.time()) + _WAIT_SECONDS})

    def open(self, account: Entry, intent: str | None) -> str:
        """Open a session for an account; returns its token, which only has the looks of Kanidm's JWE."""
        head = b64(b'{"alg":"A128KW","enc":"A128GCM","kid":"stand-in"}')
        token = ".".join([head, *(b64(secrets.token_bytes(size)) for size in (24, 12, 100, 16))])
        self._sessions[token] = _Session(account.uuid, intent, primary_of(account))
        return token

    def _find(self, token: str) -> tuple[_Session, Entry]:
        session = self._sessions.get(token)
        account = self._directory.get(session.account) if session else None
        if session is None or account is None:
            raise ApiError(500, "invalidstate")
        return session, account

    def status(self, token: str) -> dict[str, Any]:
        """Kanidm's CUStatus of a session."""
        session, account = self._find(token)
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

    def change(self, token: str, kind: str, value: Any = None) -> None:
        """Apply one CURequest; HttpError 422 for one that the stand-in does not know."""
        session, account = self._find(token)
        if kind == "password" and isinstance(value, str):
            _check_quality(value)
            old = session.primary or {}
            session.primary = {"cred": str(uuid.uuid4()), "password": hash_password(value), "totp": old.get("totp", {})}
        elif kind == "primaryremove":
            session.primary = None
        elif kind == "cancelmfareg":
            session.regstate = "None"
        elif kind == "totpgenerate" and session.primary:
            session.pending = list(secrets.token_bytes(32))
            session.regstate = {
                "TotpCheck": {
                    "accountname": account.name,
                    "issuer": f"Kanidm {self._directory.domain}",
                    "secret": session.pending,
                    "algo": "sha256",
                    "step": 30,
                    "digits": 6,
                }
            }
        elif kind == "totpverify" and isinstance(value, list) and len(value) == 2 and session.primary and session.pending:
            self._totp_verify(session, value[0], str(value[1]))
        elif kind == "totpremove" and session.primary:
            session.primary.get("totp", {}).pop(str(value), None)
        elif kind in ("totpgenerate", "totpverify", "totpremove"):
            raise ApiError(500, "invalidstate")
        else:
            raise HttpError(422, f"Failed to deserialize the JSON body into the target type: unknown variant `{kind}`")

    @staticmethod
    def _totp_verify(session: _Session, code: Any, label: str) -> None:
        if code not in (totp(bytes(session.pending), time.time() - back) for back in (0, 30)):
            session.regstate = "TotpTryAgain"
            return
        if session.primary is not None:
            session.primary["totp"] = {**session.primary.get("totp", {}), label: session.pending}
        session.pending, session.regstate = [], "None"

    def commit(self, token: str) -> None:
        """Write the session's credentials into the account; ApiError when policy asks for more."""
        session, account = self._find(token)
        if not self.status(token)["can_commit"]:
            raise ApiError(500, "cu0004sessioninconsistent")
        for key in ("cred", "password", "totp", "generated"):
            account.private.pop(key, None)
        account.private |= session.primary or {}
        if session.intent:
            # Kept as used, so that a second use is told apart from an unknown token.
            account.private["intents"][session.intent] = 0
        self._directory.save(account)
        del self._sessions[token]

    def cancel(self, token: str) -> None:
        """Drop a session and what was changed in it."""
        self._find(token)
        del self._sessions[token]


def _check_quality(password: str) -> None:
    if len(password) < _MINIMUM_LENGTH:
        raise ApiError(400, {"passwordquality": [{"tooshort": _MINIMUM_LENGTH}]})
    if len(set(password)) < 4 or any(password.lower().startswith(weak) for weak in _WEAK):
        raise ApiError(400, {"passwordquality": ["addanotherwordortwouncommonwordsarebetter"]})
