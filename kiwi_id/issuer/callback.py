"""The way back: what Kanidm would answer, or redirect to a relying party, becomes ours when its state is one of our boxes."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qs, urlsplit

from kiwi_id.issuer import parked
from kiwi_id.issuer.asked import Asked
from kiwi_id.issuer.authorize import NOT_ALLOWED, make_code, send_to_kanidm
from kiwi_id.issuer.box import NotOurs, TooOld
from kiwi_id.issuer.consent import ask, remember_client
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.encoding import PREFIX
from kiwi_id.issuer.http import Header, OAuthError, Request, Response, redirect
from kiwi_id.issuer.responses import hand_over, mistake, parameters_of, target
from kiwi_id.kanidm.oauth2 import Denied, Granted, NeedsConsent, Session, read_session

HAND_OVER_LIFETIME = 120.0
RESUME = "/ui/oauth2/resume"
_CONSENT = "/ui/oauth2/consent"
# Kanidm's cookie for a request that waits for a login (proto/src/internal/mod.rs): a JWS, which anybody can read.
_PENDING = "o2-authreq"


def is_ours(location: bytes) -> bool:
    """Tell, cheaply, whether a Location of Kanidm's may hold one of our boxes."""
    return b"state=" + PREFIX.encode() in location


async def resume(ctx: Context, request: Request) -> Response | None:
    """Answer in Kanidm's place where it would go on with a request of ours, or return None: then Kanidm does.

    That is after a login (``/ui/oauth2/resume``), or with a live session at ``/ui/oauth2``. Kanidm would show a page of its own to
    a user who may not use the client; the relying party has to hear of it (RFC 6749 §4.1.2.1). What has to be shown (login,
    consent) is still Kanidm's to show. The request is taken from our box and not from what Kanidm's cookie says beside it, whose
    signature only Kanidm can check.
    """
    bearer, state = request.cookie("bearer"), _waiting(request)
    if not bearer or not state.startswith(PREFIX) or not _one_session(request):
        return None
    gone = f"{_PENDING}=; Path=/; Domain={ctx.domain}; Max-Age=0; Secure; HttpOnly; SameSite=Strict"
    kept: list[Header] = [(b"set-cookie", gone.encode())] if request.path == RESUME else []
    try:
        asked, kept = _unpack(ctx, request, state, kept)
    except NotOurs:
        return None
    result = await ctx.authorise(asked.kanidm_parameters(), bearer)
    session = read_session(bearer) or await ctx.kanidm.session(bearer)
    if session is None or not isinstance(result, Granted | Denied | NeedsConsent):
        return None
    if isinstance(result, NeedsConsent) and asked.accepts(session):
        return None
    return _finish(ctx, request, asked, session, result.location if isinstance(result, Granted) else "", kept)


def _waiting(request: Request) -> str:
    if request.path != RESUME:
        return parse_qs(request.query.decode("latin-1")).get("state", [""])[-1]
    parts = request.cookie(_PENDING).split(".")
    try:
        pending = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return str(pending["state"])
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        return ""


def _one_session(request: Request) -> bool:
    # Kanidm reads the last cookie of a name, and none beside an Authorization header (server/core/src/https/extractors/mod.rs):
    # whoever sent two sessions could show us one and get a code for the other.
    pairs = [pair.strip() for name, value in request.headers if name == b"cookie" for pair in value.split(b";")]
    found = {pair for pair in pairs if pair.partition(b"=")[0].strip() == b"bearer"}
    return len(found) <= 1 and not request.header(b"authorization")


def _unpack(ctx: Context, request: Request, state: str, kept: list[Header]) -> tuple[Asked, list[Header]]:
    """Return the request in a state of ours, and the cookie headers with those that it makes needless. Raises NotOurs, TooOld."""
    box = ctx.states.open(state.removeprefix(PREFIX))
    if box.get("k"):
        try:
            box["s"], gone = parked.fetch(ctx, request, box["k"])
        except NotOurs:
            raise TooOld from None
        kept = [*kept, gone]
    return Asked.from_box(box), kept


async def intercept(ctx: Context, request: Request, location: str, kept: list[Header]) -> Response | None:
    """Return the response that takes the place of Kanidm's redirect to ``location``, or None when it is none of ours.

    ``kept`` are Kanidm's own cookie headers, which go on to the browser.
    """
    parts = urlsplit(location)
    parameters = parse_qs(parts.query or parts.fragment)
    try:
        # The last one: from Kanidm 1.6 on, a redirect URI keeps a query of its own, which may have a state, too.
        asked, kept = _unpack(ctx, request, parameters.get("state", [""])[-1], kept)
    except TooOld:
        return mistake("This sign-in took too long", "Go back to the application and sign in again.", ours=True)
    except NotOurs:
        return None  # a client of Kanidm's own issuers, whose state begins as ours do
    if not _one_session(request):
        return mistake("You are signed in twice", "Delete this site's cookies in your browser, and sign in again.", ours=True)
    session = await ctx.kanidm.session(request.cookie("bearer"))
    if session is None:
        return _back(ctx, asked, {"error": "login_required", "error_description": "The session has ended."}, kept)
    return _finish(ctx, request, asked, session, location, kept)


def _finish(ctx: Context, request: Request, asked: Asked, session: Session, location: str, kept: list[Header]) -> Response:
    """Answer for a session whose code is in ``location``; empty: the user may not use the client."""
    try:
        if not asked.accepts(session):  # an older login, another tab's perhaps: it has to be done again
            again = send_to_kanidm(ctx, request, asked, refused=session)
            again.headers += kept
            return again
        if asked.hint_sub and asked.hint_sub != session.uuid:
            # OIDC Core §3.1.2.1: whom the id_token_hint names has not logged in, but somebody else.
            raise OAuthError("login_required", "Another user has logged in.")
        if not location:
            raise OAuthError("access_denied", NOT_ALLOWED)
        if "consent" in asked.prompt and request.path != _CONSENT:
            shown_page = ask(ctx, asked, session, asked.client_id)
            shown_page.headers += kept
            return shown_page
        code = make_code(ctx, asked, location, session)
    except OAuthError as error:
        return _back(ctx, asked, {"error": error.error, "error_description": error.description}, kept)
    return _back(ctx, asked, {"code": code}, [*kept, *remember_client(ctx, request, session, asked.client_id)])


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
