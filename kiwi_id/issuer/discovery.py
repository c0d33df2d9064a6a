"""Discovery (OIDC Discovery 1.0 §3, RFC 8414 §2) and the key set: true, complete, and answered without Kanidm."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from kiwi_id.issuer.context import Context
from kiwi_id.issuer.http import CORS, Request, Response
from kiwi_id.issuer.keys import JWKS_MAX_AGE
from kiwi_id.page import NOSNIFF

_AUTHENTICATION = ["client_secret_basic", "client_secret_post", "none"]


def document(ctx: Context) -> dict[str, Any]:
    """Return the metadata; one document serves OpenID Connect and OAuth 2.0 alike."""
    base = ctx.issuer
    return {
        "issuer": base,
        "authorization_endpoint": f"{base}/oauth2/authorize",
        "token_endpoint": f"{base}/oauth2/token",
        "userinfo_endpoint": f"{base}/oauth2/userinfo",
        "jwks_uri": f"{base}/oauth2/keys",
        "introspection_endpoint": f"{base}/oauth2/introspect",
        "revocation_endpoint": f"{base}/oauth2/revoke",
        "end_session_endpoint": f"{base}/oauth2/logout",
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "fragment", "form_post"],
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "subject_types_supported": ["public"],
        "scopes_supported": ["openid", "profile", "email", "groups"],
        "claims_supported": [
            *("iss", "sub", "aud", "azp", "exp", "iat", "auth_time", "nonce", "at_hash", "sid"),
            *("name", "preferred_username", "email", "email_verified", "groups", "updated_at"),
        ],
        "claim_types_supported": ["normal"],
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "id_token_signing_alg_values_supported": ctx.keys.algorithms,
        "token_endpoint_auth_methods_supported": _AUTHENTICATION,
        "introspection_endpoint_auth_methods_supported": _AUTHENTICATION,
        "revocation_endpoint_auth_methods_supported": _AUTHENTICATION,
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "backchannel_logout_supported": True,
        "backchannel_logout_session_supported": True,
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }


class Published:
    """The two documents as bytes, made once for a context."""

    def __init__(self, ctx: Context) -> None:
        body = json.dumps(document(ctx), separators=(",", ":")).encode()
        self.discovery = (body, '"' + hashlib.sha256(body).hexdigest()[:32] + '"')
        self.keys = (ctx.keys.jwks, ctx.keys.etag)


def published(request: Request, content: tuple[bytes, str]) -> Response:
    """Return a public document with its ETag, or 304 when the client has it (RFC 9110 §13.1.2)."""
    body, etag = content
    headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"public, max-age=%d" % JWKS_MAX_AGE),
        (b"etag", etag.encode()),
        CORS,
        NOSNIFF,
    ]
    known = {tag.strip().removeprefix(b"W/") for tag in request.header(b"if-none-match").split(b",")}
    if etag.encode() in known or b"*" in known:
        return Response(304, headers[1:])
    return Response(200, headers, body)
