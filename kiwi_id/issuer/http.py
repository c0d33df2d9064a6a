"""Requests and responses as the issuer sees them: small, framework-free, and strict about what OAuth 2.0 wants strict."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from kiwi_id.page import NOSNIFF, document, security_headers

Header = tuple[bytes, bytes]

NO_STORE: Header = (b"cache-control", b"no-store")
# Endpoints that browsers of single-page applications call directly. No credentials: tokens travel in headers and bodies.
CORS: Header = (b"access-control-allow-origin", b"*")
MAX_PARAMETERS = 100


class OAuthError(Exception):
    """An error of the protocol: ``error`` is the code of the RFC, ``description`` is for the relying party's developer."""

    def __init__(self, error: str, description: str, *, status: int = 400) -> None:
        super().__init__(description)
        self.error, self.description, self.status = error, description, status


@dataclass
class Response:
    """A response: ``headers`` without content-length, which the server adds."""

    status: int
    headers: list[Header] = field(default_factory=list)
    body: bytes = b""


@dataclass(frozen=True)
class Request:
    """A request. ``headers`` are lower-case names; ``client`` is the caller's address; ``body`` is whole."""

    method: str
    path: str
    query: bytes
    headers: Sequence[Header]
    body: bytes
    client: str
    request_id: bytes

    def header(self, name: bytes) -> bytes:
        """Return the first header of that name, or nothing."""
        return next((value for key, value in self.headers if key == name), b"")

    def authorization(self) -> tuple[bytes, bytes]:
        """Return scheme (lower case) and credentials of the Authorization header; both empty when there is none.

        Raises OAuthError when it is there twice: whoever reads the other one would see another caller.
        """
        found = [value for key, value in self.headers if key == b"authorization"]
        if len(found) > 1:
            raise OAuthError("invalid_request", "The Authorization header is there more than once.")
        scheme, _, rest = (found[0] if found else b"").partition(b" ")
        return scheme.lower(), rest.strip()

    def parameters(self) -> dict[str, str]:
        """Return query parameters (GET) or form parameters (POST); empty values count as absent (RFC 6749 §3.1, §3.2).

        Raises OAuthError for a repeated parameter, another content type, or bytes that are not UTF-8.
        """
        if self.method == "POST":
            kind = self.header(b"content-type").partition(b";")[0].strip().lower()
            if kind != b"application/x-www-form-urlencoded":
                raise OAuthError("invalid_request", "The body must be application/x-www-form-urlencoded.")
            return parse_form(self.body)
        return parse_form(self.query)

    def cookie(self, name: str) -> str:
        """Return a cookie's value, or nothing; the first one when a browser sends several of that name (RFC 6265 §5.4)."""
        wanted = name.encode() + b"="
        for key, value in self.headers:
            if key == b"cookie":
                for pair in value.split(b";"):
                    if pair.strip().startswith(wanted):
                        return pair.strip()[len(wanted) :].decode("latin-1")
        return ""


def parse_form(data: bytes) -> dict[str, str]:
    """Parse form-encoded bytes strictly. Raises OAuthError."""
    try:
        pairs = parse_qsl(data.decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS, errors="strict")
    except ValueError:
        raise OAuthError("invalid_request", "The parameters are not form-encoded UTF-8, or there are too many.") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise OAuthError("invalid_request", f"The parameter '{shown(name)}' is there more than once.")
        found[name] = value
    return {name: value for name, value in found.items() if value}


def shown(text: str) -> str:
    """Return ``text`` shortened to what RFC 6749 §5.2 allows in error_description: printable ASCII without quotes."""
    return "".join(char for char in text if " " <= char <= "~" and char not in '"\\')[:80]


@dataclass(frozen=True)
class Credentials:
    """How a client has named itself: ``basic`` by HTTP Basic (decoded), else in the form. ``secret`` None: a public client.

    ``as_sent`` is a secret of HTTP Basic before it was decoded: many clients do not encode it (:mod:`kiwi_id.issuer.chosen`).
    """

    client_id: str
    secret: str | None = field(repr=False)
    basic: bool
    as_sent: str = field(default="", repr=False)


def credentials(request: Request, parameters: Mapping[str, str]) -> Credentials | None:
    """Return the client's credentials (RFC 6749 §2.3.1), or None when it names itself nowhere.

    Raises OAuthError when it authenticates in two ways at once, or by a malformed header.
    """
    scheme, rest = request.authorization()
    if scheme == b"basic":
        if "client_secret" in parameters:
            raise OAuthError("invalid_request", "The client authenticates in more than one way.")
        try:
            name, colon, secret = base64.b64decode(rest, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise OAuthError("invalid_client", "The Basic credentials cannot be read.", status=401) from None
        # RFC 6749 §2.3.1: both halves are form-encoded before they are joined. Kanidm does not decode them; we do.
        decoded = Credentials(unquote_plus(name), unquote_plus(secret) if colon else "", basic=True, as_sent=secret)
        if parameters.get("client_id", decoded.client_id) != decoded.client_id:
            raise OAuthError("invalid_request", "client_id is another one than in the Basic credentials.")
        return decoded
    if "client_id" in parameters:
        return Credentials(parameters["client_id"], parameters.get("client_secret"), basic=False)
    return None


def json_response(status: int, content: Any, *headers: Header) -> Response:
    """Return a JSON response that no cache keeps."""
    body = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    return Response(status, [(b"content-type", b"application/json"), NO_STORE, NOSNIFF, *headers], body)


def error_response(error: OAuthError, *headers: Header) -> Response:
    """Return a token-endpoint error (RFC 6749 §5.2)."""
    challenge: list[Header] = []
    if error.status == 401:
        challenge.append((b"www-authenticate", b'Basic realm="Kiwi ID", charset="UTF-8"'))
    content = {"error": error.error, "error_description": error.description}
    return json_response(error.status, content, (b"pragma", b"no-cache"), CORS, *challenge, *headers)


def bearer_challenge(error: str, description: str, status: int = 401) -> Response:
    """Return an RFC 6750 §3 refusal; without ``error`` the bare challenge of a request that brought no token."""
    challenge = 'Bearer realm="Kiwi ID"'
    if error:
        challenge += f', error="{error}", error_description="{description}"'
    content = {"error": error or "invalid_token", "error_description": description}
    expose: Header = (b"access-control-expose-headers", b"www-authenticate")
    return json_response(status, content, (b"www-authenticate", challenge.encode()), CORS, expose)


def page(
    status: int, title: str, content: str, *headers: Header, form_action: str = "'none'", script: str = "", script_hash: str = ""
) -> Response:
    """Return an HTML page of our own. ``content`` is HTML, already escaped; ``title`` is text.

    Nothing may be loaded or framed (Content-Security-Policy); ``form_action`` is where a form of the page may post to, and the one
    ``script`` that is allowed is named by its hash.
    """
    tail = f"<script>{script}</script>" if script else ""
    allowed = f"'sha256-{script_hash}'" if script else "'none'"
    own = security_headers(form_action=form_action, script=allowed)
    return Response(status, [(b"content-type", b"text/html; charset=utf-8"), *own, *headers], document(title, content, tail))


def redirect(location: str, *headers: Header) -> Response:
    """Return a 303: the browser goes on with GET, and a password that was posted to us is not posted on (RFC 9700 §4.12)."""
    return Response(303, [(b"location", location.encode()), NO_STORE, (b"referrer-policy", b"no-referrer"), *headers])
