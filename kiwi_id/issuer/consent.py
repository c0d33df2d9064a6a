"""Consent of our own (``prompt=consent``, which Kanidm skips once it knows the answer), and which clients a session has used.

The latter is a sealed cookie with the client ids, for logout: whoever logged in with this browser session is told of its end.
"""

from __future__ import annotations

import html
from typing import Any

from kiwi_id.issuer.asked import Asked
from kiwi_id.issuer.box import NotOurs
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.http import Header, OAuthError, Request, Response, page
from kiwi_id.issuer.responses import authorization_response, form_action, mistake, place
from kiwi_id.kanidm.oauth2 import Granted, NeedsConsent, NeedsLogin, Session

PAGE_LIFETIME = 600.0
SESSION_COOKIE = "__Host-kiwi-clients"
_SESSION_LIFETIME = 30 * 86400.0
_MOST_CLIENTS = 60

_WORDS = {
    "openid": "who you are (a stable identifier)",
    "profile": "your name",
    "email": "your e-mail address",
    "groups": "the groups you are in",
}


def ask(ctx: Context, asked: Asked, session: Session, client_name: str) -> Response:
    """Return the page that asks the user; its form comes back to :func:`decide`."""
    box = ctx.consents.seal({**asked.to_box(), "of": session.session_id}, lifetime=PAGE_LIFETIME)
    items = "\n".join(f"<li>{html.escape(_WORDS.get(scope, scope))}</li>" for scope in asked.scope.split())
    content = (
        f"<p><strong>{html.escape(client_name)}</strong> asks to see:</p>\n<ul>\n{items}\n</ul>\n"
        f'<form class="choice" method="post" action="/oauth2/consent">\n<input type="hidden" name="box" value="{box}">\n'
        '<button class="yes" name="decision" value="allow">Allow</button>\n'
        '<button name="decision" value="refuse">Refuse</button>\n</form>\n'
        f'<p class="note">You are signed in as {html.escape(session.spn)}, and will go on to '
        f"{html.escape(place(asked.redirect_uri))}.</p>"
    )
    return page(200, "Consent required", content, form_action=form_action(asked.redirect_uri))


async def decide(ctx: Context, request: Request) -> Response:
    """Take the user's decision.

    The box names the session that was asked, so that a decision can be neither forged nor carried over to another user's.
    """
    from kiwi_id.issuer.authorize import finish, send_to_kanidm  # noqa: PLC0415 - the two call each other

    try:
        form = request.parameters()
        box = ctx.consents.open(form.get("box", ""))
    except (OAuthError, NotOurs):
        return mistake("This page is too old", "Go back to the application and sign in again.", ours=True)
    asked = Asked.from_box(box)
    bearer = request.cookie("bearer")
    session = await ctx.kanidm.session(bearer)
    if session is None or session.session_id != box["of"]:
        return mistake("You are signed in differently now", "Go back to the application and sign in again.", ours=True)
    if form.get("decision") != "allow":
        content = {"error": "access_denied", "error_description": "The user refused."}
        return authorization_response(ctx, asked.redirect_uri, asked.mode, asked.state, content)
    result: Any = NeedsLogin()
    if asked.accepts(session):  # else it has become older than max_age while the page was open
        result = await ctx.authorise(asked.kanidm_parameters(), bearer)
    if isinstance(result, NeedsConsent):
        result = await ctx.kanidm.permit(result.token, bearer)
    if isinstance(result, NeedsLogin):  # or it has ended
        try:
            return send_to_kanidm(ctx, request, asked, refused=session)
        except OAuthError as error:
            content = {"error": error.error, "error_description": error.description}
            return authorization_response(ctx, asked.redirect_uri, asked.mode, asked.state, content)
    if not isinstance(result, Granted):
        content = {"error": "access_denied", "error_description": "This user may not use this application."}
        return authorization_response(ctx, asked.redirect_uri, asked.mode, asked.state, content)
    return finish(ctx, asked, result.location, session, request)


def clients_of(ctx: Context, request: Request, session_id: str) -> list[str]:
    """Return the clients that have logged in with this browser session, as far as its cookie tells."""
    try:
        box = ctx.sessions.open(request.cookie(SESSION_COOKIE))
    except NotOurs:
        return []
    return list(box["c"]) if box["i"] == session_id else []


def remember_client(ctx: Context, request: Request, session: Session, client_id: str) -> list[Header]:
    """Return the header that adds a client to the session's cookie; none when it is there already, or will never be told."""
    if not ctx.settings(client_id).backchannel_logout_uri:
        return []
    known = clients_of(ctx, request, session.session_id)
    if client_id in known:
        return []
    box = {"i": session.session_id, "c": [*known, client_id][-_MOST_CLIENTS:]}
    value = ctx.sessions.seal(box, lifetime=_SESSION_LIFETIME)
    cookie = f"{SESSION_COOKIE}={value}; Path=/; Max-Age={int(_SESSION_LIFETIME)}; Secure; HttpOnly; SameSite=Lax"
    return [(b"set-cookie", cookie.encode())]
