"""The token endpoint (RFC 6749 §3.2, §4.1.3, §4.4, §6): Kanidm checks client and grant, we sign what it gives.

``/oauth2/token`` is Kanidm's own path, too. What carries a code or refresh token of Kanidm's own, or asks for a grant that only
Kanidm knows, is passed through untouched: its per-client issuers go on working.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

import trio

from kiwi_id.issuer import tokens
from kiwi_id.issuer.box import NotOurs
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.encoding import PREFIX, s256
from kiwi_id.issuer.http import CORS, Credentials, OAuthError, Request, Response, credentials, error_response, json_response
from kiwi_id.issuer.replay import Memory, UsedCode
from kiwi_id.issuer.tokens import Login

# How long a refresh token that is sent again gets the same answer (seconds): two tabs of one application, a retry after a lost
# answer. Later reuse goes to Kanidm, which then ends the session.
REFRESH_GRACE = 10.0
# Longer than Kanidm's codes live, so that no code can be exchanged that we have forgotten.
CODE_MEMORY = 120.0

_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
# Codes and refresh tokens of Kanidm's own: Fernet (1.5) and JWE (1.6+). Device and token exchange are Kanidm's grants alone.
_KANIDM_TOKEN = ("gAAAA", "eyJ")
_OURS = frozenset({"authorization_code", "refresh_token", "client_credentials"})
_KANIDM_GRANT = "urn:ietf:params:oauth:grant-type:"


def is_native(request: Request) -> bool:
    """Tell whether a request is meant for Kanidm's own token endpoint and must be passed on as it came."""
    try:
        form = request.parameters()
    except OAuthError:
        kind = request.header(b"content-type").partition(b";")[0].strip().lower()
        return kind != b"application/x-www-form-urlencoded"
    grant = form.get("grant_type", "")
    carried = form.get("code" if grant == "authorization_code" else "refresh_token", "")
    return grant.startswith(_KANIDM_GRANT) or (grant in _OURS and carried.startswith(_KANIDM_TOKEN))


async def token(ctx: Context, request: Request, memory: Memory) -> Response:
    """Answer a token request."""
    try:
        form = request.parameters()
        grant = form.get("grant_type", "")
        if not grant:
            raise OAuthError("invalid_request", "The parameter 'grant_type' is missing.")
        if grant not in _OURS:
            raise OAuthError("unsupported_grant_type", "The grants are authorization_code, refresh_token, client_credentials.")
        who = credentials(request, form)
        if who is None:
            raise OAuthError("invalid_client", "The client does not name itself.", status=401)
        if grant == "authorization_code":
            answer = await _code(ctx, form, who, memory)
        elif grant == "refresh_token":
            answer = await _refresh(ctx, form, who, memory)
        else:
            answer = await _client_credentials(ctx, form, who)
    except OAuthError as error:
        return error_response(error)
    return json_response(200, answer, (b"pragma", b"no-cache"), CORS)


async def _code(ctx: Context, form: Mapping[str, str], who: Credentials, memory: Memory) -> dict[str, Any]:
    code = form.get("code", "")
    if not code:
        raise OAuthError("invalid_request", "The parameter 'code' is missing.")
    try:
        if not code.startswith(PREFIX):
            raise NotOurs
        box = ctx.codes.open(code[len(PREFIX) :])
    except NotOurs:
        raise OAuthError("invalid_grant", "The code is not known, or too old.") from None
    if box["c"] != who.client_id:
        raise OAuthError("invalid_grant", "The code was issued to another client.")
    # RFC 6749 §4.1.3 wants it there; OAuth 2.1 does without it, where PKCE binds the code to who asked for it.
    if form.get("redirect_uri", box["r"] if box["h"] else "") != box["r"]:
        raise OAuthError("invalid_grant", "The redirect_uri is not the one of the authorization request.")
    _check_pkce(box["h"], form.get("code_verifier", ""))
    free, used = memory.claim_code(code, lifetime=CODE_MEMORY)
    if not free:
        # RFC 6749 §4.1.2: a code that comes again may have been stolen, so what it gave is taken back.
        if used is not None:
            await ctx.kanidm.revoke(used.inner, used.client_id, used.secret)
        raise OAuthError("invalid_grant", "The code has been used already; what it gave is revoked.")
    asked = {"grant_type": "authorization_code", "code": box["k"], "redirect_uri": box["r"], "code_verifier": box["v"]}
    try:
        answer = await _ask(ctx, asked, who)
    except BaseException:
        # A wrong client secret, or Kanidm down: the rightful client may try again with the same code.
        memory.free_code(code)
        raise
    memory.code_gave(code, UsedCode(who.client_id, who.secret, answer["access_token"]))
    return tokens.issue(ctx, who.client_id, answer, Login(box["a"], box["s"]))


