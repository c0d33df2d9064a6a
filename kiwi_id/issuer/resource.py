"""What tokens are asked about: userinfo (OIDC Core §5.3), introspection (RFC 7662) and revocation (RFC 7009).

Each opens our token and asks Kanidm with its own, so that a session ended in Kanidm is dead here at the same moment.
"""

from __future__ import annotations

from typing import Any

from kiwi_id.issuer import tokens
from kiwi_id.issuer.authentication import authenticate, lives
from kiwi_id.issuer.box import NotOurs
from kiwi_id.issuer.claims import user_claims
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.encoding import PREFIX
from kiwi_id.issuer.http import (
    CORS,
    Credentials,
    OAuthError,
    Request,
    Response,
    bearer_challenge,
    credentials,
    error_response,
    json_response,
)
from kiwi_id.kanidm.oauth2 import Surprise

_GONE = "The access token has expired, or its session has ended."


async def userinfo(ctx: Context, request: Request) -> Response:
    """Answer a userinfo request: GET or POST, the token in the header or in a form body (RFC 6750 §2.1, §2.2)."""
    try:
        sent = _bearer(request)
    except OAuthError as error:
        return bearer_challenge("invalid_request", error.description, 400)
    if not sent:
        return bearer_challenge("", "An access token is needed.")
    try:
        token = tokens.open_access(ctx, sent)
    except NotOurs:
        return bearer_challenge("invalid_token", _GONE)
    if "openid" not in str(token.claims.get("scope", "")).split():
        return bearer_challenge("insufficient_scope", "The scope openid is needed.", 403)
    found = await ctx.kanidm.userinfo(token.client_id, token.inner)
    if found is None:
        return bearer_challenge("invalid_token", _GONE)
    # A claim map may bear the name of a claim of ours, in Kanidm's answer, too: who it is about, the token says.
    return json_response(200, {**user_claims(ctx, found), "sub": token.claims["sub"]}, CORS)


def _bearer(request: Request) -> str:
    scheme, rest = request.authorization()
    in_header = rest.decode("latin-1") if scheme == b"bearer" else ""
    in_form = ""
    # RFC 6750 §2.1, §2.2: the header counts whatever the body is; a body counts only when it is a form.
    kind = request.header(b"content-type").partition(b";")[0].strip().lower()
    if request.method == "POST" and kind == b"application/x-www-form-urlencoded":
        in_form = request.parameters().get("access_token", "")
    if in_header and in_form:
        raise OAuthError("invalid_request", "The access token is there twice.")
    return in_header or in_form


async def introspect(ctx: Context, request: Request) -> Response:
    """Answer an introspection request. The caller must be a client that Kanidm knows, but need not be the token's own."""
    try:
        form, who = await _form(ctx, request)
        await authenticate(ctx, who)
    except OAuthError as error:
        return error_response(error)
    sent = form["token"]
    try:
        access = tokens.open_access(ctx, sent)
    except NotOurs:
        return json_response(200, await _introspect_refresh(ctx, sent, who), CORS)
    if not await lives(ctx, access.inner, access.client_id, who):
        return json_response(200, {"active": False}, CORS)
    claims = access.claims
    answer: dict[str, Any] = {
        name: claims[name] for name in ("scope", "client_id", "sub", "aud", "iss", "exp", "iat", "jti") if name in claims
    }
    if "preferred_username" in claims:
        answer["username"] = claims["preferred_username"]
    return json_response(200, {"active": True, "token_type": "Bearer", **answer}, CORS)


async def _introspect_refresh(ctx: Context, sent: str, who: Credentials) -> dict[str, Any]:
    """A refresh token is nobody's but its client's, and lives as long as Kanidm says so of the access token that came with it.

    Kanidm cannot be asked about a refresh token without using it up. Once that access token has expired nothing can be said of
    the session any more, and RFC 7662 §2.2 wants "inactive" where activity cannot be shown.
    """
    try:
        refresh = tokens.open_refresh(ctx, sent)
    except NotOurs:
        return {"active": False}
    if refresh.client_id != who.client_id or not await lives(ctx, refresh.access, refresh.client_id, who):
        return {"active": False}
    return {"active": True, "client_id": refresh.client_id, "iss": ctx.issuer}


async def revoke(ctx: Context, request: Request) -> Response:
    """Answer a revocation request. Either token ends the whole session, as it does in Kanidm (RFC 7009 §2.1 allows it)."""
    try:
        form, who = await _form(ctx, request)
        await authenticate(ctx, who)  # not left to Kanidm's own revocation: from 1.10 on it asks for no credentials
        sent = form["token"]
        try:
            if sent.startswith(PREFIX):
                refresh = tokens.open_refresh(ctx, sent)
                owner, inner = refresh.client_id, refresh.inner
            else:
                access = tokens.open_access(ctx, sent)
                owner, inner = access.client_id, access.inner
        except NotOurs:
            return json_response(200, {}, CORS)  # RFC 7009 §2.2: an unknown token is as good as a revoked one
        if owner != who.client_id:
            raise OAuthError("invalid_grant", "The token was issued to another client.")
        status = await ctx.kanidm.revoke(inner, who.client_id, who.secret)
        if status not in (200, 400):  # 400: over already, or never one
            raise Surprise(f"status {status} from revocation")
    except OAuthError as error:
        return error_response(error)
    return json_response(200, {}, CORS)


async def _form(ctx: Context, request: Request) -> tuple[dict[str, str], Credentials]:
    form = request.parameters()
    if "token" not in form:
        raise OAuthError("invalid_request", "The parameter 'token' is missing.")
    who = credentials(request, form)
    if who is None:
        raise OAuthError("invalid_client", "The client does not name itself.", status=401)
    return form, await ctx.secrets.inward(who)
