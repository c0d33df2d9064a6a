"""Making tokens: Kanidm's answer at the token endpoint, signed anew with the instance's key."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import jwt

from kiwi_id.issuer.box import NotOurs
from kiwi_id.issuer.claims import for_access_token, user_claims
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.encoding import PREFIX, base64url

ACCESS_TYPE = "at+jwt"
ID_TYPE = "JWT"
# Kanidm's refresh tokens live 16 h from each use (oauth2.rs); ours must open at least as long.
REFRESH_LIFETIME = 30 * 86400.0


@dataclass(frozen=True)
class Login:
    """What is known of the login behind tokens: ``auth_time`` in Unix seconds and ``sid``, Kanidm's session; 0 and empty: none."""

    auth_time: int = 0
    sid: str = ""


@dataclass(frozen=True)
class AccessToken:
    """One of our access tokens, checked: its claims, and Kanidm's own token that it carries."""

    claims: dict[str, Any]
    inner: str = field(repr=False)

    @property
    def client_id(self) -> str:
        """The client that the token was issued to."""
        return str(self.claims["client_id"])


@dataclass(frozen=True)
class RefreshToken:
    """One of our refresh tokens, opened; ``issued`` is the Unix second in which Kanidm made what it carries."""

    client_id: str
    inner: str = field(repr=False)
    access: str = field(repr=False)
    login: Login
    issued: int


def issue(ctx: Context, client_id: str, answer: dict[str, Any], login: Login, *, refreshed: bool = False) -> dict[str, Any]:
    """Return our token response for Kanidm's ``answer`` (RFC 6749 §5.1, OIDC Core §3.1.3.3).

    Kanidm's tokens need no check of their own here: they came over the pinned connection a moment ago.
    """
    now = int(time.time())
    lifetime = int(answer.get("expires_in") or 900)
    inner_id = payload(answer["id_token"]) if answer.get("id_token") else {}
    inner_access = payload(answer["access_token"])
    subject = inner_access.get("sub") or inner_id.get("sub") or client_id
    claims = user_claims(ctx, inner_id)
    scope = answer.get("scope") or inner_access.get("scope") or ""
    # RFC 6749 §3.3: a scope has one token or more, so that of a client without any is left out.
    scoped = {"scope": scope} if scope else {}
    common: dict[str, Any] = {"iss": ctx.issuer, "sub": subject, "aud": client_id, "iat": now}
    if login.auth_time:
        common["auth_time"] = login.auth_time
    if login.sid:
        common["sid"] = login.sid
    access = ctx.keys.current.sign(
        {
            **for_access_token(claims),
            **common,
            "exp": now + lifetime,
            "jti": secrets.token_urlsafe(16),
            "client_id": client_id,
            **scoped,
            # Kanidm checks its own signature only, so its token rides along, sealed, for userinfo, introspection, revocation.
            "kiwi": ctx.tokens.seal({"t": answer["access_token"]}, lifetime=lifetime + 60),
        },
        ACCESS_TYPE,
    )
    response: dict[str, Any] = {"access_token": access, "token_type": "Bearer", "expires_in": lifetime, **scoped}
    if answer.get("refresh_token"):
        box = {"c": client_id, "r": answer["refresh_token"], "t": answer["access_token"], "a": login.auth_time, "s": login.sid}
        box["i"] = int(inner_access.get("iat") or now)
        response["refresh_token"] = PREFIX + ctx.refreshes.seal(box, lifetime=REFRESH_LIFETIME)
    if inner_id:
        id_token = {**claims, **common, "azp": client_id, "exp": now + lifetime, "at_hash": _at_hash(ctx, access)}
        # Of Kanidm's access token, which has no claim maps in it: one may be called nonce, too. OIDC Core §12.2: an ID token of a
        # refresh should have none.
        if inner_access.get("nonce") and not refreshed:
            id_token["nonce"] = inner_access["nonce"]
        response["id_token"] = ctx.keys.current.sign(id_token, ID_TYPE)
    return response


def open_access(ctx: Context, token: str) -> AccessToken:
    """Check one of our access tokens and open what it carries. Raises NotOurs."""
    try:
        claims = ctx.keys.verify(token, ACCESS_TYPE, issuer=ctx.issuer)
        return AccessToken(claims, ctx.tokens.open(str(claims.get("kiwi", "")))["t"])
    except (jwt.InvalidTokenError, ValueError):
        raise NotOurs from None


def open_refresh(ctx: Context, token: str) -> RefreshToken:
    """Open one of our refresh tokens. Raises NotOurs."""
    if not token.startswith(PREFIX):
        raise NotOurs
    box = ctx.refreshes.open(token[len(PREFIX) :])
    return RefreshToken(box["c"], box["r"], box["t"], Login(box["a"], box["s"]), box.get("i", 0))


def _at_hash(ctx: Context, access: str) -> str:
    # OIDC Core §3.1.3.6: the hash of the signing algorithm; for EdDSA with Ed25519 that is SHA-512.
    algorithm = hashlib.sha512 if ctx.keys.current.alg == "EdDSA" else hashlib.sha256
    digest = algorithm(access.encode("ascii")).digest()
    return base64url(digest[: len(digest) // 2])


def payload(token: str) -> dict[str, Any]:
    """Return the payload of a JWS without checking it; nothing for an opaque token (client_credentials)."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    return payload if isinstance(payload, dict) else {}
