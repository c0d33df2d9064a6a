"""The authorization endpoint: OIDC Core §3.1.2 and RFC 6749 §4.1 in front of Kanidm, which checks client, redirect URI and user.

A request that a live session can answer is answered at once, through Kanidm's JSON authorization API. Any other travels in the
``state``: the browser goes to Kanidm's login with a sealed box for a state, and when Kanidm sends it back to the relying party,
:mod:`kiwi_id.issuer.callback` opens the box and finishes. Nothing is remembered in between.
"""

from __future__ import annotations

from urllib.parse import parse_qs, urlencode, urlsplit

from kiwi_id.issuer import consent, parked, posted
from kiwi_id.issuer.asked import Asked, check, is_exact, is_plain
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.encoding import PREFIX
from kiwi_id.issuer.http import Header, OAuthError, Request, Response, redirect, shown
from kiwi_id.issuer.responses import MODES, authorization_response, mistake
from kiwi_id.kanidm.oauth2 import Denied, Granted, Invalid, NeedsConsent, NeedsLogin, Session, read_session

# Kanidm keeps the request in a cookie for 15 minutes; whoever comes back later has to begin anew there anyway.
STATE_LIFETIME = 1800.0
# Kanidm's codes live 60 s (oauth2.rs:1276).
CODE_LIFETIME = 60.0
# Kanidm puts the whole request into a cookie, and browsers drop cookies over 4,096 bytes: measured, this long a target makes 3,922.
LONGEST_TARGET = 2800
NOT_ALLOWED = "This user may not use this application, or not with these scopes."


async def authorize(ctx: Context, request: Request) -> Response:
    """Answer an authorization request (GET or POST)."""
    try:
        parameters = posted.parameters_of(ctx, request)
    except OAuthError as error:
        return mistake("This sign-in request is malformed", error.description)
    client_id, redirect_uri = parameters.get("client_id", ""), parameters.get("redirect_uri", "")
    if not client_id or not redirect_uri:
        lacking = "client_id" if not client_id else "redirect_uri"
        return mistake("This sign-in request is incomplete", f"The parameter '{lacking}' is missing.")
    if not is_plain(redirect_uri):
        return _bad_redirect(redirect_uri)
    client = await ctx.client(client_id)
    if client is None:
        return mistake("Unknown application", f"No application is registered under the name '{shown(client_id)}'.")
    probe = Asked(client_id, redirect_uri, scope="openid", mode="query", state=None, nonce="", challenge="")
    mode = parameters.get("response_mode", "query")
    try:
        asked = check(ctx, parameters, client.scopes)
        if posted.is_blind(request):
            return posted.as_get(ctx, request, parameters)
        return await _answer(ctx, request, asked)
    except OAuthError as error:
        # Only now is it looked up whether that address may be told anything at all: this can never be an open redirect.
        if isinstance(await ctx.authorise(probe.kanidm_parameters()), Invalid):
            return _bad_redirect(redirect_uri)
        content = {"error": error.error, "error_description": error.description}
        usable, state = mode if mode in MODES else "query", parameters.get("state")
        if usable == "form_post" and not is_exact(state or ""):
            state = None  # another one than it was would be worse than none
        return authorization_response(ctx, redirect_uri, usable, state, content)