def _check_pkce(challenge: str, verifier: str) -> None:
    if not challenge:
        # RFC 9700 §2.1.1: a verifier without a challenge may be a downgrade, so it is not simply ignored.
        if verifier:
            raise OAuthError("invalid_grant", "There is a code_verifier, but the authorization request had no code_challenge.")
        return
    if not _VERIFIER.fullmatch(verifier):
        raise OAuthError("invalid_grant", "The code_verifier is missing or malformed.")
    if not secrets.compare_digest(s256(verifier), challenge):
        raise OAuthError("invalid_grant", "The code_verifier does not match the code_challenge.")


async def _refresh(ctx: Context, form: Mapping[str, str], who: Credentials, memory: Memory) -> dict[str, Any]:
    sent = form.get("refresh_token", "")
    if not sent:
        raise OAuthError("invalid_request", "The parameter 'refresh_token' is missing.")
    try:
        refresh = tokens.open_refresh(ctx, sent)
    except NotOurs:
        raise OAuthError("invalid_grant", "The refresh token is not known, or too old.") from None
    if refresh.client_id != who.client_id:
        raise OAuthError("invalid_grant", "The refresh token was issued to another client.")
    asked = {"grant_type": "refresh_token", "refresh_token": refresh.inner}
    if "scope" in form:
        asked["scope"] = form["scope"]
    key = f"{who.client_id}\0{who.secret}\0{form.get('scope')}"
    first, record = memory.join_refresh(sent, key, window=REFRESH_GRACE)
    while not first:
        with trio.fail_after(REFRESH_GRACE):
            await record.done.wait()
        if record.answer is not None:
            return record.answer
        # The first to ask got no answer, perhaps only because kanidmd was just restarted: one of those who waited asks again.
        first, record = memory.join_refresh(sent, key, window=REFRESH_GRACE)
    try:
        answer = await _ask(ctx, asked, who)
        record.answer = tokens.issue(ctx, who.client_id, answer, refresh.login, refreshed=True)
    except BaseException:
        memory.drop_refresh(sent, key)
        raise
    finally:
        record.done.set()
    return record.answer


async def _client_credentials(ctx: Context, form: Mapping[str, str], who: Credentials) -> dict[str, Any]:
    if who.secret is None:
        raise OAuthError("unauthorized_client", "client_credentials needs a client with a secret.")
    if await ctx.client(who.client_id) is None:  # its name becomes the token's audience, so it must be written as it is
        raise OAuthError("invalid_client", "The client is unknown, or its secret is wrong.", status=401)
    asked = {"grant_type": "client_credentials"}
    if "scope" in form:
        asked["scope"] = form["scope"]
    answer = await _ask(ctx, asked, who)
    answer.pop("refresh_token", None)  # RFC 6749 §4.4.3
    return tokens.issue(ctx, who.client_id, answer, Login())


async def _ask(ctx: Context, asked: dict[str, str], who: Credentials) -> dict[str, Any]:
    """Ask Kanidm; return what it grants, or raise what its answer means in the words of RFC 6749 §5.2."""
    status, answer = await ctx.kanidm.token(asked, who.client_id, who.secret)
    if status == 200 and "access_token" in answer:
        return answer
    if status == 401:
        raise OAuthError("invalid_client", "The client is unknown, or its secret is wrong.", status=401)
    error = answer.get("error", "")
    if error in ("access_denied", "invalid_scope"):
        code = "invalid_scope" if "scope" in asked else "unauthorized_client"
        raise OAuthError(code, "The client may not have this grant, or not these scopes.")
    if asked["grant_type"] == "client_credentials":
        raise OAuthError("unauthorized_client", "The client may not use client_credentials.")
    # Kanidm says invalid_request (or invalid_origin) for every code, verifier and refresh token that is not good.
    raise OAuthError("invalid_grant", "The code or refresh token is not good any more, or its session has ended.")
