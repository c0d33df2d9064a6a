"""Ties the parts together: the shared state of one running stand-in, and what happens around every request."""

import ipaddress
from dataclasses import dataclass, field

from cryptography.fernet import Fernet

from kiwi_id.devserver import KANIDM_VERSION, log
from kiwi_id.devserver.auth import Authenticator
from kiwi_id.devserver.config import ServerConfig
from kiwi_id.devserver.credsession import CredentialSessions
from kiwi_id.devserver.crypto import CookieKey
from kiwi_id.devserver.directory import Directory
from kiwi_id.devserver.http import ApiError, HttpError, Request, Response, Router, json_response, text

__all__ = ["App", "Site", "log_request"]

_SECURITY = [
    (
        "content-security-policy",
        "default-src 'self'; base-uri 'self' https:; form-action 'self' https:;frame-ancestors 'none'; "
        "img-src 'self' data:; worker-src 'none'; script-src 'self' 'unsafe-eval';",
    ),
    ("x-content-type-options", "nosniff"),
    ("permissions-policy", "fullscreen=(), geolocation=()"),
    ("referrer-policy", "no-referrer-when-downgrade"),
]
_NO_STORE = [("cache-control", "no-store, no-cache, max-age=0"), ("pragma", "no-cache")]
_SHORT = [("cache-control", "private, max-age=300"), ("pragma", "no-cache")]
_BARE = ("/docs",)
# Paths whose handlers never look at the client's address.
_NO_CLIENT = ("/status", "/robots.txt", "/docs", "/pkg", "/.well-known", "/manifest.webmanifest", "/v1/credential/")
_NO_CLIENT_ENDS = ("/public_key.jwk", "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server")


@dataclass(slots=True)
class App:
    """What handlers share. The two keys are new at each start, so that logins and consents in progress do not survive."""

    config: ServerConfig
    directory: Directory
    auth: Authenticator
    credentials: CredentialSessions
    cookie_key: CookieKey = field(default_factory=CookieKey)
    consent_key: str = field(default_factory=lambda: Fernet.generate_key().decode())


class Site:
    """Answers requests: finds the handler, turns errors into Kanidm's answers, adds the headers of Kanidm's layers."""

    def __init__(self, config: ServerConfig, router: Router) -> None:
        self._config = config
        self._router = router

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        handler, params, allowed = self._router.find(request.method, request.path)
        if not allowed:
            return Response(404, headers=[("x-kanidm-version", KANIDM_VERSION)])
        if handler is None:
            response = Response(405, headers=[("allow", ",".join(allowed))])
        else:
            request.params = params
            try:
                self._check_forwarded(request)
                response = await handler(request)
            except ApiError as error:
                response = json_response(error.error, error.status)
                response.content_type = "text/plain; charset=utf-8"
                if error.status == 401:
                    response.headers.append(("www-authenticate", "Bearer"))
            except HttpError as error:
                response = text(error.status, error.message)
        self._add_headers(request, response)
        return response

    def _check_forwarded(self, request: Request) -> None:
        header = request.headers.get("x-forwarded-for")
        path = request.path
        if header is None or not self._config.trust_x_forward_for or path in ("/", "/ui"):
            return
        if path.startswith(_NO_CLIENT) or path.endswith(_NO_CLIENT_ENDS):
            return
        try:
            ipaddress.ip_address(header.split(",")[0])
        except ValueError:
            raise HttpError(400, "X-Forwarded-For contains invalid ip addr") from None

    def _add_headers(self, request: Request, response: Response) -> None:
        path = request.path
        if path.startswith(_BARE):
            response.headers.append(("x-kanidm-version", KANIDM_VERSION))
            return
        if path != "/status":
            if path.startswith(("/v1/", "/oauth2")):
                response.headers += _NO_STORE
            elif path.startswith(("/pkg/", "/manifest")):
                response.headers += _SHORT
            response.headers += _SECURITY
            response.headers.append(("x-kanidm-version", KANIDM_VERSION))
            response.headers.append(("strict-transport-security", "max-age=86400"))
        response.headers.append(("x-kanidm-opid", request.opid))


def log_request(request: Request, response: Response, seconds: float) -> None:
    """Log one answered request as kanidmd does."""
    log.request(request.method, request.target, response.status, seconds, request.opid)
