"""What a relying party has asked for: an authorization request, checked as far as it can be without Kanidm (OIDC Core §3.1.2.2)."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import jwt

from kiwi_id.issuer.context import Context
from kiwi_id.issuer.encoding import PREFIX, s256
from kiwi_id.issuer.http import OAuthError
from kiwi_id.issuer.responses import MODES
from kiwi_id.kanidm.oauth2 import Session

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
# RFC 3986 without a fragment (RFC 6749 §3.1.2): nothing that a URL parser would strip, mend or read in two ways.
_REDIRECT_URI = re.compile(r"[a-z][a-z0-9+.-]*:[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]+")
_NEW_LOGIN = frozenset({"login", "select_account"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PROMPTS = frozenset({"none", "login", "consent", "select_account"})
# How old a login that was made for this very request may be, whatever max_age says: the redirects after the password, and the
# time that a consent page takes. Without it nobody could ever satisfy max_age=0.
LOGIN_TAKES = 60
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
    # When the request came (Unix seconds), and the session that was refused for it, if one was.
    began: int = field(default_factory=lambda: int(time.time()))
    refused: str = ""
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    def kanidm_parameters(self) -> dict[str, str]:
        """Return the request as Kanidm is to see it: only what both versions take, and always with a PKCE of our own."""
        parameters = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": self.scope,
            "state": PREFIX,
            "code_challenge": s256(self.verifier),
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
            "l": int(bool(self.prompt & _NEW_LOGIN)),
            "x": self.max_age,
            "u": self.hint_sub,
            "t": self.began,
            "i": self.refused,
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
            prompt=frozenset(["consent"] * box["p"] + ["login"] * box["l"]),
            max_age=box["x"],
            hint_sub=box["u"],
            began=box["t"],
            refused=box["i"],
        )

    def refuses(self, session: Session) -> bool:
        """Tell whether a live session that is there when the request comes will not do for it."""
        if self.prompt & _NEW_LOGIN or (bool(self.hint_sub) and self.hint_sub != session.uuid):
            return True
        return self.max_age is not None and time.time() - session.issued_at > self.max_age

    def accepts(self, session: Session) -> bool:
        """Tell whether a code may be given for a session on the way back, whichever one was seen when the request came.

        It may have been none: browsers keep the cookie back (SameSite), and other tabs log in meanwhile. So ``prompt=login`` asks
        for a session begun since, and ``max_age`` is measured again (OIDC Core §3.1.2.1). Kanidm stamps sessions with whole
        seconds, as ``began`` is; the session that was refused is told apart by its name.
        """
        if session.session_id == self.refused:
            return False
        ours = session.issued_at >= self.began
        if self.prompt & _NEW_LOGIN and not ours:
            return False
        if self.max_age is None:
            return True
        return time.time() - session.issued_at <= (max(self.max_age, LOGIN_TAKES) if ours else self.max_age)


def check(ctx: Context, parameters: dict[str, str], known_scopes: frozenset[str]) -> Asked:
    """Return the request that ``parameters`` make, of a client with ``known_scopes``. Raises OAuthError."""
    _refuse_at_sight(parameters)
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


def _refuse_at_sight(parameters: dict[str, str]) -> None:
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
    if not is_exact(parameters.get("state", "")):
        raise OAuthError("invalid_request", "The state holds control characters.")


def _hint_subject(ctx: Context, hint: str) -> str:
    if not hint:
        return ""
    try:
        # An ID token that has expired is still a good hint of who is meant (OIDC Core §3.1.2.1).
        return str(ctx.keys.verify(hint, "JWT", issuer=ctx.issuer, expired_ok=True)["sub"])
    except (jwt.InvalidTokenError, KeyError):
        raise OAuthError("invalid_request", "The id_token_hint is not an ID token of this issuer.") from None


def is_exact(state: str) -> bool:
    """Tell whether a state comes back as it was by every response mode: HTML forms change line ends and NUL.

    RFC 6749 appendix A.5 allows printable ASCII alone. What is beyond ASCII is let through, because it has always come back whole.
    """
    return not _CONTROL.search(state)


def is_plain(redirect_uri: str) -> bool:
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
