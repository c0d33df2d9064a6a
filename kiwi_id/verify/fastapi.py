"""FastAPI: the caller's claims as a dependency, which also shows in the OpenAPI document. Needs FastAPI."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from fastapi.exceptions import HTTPException
from fastapi.openapi.models import HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from kiwi_id.verify.bearer import REALM, Guard, Refused, scope_names
from kiwi_id.verify.claims import Claims

if TYPE_CHECKING:
    from kiwi_id.verify.verifier import Verifier


class Bearer(SecurityBase):
    """A dependency that gives the caller's :class:`~kiwi_id.verify.Claims`, for ``Security(bearer, scopes=[…])`` or ``Depends``.

    All scopes that are named there, and all of ``required_scopes`` and ``required_groups``, must be in the token. With
    ``optional``, a caller without any token is let in, as None. Refusals are HTTPExceptions with the challenge of RFC 6750 §3.
    """

    def __init__(
        self,
        verifier: Verifier,
        *,
        required_scopes: Collection[str] = (),
        required_groups: Collection[str] = (),
        optional: bool = False,
        realm: str = REALM,
    ) -> None:
        self._guard = Guard(verifier, required_scopes=required_scopes, required_groups=required_groups, realm=realm)
        self._optional = optional
        self.model = HTTPBearer(bearerFormat="JWT", description="An access token of Kiwi ID.")
        self.scheme_name = "Kiwi-ID"  # a key in the OpenAPI document, which must have no space

    # Async though it never waits: FastAPI sends plain functions to a thread, which costs more than the check.
    async def __call__(self, connection: HTTPConnection, security_scopes: SecurityScopes) -> Claims | None:
        """Return the claims of the caller of a request or WebSocket."""
        values = connection.headers.getlist("authorization")
        try:
            return self._guard.claims(values, scopes=scope_names(security_scopes.scopes), optional=self._optional)
        except Refused as refused:
            headers = {"www-authenticate": refused.challenge, "cache-control": "no-store"}
            raise HTTPException(refused.status, refused.description, headers) from None
