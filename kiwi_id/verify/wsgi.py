"""WSGI middleware (PEP 3333): bearer tokens for Flask, Django and any other WSGI application."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Unpack

from kiwi_id.verify.bearer import Demands, Guard, Refused

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from kiwi_id.verify.verifier import Verifier

KEY = "kiwi.claims"
"""Where an application finds the caller's :class:`~kiwi_id.verify.Claims` in its environ; None for a caller without a token.

No client can set it: what clients send becomes ``HTTP_…``.
"""

_REASONS = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden"}


class BearerMiddleware:
    """Lets requests through to ``app`` whose bearer token is good, with its claims in ``environ["kiwi.claims"]``.

    All others are answered here, as RFC 6750 §3 says: 401 without an error when there is no token, 401 ``invalid_token``, 403
    ``insufficient_scope``, 400 ``invalid_request``. ``demands``: see :class:`~kiwi_id.verify.bearer.Demands`. Nothing is logged.
    """

    def __init__(self, app: WSGIApplication, verifier: Verifier, **demands: Unpack[Demands]) -> None:
        self.app, self._guard = app, Guard(verifier, **demands)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        # PEP 3333: bytes as Latin-1. SCRIPT_NAME, the prefix that the application is mounted at, is apart already.
        path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
        try:
            claims = self._guard.check(path or "/", authorization(environ))
        except Refused as error:
            refused = error
        else:
            environ[KEY] = claims
            return self.app(environ, start_response)
        start_response(f"{refused.status} {_REASONS[refused.status]}", refused.headers)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [refused.body]


def authorization(environ: dict[str, Any]) -> list[str]:
    """Return the Authorization header, if there is one.

    Servers join several with a comma (RFC 3875 §4.1.18), which the Guard knows from the commas within credentials.
    """
    value = environ.get("HTTP_AUTHORIZATION")
    return [] if value is None else [str(value)]
