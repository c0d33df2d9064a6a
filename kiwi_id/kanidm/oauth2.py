"""Kanidm's OAuth2 endpoints, typed: what the issuer asks them, and what their answers mean on 1.5.0 and on 1.10.

The JSON authorization API (server/core/src/https/oauth2.rs) is the best of it: without a session it validates client and redirect
URI, with one it answers at once. Paths are those of proto/src/constants/uri.rs.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, urlencode

Header = tuple[bytes, bytes]


class Answer(Protocol):
    """An answer of kanidmd."""

    @property
    def status(self) -> int: ...  # noqa: D102
    @property
    def headers(self) -> list[Header]: ...  # noqa: D102
    @property
    def body(self) -> bytes: ...  # noqa: D102
    def header(self, name: bytes) -> bytes: ...  # noqa: D102


Call = Callable[..., Awaitable[Answer]]


class Surprise(Exception):
    """An answer that neither version of Kanidm is known to give here."""


class NotAccepted(Surprise):
    """Kanidm does not take our API token, or does not let its account see this."""


@dataclass(frozen=True)
class Invalid:
    """The client does not exist, or the redirect URI is not one of its own."""


@dataclass(frozen=True)
class NeedsLogin:
    """The request is right; there is no live session."""


@dataclass(frozen=True)
class Denied:
    """The user may not have every scope that was asked for."""


@dataclass(frozen=True)
class NeedsConsent:
    """The user has to agree first; ``token`` is what :meth:`OAuth2.permit` takes, within 5 minutes."""

    client_name: str
    scopes: list[str]
    token: str = field(repr=False)


@dataclass(frozen=True)
class Granted:
    """Kanidm's redirect to the client; ``location`` holds its code."""

    location: str = field(repr=False)


Authorisation = Invalid | NeedsLogin | Denied | NeedsConsent | Granted


@dataclass(frozen=True)
class Session:
    """A browser session of Kanidm: ``issued_at`` and ``expiry`` in Unix seconds (expiry None: does not end by itself)."""

    session_id: str
    uuid: str
    spn: str
    name: str
    issued_at: int
    expiry: int | None


@dataclass(frozen=True)
class Client:
    """What a client's own discovery document tells: ``scopes`` that may be asked for."""

    client_id: str
    scopes: frozenset[str]


class KanidmSecret(str):
    """A client's secret as Kanidm has made it and told us; it is only such a one that can be out of date."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return no secret: a traceback with arguments shows this."""
        return "<a client's secret>"


Renew = Callable[[str, KanidmSecret], Awaitable[KanidmSecret | None]]


