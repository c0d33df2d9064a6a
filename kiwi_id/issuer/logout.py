"""Logout: RP-initiated (OpenID Connect RP-Initiated Logout 1.0), and the logout tokens that tell the other clients.

A logout ends Kanidm's browser session, and with it every token that hangs on it. Without a valid ``id_token_hint`` the user is
asked first: any page could send a browser here.
"""

from __future__ import annotations

import html
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlencode

import jwt

from kiwi_id.issuer import consent, posted
from kiwi_id.issuer.box import NotOurs
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.http import Header, OAuthError, Request, Response, page, redirect, shown
from kiwi_id.issuer.responses import form_action, mistake
from kiwi_id.kanidm.oauth2 import Session

PAGE_LIFETIME = 600.0
TOKEN_TYPE = "logout+jwt"  # noqa: S105 - a media type
# Short: the token is delivered at once or, after some retries, never (Back-Channel Logout 1.0 §2.6 wants it short).
TOKEN_LIFETIME = 120
EVENT = "http://schemas.openid.net/event/backchannel-logout"


@dataclass(frozen=True)
class Notice:
    """A logout token on its way to a client."""

    client_id: str
    uri: str
    token: str


# Takes the notices of a session's end for delivery and returns at once.
Deliver = Callable[[list[Notice]], Awaitable[None]]


async def log_out(ctx: Context, request: Request, deliver: Deliver) -> Response:
    """Answer the end-session endpoint (GET and POST), first visit and confirmation alike."""
    try:
        parameters = posted.parameters_of(ctx, request)
        if "box" in parameters:
            return await _confirmed(ctx, request, parameters, deliver)
        hint, client_id = _hint(ctx, parameters)
        back = _way_back(ctx, client_id, parameters)
        if posted.is_blind(request):
            return posted.as_get(ctx, request, parameters)
    except OAuthError as error:
        return mistake("This sign-out request cannot be answered", error.description)
    bearer = request.cookie("bearer")
    session = await ctx.kanidm.session(bearer)
    if session is None:
        return _nothing_to_end(back)
    # The hint must be of this very session: an old ID token of somebody else's proves nothing about who sits here now.
    if hint.get("sub") == session.uuid and hint.get("sid", session.session_id) == session.session_id:
        return await _end(ctx, request, session, bearer, back, deliver)
    box = ctx.logouts.seal({"i": session.session_id, "b": back}, lifetime=PAGE_LIFETIME)
    content = (
        f"<p>You are signed in as <strong>{html.escape(session.spn)}</strong>.</p>\n"
        f'<form class="choice" method="post" action="/oauth2/logout">\n<input type="hidden" name="box" value="{box}">\n'
        '<button class="yes" name="decision" value="yes">Sign out</button>\n'
        '<button name="decision" value="no">Stay signed in</button>\n</form>'
    )
    return page(200, "Sign out?", content, form_action=form_action(back))


async def _confirmed(ctx: Context, request: Request, parameters: dict[str, str], deliver: Deliver) -> Response:
    try:
        box = ctx.logouts.open(parameters["box"])
        asked, back = box["i"], box["b"]
    except NotOurs:
        return mistake("This page is too old", "Nothing was changed. Please sign out again.", ours=True)
    if parameters.get("decision") != "yes":
        return page(200, "Still signed in", "<p>Nothing was changed. You can close this page.</p>")
    bearer = request.cookie("bearer")
    session = await ctx.kanidm.session(bearer)
    if session is None:
        return _nothing_to_end(back)
    if session.session_id != asked:
        return mistake("You are signed in differently now", "Go back to the application and sign out again.", ours=True)
    return await _end(ctx, request, session, bearer, back, deliver)


def _hint(ctx: Context, parameters: dict[str, str]) -> tuple[dict[str, str], str]:
    client_id = parameters.get("client_id", "")
    sent = parameters.get("id_token_hint", "")
    if not sent:
        return {}, client_id
    try:
        hint = ctx.keys.verify(sent, "JWT", issuer=ctx.issuer, expired_ok=True)
    except jwt.InvalidTokenError:
        raise OAuthError("invalid_request", "The id_token_hint is not an ID token of this issuer.") from None
    if client_id and hint.get("aud") != client_id:
        raise OAuthError("invalid_request", "The id_token_hint was issued to another client than client_id names.")
    return hint, str(hint.get("aud", ""))


def _way_back(ctx: Context, client_id: str, parameters: dict[str, str]) -> str:
    uri = parameters.get("post_logout_redirect_uri", "")
    if not uri:
        return ""
    if not client_id:
        raise OAuthError("invalid_request", "post_logout_redirect_uri needs client_id or id_token_hint beside it.")
    if uri not in ctx.settings(client_id).post_logout_redirect_uris:
        raise OAuthError("invalid_request", f"This post_logout_redirect_uri is not registered for '{shown(client_id)}'.")
    if "state" in parameters:
        uri += ("&" if "?" in uri else "?") + urlencode({"state": parameters["state"]})
    return uri


async def _end(ctx: Context, request: Request, session: Session, bearer: str, back: str, deliver: Deliver) -> Response:
    notices = notices_for(ctx, request, session)
    cleared = await ctx.kanidm.log_out(bearer)
    gone = f"{consent.SESSION_COOKIE}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax"
    await deliver(notices)
    return _done(back, [*cleared, (b"set-cookie", gone.encode())])


def _done(back: str, headers: list[Header]) -> Response:
    if back:
        return redirect(back, *headers)
    return page(200, "Signed out", "<p>You are signed out. You can close this page.</p>", *headers)


def _nothing_to_end(back: str) -> Response:
    # A hint may name a session that lives elsewhere, or whose cookie the browser keeps back: that one goes on.
    if back:
        return redirect(back)
    return page(200, "Not signed in", "<p>There was no session in this browser that could be ended. You can close this page.</p>")


def notices_for(ctx: Context, request: Request, session: Session) -> list[Notice]:
    """Return a logout token for each client that has logged in with this browser session and wants to be told.

    Back-Channel Logout 1.0 §2.4: ``sub``, ``sid``, ``events``, never a ``nonce``; a type of its own keeps it from being taken for
    an ID token.
    """
    notices = []
    now = int(time.time())
    for client_id in consent.clients_of(ctx, request, session.session_id):
        uri = ctx.settings(client_id).backchannel_logout_uri
        if uri:
            claims = {
                "iss": ctx.issuer,
                "sub": session.uuid,
                "aud": client_id,
                "iat": now,
                "exp": now + TOKEN_LIFETIME,
                "jti": secrets.token_urlsafe(16),
                "sid": session.session_id,
                "events": {EVENT: {}},
            }
            notices.append(Notice(client_id, uri, ctx.keys.current.sign(claims, TOKEN_TYPE)))
    return notices
