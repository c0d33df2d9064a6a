"""The authorization endpoint: OIDC Core §3.1.2 and RFC 6749 §4.1 in front of Kanidm, which checks client, redirect URI and user.

A request that a live session can answer is answered at once, through Kanidm's JSON authorization API. Any other travels in the
``state``: the browser goes to Kanidm's login with a sealed box for a state, and when Kanidm sends it back to the relying party,
:mod:`kiwi_id.issuer.callback` opens the box and finishes. Nothing is remembered in between.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import jwt

from kiwi_id.issuer import consent
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.http import Header, OAuthError, Request, Response, redirect, shown
from kiwi_id.issuer.responses import MODES, authorization_response, mistake
from kiwi_id.kanidm.oauth2 import Denied, Granted, Invalid, NeedsConsent, NeedsLogin, Session, read_session

# Kanidm keeps the request in a cookie for 15 minutes; whoever comes back later has to begin anew there anyway.
STATE_LIFETIME = 1800.0
# Kanidm's codes live 60 s (oauth2.rs:1276).
CODE_LIFETIME = 60.0
# Kanidm puts the whole request into a cookie, and browsers drop cookies over 4,096 bytes: measured, this long a target makes 3,922.
LONGEST_TARGET = 2800
_LONGEST_PARKED = 2600
PREFIX = "kiwi-"
STATE_COOKIE = "__Host-kiwi-state-"

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
# RFC 3986 without a fragment (RFC 6749 §3.1.2): nothing that a URL parser would strip, mend or read in two ways.
_REDIRECT_URI = re.compile(r"[a-z][a-z0-9+.-]*:[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]+")
_PROMPTS = frozenset({"none", "login", "consent", "select_account"})
_LONGEST = {"nonce": 1024, "redirect_uri": 1024, "login_hint": 256, "scope": 1024}


@dataclass
class Asked:
    """An authorization request, checked as far as it can be without Kanidm."""

    client_id: str
    redirect_uri: str
    scope: str
    mode: str
    state: str | None
    nonce: str
    challenge: str
    prompt: frozenset[str] = frozenset()
    max_age: int | None = None
    login_hint: str = ""
    hint_sub: str = ""
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    def kanidm_parameters(self) -> dict[str, str]:
        """Return the request as Kanidm is to see it: only what both versions take, and always with a PKCE of our own."""
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()
        parameters = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": self.scope,
            "state": PREFIX,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return {**parameters, "nonce": self.nonce} if self.nonce else parameters

    def to_box(self) -> dict[str, Any]:
        """Return what must come back with the browser."""
        return {
            "c": self.client_id,
            "r": self.redirect_uri,
            "o": self.scope,
            "m": self.mode,
            "s": self.state,
            "n": self.nonce,
            "h": self.challenge,
            "v": self.verifier,
            "p": int("consent" in self.prompt),
            "u": self.hint_sub,
        }

    @classmethod
    def from_box(cls, box: dict[str, Any]) -> Asked:
        """Return the request that ``to_box`` put away."""
        return cls(
            client_id=box["c"],
            redirect_uri=box["r"],
            scope=box["o"],
            mode=box["m"],
            state=box["s"],
            nonce=box["n"],
            challenge=box["h"],
            verifier=box["v"],
            prompt=frozenset({"consent"}) if box["p"] else frozenset(),
            hint_sub=box["u"],
        )


async def authorize(ctx: Context, request: Request) -> Response:
    """Answer an authorization request (GET or POST)."""
    try:
        parameters = request.parameters()
    except OAuthError as error:
        return mistake("This sign-in request is malformed", error.description)
    client_id, redirect_uri = parameters.get("client_id", ""), parameters.get("redirect_uri", "")
    if not client_id or not redirect_uri:
        lacking = "client_id" if not client_id else "redirect_uri"
        return mistake("This sign-in request is incomplete", f"The parameter '{lacking}' is missing.")
    if not _is_plain(redirect_uri):
        return _bad_redirect(redirect_uri)
    client = await ctx.client(client_id)
    if client is None:
        return mistake("Unknown application", f"No application is registered under the name '{shown(client_id)}'.")
    probe = Asked(client_id, redirect_uri, scope="openid", mode="query", state=None, nonce="", challenge="")
    mode = parameters.get("response_mode", "query")
    try:
        asked = _check(ctx, parameters, client.scopes)
        return await _answer(ctx, request, asked)
    except OAuthError as error:
        # Only now is it looked up whether that address may be told anything at all: this can never be an open redirect.
        if isinstance(await ctx.kanidm.authorise(probe.kanidm_parameters()), Invalid):
            return _bad_redirect(redirect_uri)
        content = {"error": error.error, "error_description": error.description}
        usable = mode if mode in MODES else "query"
        return authorization_response(ctx, redirect_uri, usable, parameters.get("state"), content)


def _check(ctx: Context, parameters: dict[str, str], known_scopes: frozenset[str]) -> Asked:
    for name, code in (
        ("request", "request_not_supported"),
        ("request_uri", "request_uri_not_supported"),
        ("registration", "registration_not_supported"),
    ):
        if name in parameters:
            raise OAuthError(code, f"The parameter '{name}' is not supported.")
    for name, longest in _LONGEST.items():
        if len(parameters.get(name, "")) > longest:
            raise OAuthError("invalid_request", f"The parameter '{name}' is longer than {longest} characters.")
    kind = parameters.get("response_type", "")
    if kind != "code":
        code = "unsupported_response_type" if kind else "invalid_request"
        raise OAuthError(code, "The only response_type is 'code'.")
    mode = parameters.get("response_mode", "query")
    if mode not in MODES:
        raise OAuthError("invalid_request", "The response_mode is none of query, fragment, form_post.")
    challenge = parameters.get("code_challenge", "")
    method = parameters.get("code_challenge_method", "plain" if challenge else "")
    if method and method != "S256":
        raise OAuthError("invalid_request", "The only code_challenge_method is S256.")
    if (method or challenge) and not _CHALLENGE.fullmatch(challenge):
        raise OAuthError("invalid_request", "The code_challenge is not a base64url SHA-256.")
    if not challenge and ctx.settings(parameters["client_id"]).require_pkce:
        raise OAuthError("invalid_request", "This client must use PKCE: code_challenge is missing.")
    prompt = frozenset(parameters.get("prompt", "").split())
    if prompt - _PROMPTS or ("none" in prompt and len(prompt) > 1):
        raise OAuthError("invalid_request", "The prompt is none of none, login, consent, select_account, or none with another.")
    max_age = parameters.get("max_age")
    if max_age is not None and not re.fullmatch(r"[0-9]{1,9}", max_age):
        raise OAuthError("invalid_request", "max_age is not a number of seconds.")
    # OIDC Core §3.1.2.1: scopes that are not understood should be ignored. Kanidm would refuse the whole request for one.
    wanted = parameters.get("scope", "openid").split()
    scope = [name for name in dict.fromkeys(wanted) if name in known_scopes]
    if not scope:
        raise OAuthError("invalid_scope", "None of these scopes is known for this client.")
    return Asked(
        client_id=parameters["client_id"],
        redirect_uri=parameters["redirect_uri"],
        scope=" ".join(scope),
        mode=mode,
        state=parameters.get("state"),
        nonce=parameters.get("nonce", ""),
        challenge=challenge,
        prompt=prompt,
        max_age=None if max_age is None else int(max_age),
        login_hint=parameters.get("login_hint", ""),
        hint_sub=_hint_subject(ctx, parameters.get("id_token_hint", "")),
    )


def _hint_subject(ctx: Context, hint: str) -> str:
    if not hint:
        return ""
    try:
        # An ID token that has expired is still a good hint of who is meant (OIDC Core §3.1.2.1).
        return str(ctx.keys.verify(hint, "JWT", issuer=ctx.issuer, expired_ok=True)["sub"])
    except (jwt.InvalidTokenError, KeyError):
        raise OAuthError("invalid_request", "The id_token_hint is not an ID token of this issuer.") from None


async def _answer(ctx: Context, request: Request, asked: Asked) -> Response:
    bearer = request.cookie("bearer")
    # Read, not yet believed: what follows from it is either a login, or an answer for which Kanidm has checked this very session.
    session = read_session(bearer) or await ctx.kanidm.session(bearer)
    anew = session is not None and _must_log_in(asked, session)
    usable = session is not None and not anew
    result = await ctx.kanidm.authorise(asked.kanidm_parameters(), bearer if usable else "")
    if isinstance(result, Invalid):
        return _bad_redirect(asked.redirect_uri)
    if isinstance(result, Denied):
        raise OAuthError("access_denied", "This user may not use this application, or not with these scopes.")
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
    return send_to_kanidm(ctx, asked, refused=session if anew else None)


def _is_plain(redirect_uri: str) -> bool:
    """Tell whether a redirect URI is written as it is meant.

    Kanidm compares what its URL parser makes of it, which lower-cases, resolves dot segments and drops tabs; the browser is sent
    to what the client wrote. Only where both are the same is Kanidm's word a word about the latter (RFC 9700 §4.1.3).
    """
    if len(redirect_uri) > _LONGEST["redirect_uri"] or not _REDIRECT_URI.fullmatch(redirect_uri) or redirect_uri.endswith("?"):
        return False
    scheme, _, rest = redirect_uri.partition(":")
    if scheme not in ("http", "https"):
        return True
    host, _, path = rest.removeprefix("//").partition("?")[0].partition("/")
    segments = unquote(path).split("/")
    return rest.startswith("//") and bool(host) and host == host.lower() and "@" not in host and not {".", ".."} & set(segments)


def _must_log_in(asked: Asked, session: Session) -> bool:
    if asked.prompt & {"login", "select_account"}:
        return True
    if asked.max_age is not None and time.time() - session.issued_at > asked.max_age:
        return True
    return bool(asked.hint_sub) and asked.hint_sub != session.uuid


def _bad_redirect(redirect_uri: str) -> Response:
    try:
        host = shown(urlsplit(redirect_uri).netloc)
    except ValueError:  # an address that is none, such as https://[::1
        host = ""
    return mistake(
        "Unknown return address",
        f"The application wants you sent to '{host or shown(redirect_uri)[:40]}', which is not registered for it.",
    )


def send_to_kanidm(ctx: Context, asked: Asked, *, refused: Session | None) -> Response:
    """Send the browser to Kanidm's login or consent page, with the request sealed in the state.

    ``refused`` is a session that will not do. Its cookie is taken away, so that the login page is shown; the session itself, on
    which other applications' tokens depend, lives on.
    """
    headers: list[Header] = []
    box = asked.to_box()
    if refused is not None:
        box |= {"t": int(time.time()), "i": refused.session_id}
    target = _kanidm_target(asked, PREFIX + ctx.states.seal(box, lifetime=STATE_LIFETIME))
    if len(target) > LONGEST_TARGET and asked.state:
        if len(asked.state) > _LONGEST_PARKED:
            raise OAuthError("invalid_request", f"The state is longer than {_LONGEST_PARKED} characters.")
        # What does not fit beside the rest of Kanidm's cookie rides in one of our own.
        park = secrets.token_urlsafe(6)
        parked = ctx.parked.seal({"s": asked.state}, lifetime=STATE_LIFETIME)
        cookie = f"{STATE_COOKIE}{park}={parked}; Path=/; Max-Age={int(STATE_LIFETIME)}; Secure; HttpOnly; SameSite=Lax"
        headers.append((b"set-cookie", cookie.encode()))
        target = _kanidm_target(asked, PREFIX + ctx.states.seal({**box, "s": None, "k": park}, lifetime=STATE_LIFETIME))
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