class OAuth2:
    """Kanidm's OAuth2 endpoints. Every method raises what ``call`` raises when kanidmd does not answer, and Surprise.

    ``renew(client_id, refused)`` returns another secret for one that Kanidm refuses, None when there is none.
    """

    def __init__(self, call: Call, renew: Renew | None = None) -> None:
        self._call, self._renew = call, renew

    async def client(self, client_id: str) -> Client | None:
        """Return what is known of a client, or None when there is none of exactly that name (1.7+ finds it in capitals, too)."""
        answer = await self._call("GET", f"/oauth2/openid/{quote(client_id, safe='')}/.well-known/openid-configuration", [])
        if answer.status != 200:
            return None
        document = _json(answer)
        if not str(document.get("issuer")).endswith("/" + client_id):
            return None
        return Client(client_id, frozenset(document.get("scopes_supported") or ()))

    async def authorise(self, parameters: dict[str, str], bearer: str = "") -> Authorisation:
        """Ask for an authorization, with the browser's session or, without one, for the validity of the request only."""
        headers = _bearer(bearer)
        answer = await self._call("GET", "/oauth2/authorise?" + urlencode(parameters), headers)
        if answer.status == 401 and bearer:
            # The session has ended, and Kanidm may have said so before it looked at the request.
            return await self.authorise(parameters)
        return _authorisation(answer)

    async def permit(self, token: str, bearer: str) -> Authorisation:
        """Agree on the user's behalf to what ``authorise`` asked."""
        answer = await self._call("GET", "/oauth2/authorise/permit?" + urlencode({"token": token}), _bearer(bearer))
        return _authorisation(answer)

    async def session(self, bearer: str) -> Session | None:
        """Return the session behind a ``bearer`` cookie as Kanidm reads it, or None.

        The signature and the expiry are checked; that nobody has ended the session since is not (measured: 200 after a logout),
        but the authorization API refuses an ended one.
        """
        if not bearer:
            return None
        answer = await self._call("GET", "/v1/self/_uat", _bearer(bearer))
        if answer.status != 200:
            return None
        return _session(_json(answer))

    async def token(self, form: dict[str, str], client_id: str, secret: str | None) -> tuple[int, dict[str, Any]]:
        """Ask the token endpoint; return status and answer (``error`` in it, when Kanidm gives one)."""
        return await self._ask_form("/oauth2/token", form, client_id, secret)

    async def introspect(self, token: str, client_id: str, secret: str | None) -> tuple[int, dict[str, Any]]:
        """Ask whether an access token lives. A public client is named by Basic with any secret (1.5.0's oauth2.rs ignores it)."""
        return await self._ask_form("/oauth2/token/introspect", {"token": token}, client_id, secret or "")

    async def revoke(self, token: str, client_id: str, secret: str | None) -> int:
        """End the OAuth2 session of an access or refresh token; return the status (200: ended, or already over)."""
        status, _ = await self._ask_form("/oauth2/token/revoke", {"token": token}, client_id, secret or "")
        return status

    async def userinfo(self, client_id: str, token: str) -> dict[str, Any] | None:
        """Return the claims behind an access token, or None when its session has ended."""
        answer = await self._call("GET", f"/oauth2/openid/{quote(client_id, safe='')}/userinfo", _bearer(token))
        if answer.status >= 500:  # says nothing of the session
            raise Surprise(f"status {answer.status} from userinfo")
        return _json(answer) if answer.status == 200 else None

    async def log_out(self, bearer: str) -> list[Header]:
        """End a browser session; return the Set-Cookie headers that clear the browser's cookies."""
        answer = await self._call("GET", "/ui/logout", [(b"cookie", b"bearer=" + bearer.encode("latin-1"))])
        return [header for header in answer.headers if header[0] == b"set-cookie"]

    async def client_secret(self, client_id: str, token: str) -> str | None:
        """Return the secret that Kanidm has made for a client; None when it is none, or has none. ``token`` is an API token.

        Raises NotAccepted.
        """
        answer = await self._call("GET", f"/v1/oauth2/{quote(client_id, safe='')}/_basic_secret", _bearer(token))
        if answer.status in (401, 403):
            raise NotAccepted(f"status {answer.status}")
        if answer.status >= 500:
            raise Surprise(f"status {answer.status} for a client's secret")
        try:
            found = json.loads(answer.body) if answer.status == 200 else None
        except ValueError:
            raise Surprise("an answer that is no JSON") from None
        return found if isinstance(found, str) else None

    async def _ask_form(self, path: str, form: dict[str, str], client_id: str, secret: str | None) -> tuple[int, dict[str, Any]]:
        status, content = await self._send_form(path, form, client_id, secret)
        # Refused for what it says of the client, before it has looked at a grant or token: nothing has been used up.
        if status == 401 and self._renew is not None and isinstance(secret, KanidmSecret):
            another = await self._renew(client_id, secret)
            if another is not None:
                return await self._send_form(path, form, client_id, another)
        return status, content

    async def _send_form(self, path: str, form: dict[str, str], client_id: str, secret: str | None) -> tuple[int, dict[str, Any]]:
        headers: list[Header] = [(b"content-type", b"application/x-www-form-urlencoded")]
        if secret is None:
            form = {**form, "client_id": client_id}
        else:
            if ":" in client_id + secret:  # Kanidm cuts at the second colon (parse_basic_authz), and would take what is left
                return 401, {}
            # Not form-encoded within, against RFC 6749 §2.3.1: Kanidm takes the halves as they are.
            pair = base64.b64encode(f"{client_id}:{secret}".encode())
            headers.append((b"authorization", b"Basic " + pair))
        answer = await self._call("POST", path, headers, urlencode(form).encode())
        try:
            content = json.loads(answer.body) if answer.body else {}
        except ValueError:  # a parser's message, in words
            content = {}
        return answer.status, content if isinstance(content, dict) else {}


def _bearer(token: str) -> list[Header]:
    # A cookie may hold anything; what is no token68 (RFC 9110 §11.2) cannot be a session and must not become a header.
    return [(b"authorization", b"Bearer " + token.encode())] if re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token) else []


def read_session(bearer: str) -> Session | None:
    """Return what a ``bearer`` cookie says of itself, unchecked, or None when it cannot be read without Kanidm.

    It is a JWS whose payload is what ``/v1/self/_uat`` returns (proto/src/internal/token.rs, UserAuthToken). Good for deciding
    what to ask Kanidm, and to be believed once Kanidm has accepted this very cookie.
    """
    parts = bearer.split(".")
    if len(parts) != 3:
        return None
    try:
        return _session(json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _session(uat: dict[str, Any]) -> Session:
    session_id, uuid, spn, name = uat["session_id"], uat["uuid"], uat["spn"], uat.get("displayname") or ""
    for text in (session_id, uuid, spn, name):
        text.encode()  # a cookie may hold anything: what is no text, or half a surrogate pair, could not be shown or sealed
    return Session(session_id, uuid, spn, name, int(uat["issued_at"]), uat.get("expiry"))


def _json(answer: Answer) -> dict[str, Any]:
    try:
        content = json.loads(answer.body)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise Surprise("an answer that is no JSON object")
    return content


def _authorisation(answer: Answer) -> Authorisation:
    if answer.status in (302, 303):
        return Granted(answer.header(b"location").decode("latin-1"))
    if answer.status == 200:
        asked = _json(answer).get("ConsentRequested")
        if isinstance(asked, dict):
            return NeedsConsent(asked["client_name"], sorted(asked["scopes"]), asked["consent_token"])
    if answer.status == 400:
        return Invalid()
    if answer.status == 401:
        return NeedsLogin()
    if answer.status == 403:
        return Denied()
    raise Surprise(f"status {answer.status} from the authorization API")