async def _answer(ctx: Context, request: Request, asked: Asked) -> Response:
    bearer = request.cookie("bearer")
    # Read, not yet believed: what follows from it is either a login, or an answer for which Kanidm has checked this very session.
    session = read_session(bearer) or await ctx.kanidm.session(bearer)
    anew = session is not None and asked.refuses(session)
    usable = session is not None and not anew
    if not usable and "none" not in asked.prompt and ctx.was_registered(asked.client_id, asked.redirect_uri):
        return send_to_kanidm(ctx, request, asked, refused=session)
    result = await ctx.authorise(asked.kanidm_parameters(), bearer if usable else "")
    if isinstance(result, Invalid):
        return _bad_redirect(asked.redirect_uri)
    if isinstance(result, Denied):
        raise OAuthError("access_denied", NOT_ALLOWED)
    if usable and session is not None and "consent" in asked.prompt and isinstance(result, Granted | NeedsConsent):
        # Only now, when Kanidm knows session and redirect URI: a refusal, too, is sent to that address.
        return consent.ask(ctx, asked, session, asked.client_id)
    if isinstance(result, Granted) and session is not None:
        return finish(ctx, asked, result.location, session, request)
    if "none" in asked.prompt:
        if isinstance(result, NeedsConsent):
            raise OAuthError("consent_required", "The user has to agree first.")
        raise OAuthError("login_required", "The user has to log in first.")
    assert isinstance(result, NeedsConsent | NeedsLogin)  # noqa: S101 - the union's last members
    return send_to_kanidm(ctx, request, asked, refused=session if anew else None)


def _bad_redirect(redirect_uri: str) -> Response:
    try:
        host = shown(urlsplit(redirect_uri).netloc)
    except ValueError:  # an address that is none, such as https://[::1
        host = ""
    return mistake(
        "Unknown return address",
        f"The application wants you sent to '{host or shown(redirect_uri)[:40]}', which is not registered for it.",
    )


def send_to_kanidm(ctx: Context, request: Request, asked: Asked, *, refused: Session | None) -> Response:
    """Send the browser to Kanidm's login or consent page, with the request sealed in the state.

    ``refused`` is a session that will not do. Its cookie is taken away, so that the login page is shown; the session itself, on
    which other applications' tokens depend, lives on.
    """
    headers: list[Header] = []
    if refused is not None:
        asked.refused = refused.session_id
    box = asked.to_box()
    target = _kanidm_target(asked, PREFIX + ctx.states.seal(box, lifetime=STATE_LIFETIME))
    if len(target) > LONGEST_TARGET and asked.state:
        key, headers = parked.park(ctx, request, asked.state, lifetime=STATE_LIFETIME)
        target = _kanidm_target(asked, PREFIX + ctx.states.seal({**box, "s": None, "k": key}, lifetime=STATE_LIFETIME))
    if len(target) > LONGEST_TARGET:
        raise OAuthError("invalid_request", "The request is too long: shorten redirect_uri, nonce or scope.")
    if refused is not None:
        cookie = f"bearer=; Path=/; Domain={ctx.domain}; Max-Age=0; Secure; HttpOnly; SameSite=Lax"
        headers.append((b"set-cookie", cookie.encode()))
    return redirect(target, *headers)


def _kanidm_target(asked: Asked, state: str) -> str:
    hint = {"login_hint": asked.login_hint} if asked.login_hint else {}
    return "/ui/oauth2?" + urlencode({**asked.kanidm_parameters(), "state": state, **hint})


def make_code(ctx: Context, asked: Asked, location: str, session: Session) -> str:
    """Return our code around Kanidm's, which ``location`` holds. Raises OAuthError when Kanidm gave none."""
    parts = urlsplit(location)
    code = parse_qs(parts.query or parts.fragment).get("code", [""])[-1]
    if not code:
        raise OAuthError("server_error", "Kanidm gave no code.")
    box = {
        "k": code,
        "v": asked.verifier,
        "c": asked.client_id,
        "r": asked.redirect_uri,
        "h": asked.challenge,
        "a": session.issued_at,
        "s": session.session_id,
    }
    return PREFIX + ctx.codes.seal(box, lifetime=CODE_LIFETIME)


def finish(ctx: Context, asked: Asked, location: str, session: Session, request: Request) -> Response:
    """Send the browser back to the relying party with a code."""
    code = make_code(ctx, asked, location, session)
    remember = consent.remember_client(ctx, request, session, asked.client_id)
    return authorization_response(ctx, asked.redirect_uri, asked.mode, asked.state, {"code": code}, *remember)
