"""The authorization request: reading its parameters with Kanidm's parser messages, and the way back to the client.

Follows `AuthorisationRequest` in proto/src/oauth2.rs: missing `state` or `scope`, any `ui_locales` and
`response_mode=form_post` are parse errors in 1.5.0.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from kiwi_id.devserver.crypto import unb64
from kiwi_id.devserver.http import HttpError
from kiwi_id.devserver.schema import parse_url

__all__ = ["AuthRequest", "origin_of", "parse", "redirect"]

_RESPONSE_TYPES = ("code", "token", "id_token")
_MODES = ("query", "fragment")
_ONCE = ("response_type", "response_mode", "client_id", "state", "redirect_uri", "scope", "nonce", "max_age")
_UNITS = ("ui_locales", "claims_locales")


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """A request that parsed; whether the client and the rest are right is still to be seen."""

    response_type: str
    client_id: str
    redirect_uri: str
    scope: str
    response_mode: str | None = None
    state: str | None = None
    code_challenge: str | None = None
    nonce: str | None = None
    login_hint: str | None = None
    prompt: str | None = None

    @property
    def scopes(self) -> list[str]:
        """The requested scopes, sorted."""
        return sorted(set(self.scope.split()))

    @property
    def mode(self) -> str:
        """The response mode, `query` by default."""
        return self.response_mode or "query"

    def to_cookie(self) -> dict[str, Any]:
        """What the `o2-authreq` cookie holds; members without value are left out."""
        value = {key: item for key, item in asdict(self).items() if item is not None}
        if "code_challenge" in value:
            value["code_challenge_method"] = "S256"
        return value

    @classmethod
    def from_cookie(cls, value: Any) -> "AuthRequest | None":
        """The request in a verified cookie's value, or None."""
        if not isinstance(value, dict):
            return None
        return cls(**{key: item for key, item in value.items() if key != "code_challenge_method"})


def parse(pairs: Iterable[tuple[str, str]]) -> AuthRequest:
    """Read a query's pairs; HttpError 400 with serde's message for what 1.5.0 cannot parse."""
    given = list(pairs)
    found = dict(given)
    for key in _ONCE:
        if sum(name == key for name, _ in given) > 1:
            raise _bad(f"duplicate field `{key}`")
    if "response_type" in found:
        _variant(found["response_type"], _RESPONSE_TYPES, "one of `code`, `token`, `id_token`")
    if "response_mode" in found:
        _variant(found["response_mode"], _MODES, "`query` or `fragment`")
    for key in ("response_type", "client_id", "state", "redirect_uri", "scope"):
        if key not in found:
            raise _bad(f"missing field `{key}`")
    redirect_uri = parse_url(found["redirect_uri"])
    if redirect_uri is None:
        raise _bad(f'relative URL without a base: "{found["redirect_uri"]}"')
    for key in _UNITS:
        if key in found:
            raise _bad(f'invalid type: string "{found[key]}", expected unit')
    if "max_age" in found and not found["max_age"].lstrip("-").isdecimal():
        raise _bad("invalid digit found in string")
    return AuthRequest(
        response_type=found["response_type"],
        client_id=found["client_id"],
        redirect_uri=redirect_uri,
        scope=" ".join(sorted(set(found["scope"].split()))),
        response_mode=found.get("response_mode"),
        state=found["state"] or None,
        code_challenge=_challenge(found),
        nonce=found.get("nonce"),
        login_hint=found.get("login_hint"),
        prompt=found.get("prompt"),
    )


def _challenge(found: dict[str, str]) -> str | None:
    # Kanidm's flattened Option: a challenge that does not parse, or is not S256, counts as none at all.
    challenge = found.get("code_challenge")
    if not challenge or found.get("code_challenge_method") != "S256":
        return None
    try:
        unb64(challenge)
    except ValueError:
        return None
    return challenge


def _variant(value: str, allowed: tuple[str, ...], words: str) -> None:
    if value not in allowed:
        raise _bad(f"unknown variant `{value}`, expected {words}")


def _bad(message: str) -> HttpError:
    return HttpError(400, f"Failed to deserialize query string: {message}")


def redirect(uri: str, mode: str, parameters: list[tuple[str, str]]) -> str:
    """`uri` with the parameters as its query or fragment; what it had of both is dropped, as 1.5.0 does."""
    encoded = urlencode(parameters)
    parts = urlsplit(uri)._replace(query="", fragment="")
    return parts._replace(**{mode: encoded}).geturl()


def origin_of(uri: str) -> str:
    """The origin of a URL, or "null" for one of an app's own scheme."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme in ("http", "https") else "null"
