"""The relying party: Authlib's client for web applications, on httpx2 and without a web framework around it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from authlib.integrations.base_client import BaseApp  # type: ignore[import-untyped]
from authlib.integrations.base_client.async_app import AsyncOAuth2Mixin  # type: ignore[import-untyped]
from authlib.integrations.base_client.async_openid import AsyncOpenIDMixin  # type: ignore[import-untyped]
from authlib.integrations.base_client.framework_integration import FrameworkIntegration  # type: ignore[import-untyped]
from authlib.integrations.httpx_client import AsyncOAuth2Client  # type: ignore[import-untyped]

AFTER_LOGOUT = "https://app.localhost/goodbye"
SCOPE = "openid profile email groups"


class RelyingParty(AsyncOAuth2Mixin, AsyncOpenIDMixin, BaseApp):  # type: ignore[misc]
    """What ``authlib.integrations.starlette_client`` is, less Starlette's requests and responses.

    ``options`` are Authlib's own for its OAuth client (``code_challenge_method``, ``token_endpoint_auth_method``).
    """

    client_cls = AsyncOAuth2Client

    def __init__(self, origin: str, ca: Path, client_id: str, secret: str | None, redirect_uri: str, **options: Any) -> None:
        super().__init__(
            FrameworkIntegration("kiwi"),
            client_id=client_id,
            client_secret=secret,
            server_metadata_url=f"{origin}/.well-known/openid-configuration",
            client_kwargs={"scope": SCOPE, "verify": ssl.create_default_context(cafile=str(ca)), "trust_env": False, **options},
        )
        self.redirect_uri = redirect_uri
        self.session: dict[str, Any] = {}

    async def begin(self, **parameters: str) -> str:
        """Return where the browser is to go for a login; ``parameters`` are added to the request."""
        begun = await self.create_authorization_url(self.redirect_uri, **parameters)
        self.framework.set_state_data(self.session, begun["state"], {**begun, "redirect_uri": self.redirect_uri})
        return str(begun["url"])

    async def finish(self, location: str) -> dict[str, Any]:
        """Take the browser back at ``location``; return the tokens, and under ``user`` what the checked ID token says."""
        assert location.startswith(self.redirect_uri), location
        parameters = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        begun = self.framework.get_state_data(self.session, parameters.get("state"))
        self.framework.clear_state_data(self.session, parameters.get("state"))
        found = self._format_state_params(begun, {"code": parameters["code"], "state": parameters["state"]})
        tokens: dict[str, Any] = dict(await self.fetch_access_token(**found))
        return {**tokens, "user": await self.parse_id_token(tokens, nonce=begun["nonce"])}

    async def call(self, what: str, endpoint: str, **arguments: Any) -> Any:
        """Call a method of Authlib's OAuth client, with the endpoint of that name in the discovery document."""
        metadata = await self.load_server_metadata()
        async with self._get_oauth_client(**metadata) as client:
            return await getattr(client, what)(metadata[endpoint], **arguments)
