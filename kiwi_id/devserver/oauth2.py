"""OAuth2 and OpenID Connect as Kanidm 1.5.0 does them (server/lib/src/idm/oauth2.rs): authorization and consent.

One issuer and one key per client. Codes and refresh tokens are Fernet boxes of the client's own key, so nothing about a
code is stored and, as with the real server, a code works more than once.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urldefrag

from kiwi_id.devserver.app import App
from kiwi_id.devserver.auth import Identity
from kiwi_id.devserver.authreq import AuthRequest, origin_of, redirect
from kiwi_id.devserver.crypto import SigningKey, fernet_open, fernet_seal
from kiwi_id.devserver.directory import ANONYMOUS, Directory, Entry
from kiwi_id.devserver.http import ApiError
from kiwi_id.devserver.schema import loopback

__all__ = ["Consent", "Login", "OAuthError", "Permitted", "apps_of", "authorise", "key_of", "permit", "reject", "requires_pkce"]

_CONSENT_SECONDS = 300
_SCOPE = re.compile(r"[0-9a-zA-Z_]+")


class OAuthError(Exception):
    """One of Kanidm's Oauth2Error values, by its wire name."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Permitted:
    """The way back to the client, with a code."""

    location: str

    @property
    def origin(self) -> str:
        """The client's origin, for CORS."""
        return origin_of(self.location)


@dataclass(frozen=True, slots=True)
class Consent:
    """The person has to be asked."""

    client_name: str
    scopes: list[str]
    pii_scopes: list[str]
    token: str


@dataclass(frozen=True, slots=True)
class Login:
    """Nobody is logged in; everything else about the request is right."""

    client_name: str
    login_hint: str | None


def requires_pkce(client: Entry) -> bool:
    """Whether a client must use PKCE: public ones always, basic ones unless it was switched off."""
    public = client.is_a("oauth2_resource_server_public")
    return public or not client.flag("oauth2_allow_insecure_client_disable_pkce")


def key_of(client: Entry) -> SigningKey:
    """The key that signs the client's tokens."""
    rsa = client.flag("oauth2_jwt_legacy_crypto_enable") and client.private.get("rsa")
    return SigningKey.from_pem(rsa or client.private["key"])


def apps_of(directory: Directory, entry: Entry) -> list[Entry]:
    """The clients that the account may use, for the page of applications."""
    groups = {group.uuid for group in directory.groups(entry)}
    return [client for client in directory.of_class("oauth2_resource_server") if groups & client.private["scopes"].keys()]


def granted(directory: Directory, client: Entry, account: Entry, kind: str) -> set[str]:
    """The scopes that the account's groups give it, of the map `scopes` or the supplementary map `sup`."""
    groups = {group.uuid for group in directory.groups(account)}
    return {scope for key, scopes in client.private[kind].items() if key in groups for scope in scopes}


def check_scopes(scopes: Iterable[str]) -> None:
    """Raise OAuthError `invalid_scope` for a scope outside of Kanidm's syntax."""
    if not all(_SCOPE.fullmatch(scope) for scope in scopes):
        raise OAuthError("invalid_scope")


def _check_redirect(client: Entry, uri: str) -> None:
    if client.is_a("oauth2_resource_server_public") and client.flag("oauth2_allow_localhost_redirect") and loopback(uri):
        return
    # Matching is exact whatever oauth2_strict_redirect_uri says: 1.5.0's domain level asks for it.
    urls = [*client.attrs["oauth2_rs_origin_landing"], *client.attrs.get("oauth2_rs_origin", [])]
    known = {urldefrag(url).url for url in urls}
    secure = any(url.startswith("https://") for url in known)
    if uri not in known or (secure and uri.startswith("http://")):
        raise OAuthError("invalid_origin")


