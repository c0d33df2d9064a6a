"""The token endpoint's grants, and what is asked about tokens afterwards (server/lib/src/idm/oauth2.rs)."""

import hashlib
import time
import uuid
from typing import Any

from kiwi_id.devserver.app import App
from kiwi_id.devserver.crypto import b64, fernet_open, fernet_seal
from kiwi_id.devserver.directory import Directory, Entry
from kiwi_id.devserver.oauth2 import OAuthError, check_scopes, granted, key_of, requires_pkce, session_alive

__all__ = ["Tokens"]

_ACCESS_SECONDS = 900
_REFRESH_SECONDS = 16 * 3600
_CODE_SECONDS = 60
_ANY = "authentication_required"


class Tokens:
    """Issues, checks and revokes the clients' tokens."""

    def __init__(self, app: App) -> None:
        self._directory: Directory = app.directory
        self._origin = app.config.origin

    def issuer(self, client: Entry) -> str:
        """The client's own issuer."""
        return f"{self._origin}/oauth2/openid/{client.name}"

    def client(self, name: str | None, secret: str | None) -> Entry:
        """The authenticated client; OAuthError for an unknown one or a wrong secret. Public clients need no secret."""
        client = self._directory.client(name) if name else None
        if client is None:
            raise OAuthError(_ANY)
        if client.is_a("oauth2_resource_server_basic") and secret != client.private["secret"]:
            raise OAuthError(_ANY)
        return client

    def by_code(self, client: Entry, code: str, redirect_uri: str, verifier: str | None) -> dict[str, Any]:
        """Exchange a code, at most 60 seconds old; it may be exchanged again, as in the real server."""
        ticket = fernet_open(client.private["box"], code, _CODE_SECONDS)
        if ticket is None or "redirect_uri" not in ticket:
            raise OAuthError("invalid_request")
        challenge = ticket["code_challenge"]
        if challenge is not None:
            if verifier is None or b64(hashlib.sha256(verifier.encode()).digest()) != challenge.rstrip("="):
                raise OAuthError("invalid_request")
        elif requires_pkce(client) or verifier is not None:
            raise OAuthError("invalid_request")
        if redirect_uri != ticket["redirect_uri"]:
            raise OAuthError("invalid_origin")
        return self._issue(client, ticket, ticket["session_id"], str(uuid.uuid4()), ticket["scopes"])

    def by_refresh(self, client: Entry, token: str, scopes: list[str] | None) -> dict[str, Any]:
        """Exchange a refresh token for a new pair; an old token used again ends the whole session."""
        ticket = fernet_open(client.private["box"], token)
        if ticket is None or "parent_session_id" not in ticket:
            raise OAuthError("invalid_request")
        session_id, parent = ticket["session_id"], ticket["parent_session_id"]
        account = self._directory.get(ticket["account_uuid"])
        if ticket["exp"] <= time.time() or account is None or not session_alive(account, session_id, parent):
            raise OAuthError("invalid_grant")
        if ticket["iat"] < account.private["o2"][session_id]["issued_at"]:
            del account.private["o2"][session_id]
            self._directory.save(account)
            raise OAuthError("invalid_grant")
        if scopes is not None and not set(scopes) <= set(ticket["scopes"]):
            raise OAuthError("invalid_scope")
        return self._issue(client, ticket, parent, session_id, ticket["scopes"] if scopes is None else sorted(set(scopes)))

    def by_client(self, client: Entry, scopes: list[str]) -> dict[str, Any]:
        """A token for the client itself: opaque, without refresh token."""
        if not client.is_a("oauth2_resource_server_basic"):
            raise OAuthError(_ANY)
        check_scopes(scopes)
        if not set(scopes) <= granted(self._directory, client, client, "scopes"):
            raise OAuthError("access_denied")
        now = int(time.time())
        every = sorted(set(scopes) | granted(self._directory, client, client, "sup"))
        session_id = str(uuid.uuid4())
        box = {"client_access": True, "scopes": every, "session_id": session_id, "account_uuid": client.uuid}
        box |= {"exp": now + _ACCESS_SECONDS, "iat": now, "nbf": now}
        self._record(client, session_id, None, now, now + _ACCESS_SECONDS)
        access = fernet_seal(client.private["box"], box)
        return {"access_token": access, "token_type": "Bearer", "expires_in": _ACCESS_SECONDS, "scope": " ".join(every)}

    def _record(self, account: Entry, session_id: str, parent: str | None, now: int, expiry: int) -> None:
        alive = {key: value for key, value in account.private.get("o2", {}).items() if value["expiry"] > now}
        alive[session_id] = {"parent": parent, "issued_at": now, "expiry": expiry}
        account.private["o2"] = alive
        self._directory.save(account)

    def _issue(self, client: Entry, ticket: dict[str, Any], parent: str, session_id: str, scopes: list[str]) -> dict[str, Any]:
        account = self._directory.get(ticket["account_uuid"])
        if account is None:
            raise OAuthError("invalid_grant")
        now = int(time.time())
        key = key_of(client)
        times = {"exp": now + _ACCESS_SECONDS, "nbf": now, "iat": now}
        head = {"iss": self.issuer(client), "sub": account.uuid, "aud": client.name, **times}
        access = {**head, "jti": None, "client_id": client.name, "scope": " ".join(scopes)}
        if ticket["nonce"] is not None:
            access["nonce"] = ticket["nonce"]
        access |= {"session_id": session_id, "parent_session_id": parent}
        refresh = {
            "scopes": scopes,
            "parent_session_id": parent,
            "session_id": session_id,
            "exp": now + _REFRESH_SECONDS,
            "account_uuid": account.uuid,
            "iat": now,
            "nbf": now,
            "nonce": ticket["nonce"],
        }
        self._record(account, session_id, parent, now, refresh["exp"])
        answer = {
            "access_token": key.sign(access, "at+jwt"),
            "token_type": "Bearer",
            "expires_in": _ACCESS_SECONDS,
            "refresh_token": fernet_seal(client.private["box"], refresh),
            "scope": " ".join(scopes),
        }
        if "openid" in scopes:
            answer["id_token"] = key.sign(self._claims(client, account, access), "JWT")
        return answer

    def _claims(self, client: Entry, account: Entry, access: dict[str, Any]) -> dict[str, Any]:
        copied = ("iss", "sub", "aud", "exp", "nbf", "iat", "nonce")
        claims: dict[str, Any] = {name: access[name] for name in copied if name in access}
        short = client.flag("oauth2_prefer_short_username")
        scopes = access["scope"].split()
        claims |= {
            "azp": client.name,
            "name": account.first("displayname"),
            "preferred_username": account.name if short else self._directory.spn(account),
        }
        mail = account.first("mail")
        if "email" in scopes and mail:
            claims |= {"email": mail, "email_verified": True}
        claims["scopes"] = scopes
        groups = self._directory.groups(account)
        for claim, data in sorted(client.private["claims"].items()):
            values = sorted({v for group in groups for v in data["groups"].get(group.uuid, ())})
            if values:
                joiner = {"csv": ",", "ssv": " "}.get(data["join"])
                claims[claim] = values if joiner is None else joiner.join(values)
        if "ssh_publickeys" in scopes:
            claims["ssh_publickeys"] = account.attrs.get("ssh_publickey", [])
        if "groups" in scopes:
            claims["groups"] = [item for group in groups for item in (self._directory.spn(group), group.uuid)]
        return claims

    def userinfo(self, name: str, token: str) -> dict[str, Any]:
        """The claims of a live access token; OAuthError otherwise."""
        client = self._directory.client(name)
        if client is None:
            raise OAuthError("invalid_client_id")
        access = key_of(client).verify(token)
        if access is None or "client_id" not in access:
            raise OAuthError("invalid_request")
        account = self._alive(access)
        if account is None:
            raise OAuthError("invalid_token")
        return self._claims(client, account, access)

    def _alive(self, token: dict[str, Any]) -> Entry | None:
        account = self._directory.get(token.get("sub") or token["account_uuid"])
        if token["exp"] <= time.time() or account is None:
            return None
        return account if session_alive(account, token["session_id"], token.get("parent_session_id")) else None

    def _open(self, client: Entry, token: str) -> tuple[dict[str, Any], bool]:
        # Whether a token is a JWS or a box is told by its dots, as JwsCompact::from_str does.
        signed = token.count(".") == 2
        found = key_of(client).verify(token) if signed else fernet_open(client.private["box"], token)
        if found is None or "session_id" not in found:
            raise OAuthError("invalid_request")
        return found, signed

    def introspect(self, client: Entry, token: str) -> dict[str, Any]:
        """RFC 7662 as Kanidm answers it; OAuthError `invalid_request` for a token that is not the client's."""
        found, signed = self._open(client, token)
        account = self._alive(found)
        if account is None or not (signed or found.get("client_access")):
            return {"active": False, "scope": ""}
        short = client.flag("oauth2_prefer_short_username")
        return {
            "active": True,
            "scope": found["scope"] if signed else " ".join(found["scopes"]),
            "client_id": client.name,
            "username": account.name if short else self._directory.spn(account),
            "token_type": "Bearer",
            "exp": found["exp"],
            "iat": found["iat"],
            "nbf": found["nbf"],
            "sub": account.uuid,
            "aud": client.name,
        }

    def revoke(self, client: Entry, token: str) -> None:
        """End the whole OAuth2 session that the token belongs to."""
        found, _ = self._open(client, token)
        account = self._directory.get(found.get("sub") or found["account_uuid"])
        if account and account.private.get("o2", {}).pop(found["session_id"], None):
            self._directory.save(account)
