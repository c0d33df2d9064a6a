"""The token endpoint (RFC 6749 §3.2, §4.1.3, §4.4, §6): Kanidm checks client and grant, we sign what it gives.

``/oauth2/token`` is Kanidm's own path, too. What carries a code or refresh token of Kanidm's own, or asks for a grant that only
Kanidm knows, is passed through untouched: its per-client issuers go on working.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

import trio

from kiwi_id.issuer import tokens
from kiwi_id.issuer.authentication import authenticate, lives, refuse_needless_secret
from kiwi_id.issuer.box import NotOurs
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.encoding import PREFIX, s256
from kiwi_id.issuer.http import CORS, Credentials, OAuthError, Request, Response, credentials, error_response, json_response
from kiwi_id.issuer.replay import Exchange, Memory, UsedCode
from kiwi_id.issuer.tokens import Login
from kiwi_id.kanidm.oauth2 import Surprise

# How long a refresh token that is sent again gets the same answer (seconds): two tabs of one application, a retry after a lost
# answer. Later reuse goes to Kanidm, which then ends the session.
REFRESH_GRACE = 10.0
# Longer than Kanidm's codes live, so that no code can be exchanged that we have forgotten.
CODE_MEMORY = 120.0
# How long one request waits for another that carries the same code or refresh token, seconds.
MOST_WAIT = 10.0

_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
# Codes and refresh tokens of Kanidm's own: Fernet (1.5) and compact JWE (1.6+), which has five parts; a JWT, ours or Kanidm's, has
# three and is neither. Device and token exchange are Kanidm's grants alone.
_KANIDM_TOKEN = re.compile(r"gAAAA[A-Za-z0-9_-]{95,}={0,2}|eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+){3}")
_OURS = frozenset({"authorization_code", "refresh_token", "client_credentials"})
_KANIDM_GRANT = "urn:ietf:params:oauth:grant-type:"


def is_native(request: Request) -> bool:
    """Tell whether a POST is meant for Kanidm's own token endpoint and must be passed on as it came."""
    try:
        form = request.parameters()
    except OAuthError:
        return False
    grant = form.get("grant_type", "")
    carried = form.get("code" if grant == "authorization_code" else "refresh_token", "")
    return grant.startswith(_KANIDM_GRANT) or (grant in _OURS and _KANIDM_TOKEN.fullmatch(carried) is not None)


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
        who = await ctx.secrets.inward(who)
        await refuse_needless_secret(ctx, who)
        answer = await _answer(ctx, grant, form, who, memory)
    except OAuthError as error:
        return error_response(error)
    return json_response(200, answer, (b"pragma", b"no-cache"), CORS)


async def _answer(ctx: Context, grant: str, form: Mapping[str, str], who: Credentials, memory: Memory) -> dict[str, Any]:
    try:
        if grant == "authorization_code":
            return await _code(ctx, form, who, memory)
        if grant == "refresh_token":
            return await _refresh(ctx, form, who, memory)
        return await _client_credentials(ctx, form, who)
    except OAuthError as error:
        if error.error == "invalid_grant":
            # Who has not shown who he is, is told that, and nothing of the grant (RFC 6749 §3.2.1).
            await authenticate(ctx, who)
        raise


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
    record = await _claim(ctx, code, who, memory)
    asked = {"grant_type": "authorization_code", "code": box["k"], "redirect_uri": box["r"], "code_verifier": box["v"]}
    try:
        answer = await _ask(ctx, asked, who)
        record.used = UsedCode(who.client_id, who.secret, answer["access_token"])
    except BaseException:
        # A wrong client secret, or Kanidm down: the rightful client may try again with the same code, or is waiting to.
        memory.free_code(code)
        raise
    finally:
        record.done.set()
    return tokens.issue(ctx, who.client_id, answer, Login(box["a"], box["s"]))


async def _claim(ctx: Context, code: str, who: Credentials, memory: Memory) -> Exchange:
    """Take a code for oneself. Who comes second waits for the first, and goes on in its place when that one failed.

    RFC 6749 §4.1.2: a code that comes again may have been stolen, so what it gave is taken back; but not for somebody who only
    says that he is the client.
    """
    with trio.move_on_after(MOST_WAIT):
        first, record = memory.join_code(code, lifetime=CODE_MEMORY)
        while not first and record.used is None:
            await record.done.wait()
            if record.used is None:
                first, record = memory.join_code(code, lifetime=CODE_MEMORY)
    if first:
        return record
    if record.used is None:
        raise Surprise("no end of another exchange of the same code")
    await authenticate(ctx, who)
    status = await ctx.kanidm.revoke(record.used.inner, record.used.client_id, record.used.secret)
    if status not in (200, 400):  # 400: over already
        raise Surprise(f"status {status} from revocation")
    raise OAuthError("invalid_grant", "The code has been used already; what it gave is revoked.")


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
    if record.answer is not None and not await lives(ctx, record.inner, who.client_id, who):
        raise OAuthError("invalid_grant", "The session of the refresh token has ended.")
    with trio.move_on_after(MOST_WAIT):
        while not first and record.answer is None:
            await record.done.wait()
            if record.answer is None:
                # It failed, perhaps only because kanidmd was just restarted: one of those who waited asks again.
                first, record = memory.join_refresh(sent, key, window=REFRESH_GRACE)
    if record.answer is not None:
        return record.answer
    if not first:
        raise Surprise("no end of another refresh by the same token")
    try:
        await _next_second(refresh.issued)
        answer = await _ask(ctx, asked, who)
        record.answer, record.inner = (
            tokens.issue(ctx, who.client_id, answer, refresh.login, refreshed=True),
            answer["access_token"],
        )
    except BaseException:
        memory.drop_refresh(sent, key)
        raise
    finally:
        record.done.set()
    return record.answer


async def _next_second(issued: int) -> None:
    """Wait until the second in which a refresh token was made is over.

    Kanidm knows a used refresh token by the second of the last refresh, which must be a later one (oauth2.rs, ``iat <
    issued_at``): of a refresh within the same second it would keep nothing, and take the token ever again.
    """
    left = issued + 1 - time.time()
    if left > 0:
        await trio.sleep(min(left, 1.0) + 0.01)  # never longer, even if the clock was set back; and not a moment too early


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