def authorise(app: App, request: AuthRequest, identity: Identity | None) -> Permitted | Consent | Login:
    """Judge an authorization request; OAuthError for what is wrong with it.

    Client, redirect URI and PKCE are checked before it matters whether anybody is logged in.
    """
    if request.response_type != "code":
        raise OAuthError("unsupported_response_type")
    client = app.directory.client(request.client_id)
    if client is None:
        raise OAuthError("invalid_client_id")
    _check_redirect(client, request.redirect_uri)
    if request.code_challenge is None and requires_pkce(client):
        raise OAuthError("invalid_request")
    name = client.first("displayname") or client.name
    if identity is None:
        return Login(name, request.login_hint)
    account = identity.entry
    if account.uuid == ANONYMOUS:
        raise OAuthError("access_denied")
    scopes = set(request.scopes)
    if not scopes:
        raise OAuthError("invalid_request")
    check_scopes(scopes)
    if not scopes <= granted(app.directory, client, account, "scopes"):
        raise OAuthError("access_denied")
    every = sorted(scopes | granted(app.directory, client, account, "sup"))
    ticket = {
        "client_id": client.name,
        "account_uuid": account.uuid,
        "session_id": identity.session_id,
        "code_challenge": request.code_challenge,
        "redirect_uri": request.redirect_uri,
        "scopes": every,
        "nonce": request.nonce,
        "state": request.state,
        "response_mode": request.mode,
    }
    if account.private.get("consents", {}).get(client.uuid) == every:
        return _permitted(client, ticket)
    pii = ["email", "email_verified"] if "openid" in scopes and "email" in every else []
    if "ssh_publickeys" in every:
        pii.append("ssh_publickeys")
    return Consent(name, every, pii, fernet_seal(app.consent_key, ticket))


def _permitted(client: Entry, ticket: dict[str, Any]) -> Permitted:
    exchange = {key: ticket[key] for key in ("account_uuid", "session_id", "redirect_uri", "scopes", "nonce")}
    # A list of bytes, as the real server stores it: codes then have about the real length.
    challenge = ticket["code_challenge"]
    exchange["code_challenge"] = challenge
    parameters = [("code", fernet_seal(client.private["box"], exchange))]
    if ticket["state"] is not None:
        parameters.append(("state", ticket["state"]))
    return Permitted(redirect(ticket["redirect_uri"], ticket["response_mode"], parameters))


def _ticket(app: App, identity: Identity, token: str) -> dict[str, Any]:
    ticket = fernet_open(app.consent_key, token, _CONSENT_SECONDS)
    if ticket is None:
        raise ApiError(500, "cryptographyerror")
    if (ticket["account_uuid"], ticket["session_id"]) != (identity.entry.uuid, identity.session_id):
        raise ApiError(500, "invalidsessionstate")
    return ticket


def permit(app: App, identity: Identity, token: str) -> Permitted:
    """The person agreed: remember it, and make a code. ApiError for a token of another session, run or time."""
    ticket = _ticket(app, identity, token)
    client = app.directory.client(ticket["client_id"])
    if client is None:
        raise ApiError(500, "invalidrequeststate")
    account = identity.entry
    account.private.setdefault("consents", {})[client.uuid] = ticket["scopes"]
    app.directory.save(account)
    return _permitted(client, ticket)


def reject(app: App, identity: Identity, token: str) -> Permitted:
    """The person refused: the way back to the client with `access_denied`. `state` is not sent, as in 1.5.0."""
    ticket = _ticket(app, identity, token)
    parameters = [("error", "access_denied"), ("error_description", "authorisation rejected")]
    return Permitted(redirect(ticket["redirect_uri"], ticket["response_mode"], parameters))


def session_alive(account: Entry, session_id: str, parent: str | None) -> bool:
    """Whether an OAuth2 session and the login session above it are both alive, and the account has not expired."""
    now = time.time()
    if account.expired:
        return False
    session = account.private.get("o2", {}).get(session_id)
    if session is None or session["expiry"] <= now:
        return False
    above = account.private.get("sessions", {}).get(parent)
    return parent is None or (above is not None and above["expiry"] > now)
