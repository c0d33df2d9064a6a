"""The way back: Kanidm's redirect to a relying party, seen in passing, becomes ours when its state is one of our boxes."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from kiwi_id.issuer.asked import Asked
from kiwi_id.issuer.authorize import STATE_COOKIE, make_code, send_to_kanidm
from kiwi_id.issuer.box import NotOurs, TooOld
from kiwi_id.issuer.consent import ask, remember_client
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.encoding import PREFIX
from kiwi_id.issuer.http import Header, OAuthError, Request, Response, redirect
from kiwi_id.issuer.responses import hand_over, mistake, parameters_of, target

HAND_OVER_LIFETIME = 120.0


def is_ours(location: bytes) -> bool:
    """Tell, cheaply, whether a Location of Kanidm's may hold one of our boxes."""
    return b"state=" + PREFIX.encode() in location


async def intercept(ctx: Context, request: Request, location: str, kept: list[Header]) -> Response | None:
    """Return the response that takes the place of Kanidm's redirect to ``location``, or None when it is none of ours.

    ``kept`` are Kanidm's own cookie headers, which go on to the browser.
    """
    parts = urlsplit(location)
    parameters = parse_qs(parts.query or parts.fragment)
    too_long = mistake("This sign-in took too long", "Go back to the application and sign in again.", ours=True)
    try:
        # The last one: from Kanidm 1.6 on, a redirect URI keeps a query of its own, which may have a state, too.
        box = ctx.states.open(parameters.get("state", [""])[-1].removeprefix(PREFIX))
    except TooOld:
        return too_long
    except NotOurs:
        return None  # a client of Kanidm's own issuers, whose state begins as ours do
    if box.get("k"):
        try:
            box["s"] = ctx.parked.open(request.cookie(STATE_COOKIE + box["k"]))["s"]
        except NotOurs:
            return too_long
        gone = f"{STATE_COOKIE}{box['k']}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax"
        kept = [*kept, (b"set-cookie", gone.encode())]
    asked = Asked.from_box(box)
    session = await ctx.kanidm.session(request.cookie("bearer"))
    if session is None:
        return _back(ctx, asked, {"error": "login_required", "error_description": "The session has ended."}, kept)
    if not asked.accepts(session):  # an older login, another tab's perhaps: it has to be done again
        again = send_to_kanidm(ctx, asked, refused=session)
        again.headers += kept
        return again
    if asked.hint_sub and asked.hint_sub != session.uuid:
        # OIDC Core §3.1.2.1: whom the id_token_hint names has not logged in, but somebody else.
        return _back(ctx, asked, {"error": "login_required", "error_description": "Another user has logged in."}, kept)
    if box["p"] and request.path != "/ui/oauth2/consent":
        shown_page = ask(ctx, asked, session, asked.client_id)
        shown_page.headers += kept
        return shown_page
    try:
        content = {"code": make_code(ctx, asked, location, session)}
    except OAuthError as error:
        content = {"error": error.error, "error_description": error.description}
    return _back(ctx, asked, content, [*kept, *remember_client(ctx, request, session, asked.client_id)])


def _back(ctx: Context, asked: Asked, content: dict[str, str], headers: list[Header]) -> Response:
    parameters = parameters_of(ctx, asked.state, content)
    if asked.mode != "form_post" and asked.redirect_uri.startswith("https://"):
        url = target(asked.redirect_uri, asked.mode, parameters)
    else:
        box = {"r": asked.redirect_uri, "m": asked.mode, "p": parameters}
        url = "/oauth2/continue?box=" + ctx.hand_overs.seal(box, lifetime=HAND_OVER_LIFETIME)
    # Kanidm's pages send their forms by htmx, which goes where HX-Redirect says.
    return redirect(url, (b"hx-redirect", url.encode()), *headers)


async def go_on(ctx: Context, request: Request) -> Response:
    """Answer ``/oauth2/continue``: the page between Kanidm's consent form and a relying party that a redirect cannot reach."""
    try:
        box = ctx.hand_overs.open(request.parameters().get("box", ""))
        return hand_over(box["r"], box["m"], box["p"])
    except (NotOurs, OAuthError):
        return mistake("This page is too old", "Go back to the application and sign in again.", ours=True)
