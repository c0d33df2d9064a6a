"""The OAuth2 endpoints: token, introspection, revocation, per-client discovery, and the JSON authorization API."""

import base64
from typing import Any

from kiwi_id.devserver import authreq, oauth2
from kiwi_id.devserver.app import App
from kiwi_id.devserver.auth import bearer_token
from kiwi_id.devserver.directory import Entry
from kiwi_id.devserver.http import ApiError, Handler, HttpError, Request, Response, Router, json_response, text
from kiwi_id.devserver.oauth2 import OAuthError
from kiwi_id.devserver.schema import parse_url
from kiwi_id.devserver.tokens import Tokens

__all__ = ["add_routes"]

_ANY = ("access-control-allow-origin", "*")
_BEARER = ("www-authenticate", "Bearer")
_GRANTS = ("authorization_code", "client_credentials", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code")
_AUTH_METHODS = ["client_secret_basic", "client_secret_post"]
_DOCUMENTATION = "https://kanidm.github.io/kanidm/master/integrations/oauth2.html"


def add_routes(router: Router, app: App) -> None:
    """Register the routes of this module."""
    endpoints = _Endpoints(app)
    router.add("POST GET", "/oauth2/authorise", endpoints.authorise)
    router.add("POST GET", "/oauth2/authorise/permit", endpoints.permit)
    router.add("POST GET", "/oauth2/authorise/reject", endpoints.reject)
    router.add("POST", "/oauth2/token", endpoints.token)
    router.add("OPTIONS", "/oauth2/token", _preflight)
    router.add("POST", "/oauth2/token/introspect", endpoints.introspect)
    router.add("POST", "/oauth2/token/revoke", endpoints.revoke)
    client = "/oauth2/openid/{client}"
    for path, methods, handler in (
        ("/.well-known/openid-configuration", "GET", endpoints.discovery(oidc=True)),
        ("/.well-known/oauth-authorization-server", "GET", endpoints.discovery(oidc=False)),
        ("/userinfo", "GET POST", endpoints.userinfo),
        ("/public_key.jwk", "GET", endpoints.jwks),
    ):
        router.add(methods, client + path, handler)
        router.add("OPTIONS", client + path, _preflight)


async def _preflight(request: Request) -> Response:
    return text(200, "", [_ANY, ("access-control-allow-headers", "Authorization")])


def _error(error: OAuthError) -> Response:
    if error.code == "authentication_required":
        return Response(401, headers=[_BEARER, _ANY])
    response = json_response({"error": error.code}, 400, [_ANY])
    response.content_type = "text/plain; charset=utf-8"
    return response


def _basic(request: Request) -> tuple[str, str] | None:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        parts = base64.b64decode(value, validate=True).decode().split(":")
    except ValueError:
        raise OAuthError("authentication_required") from None
    if len(parts) < 2:
        raise OAuthError("authentication_required")
    # A second ':' cuts the secret, as parse_basic_authz does.
    return parts[0], parts[1]


def _need(form: dict[str, str], key: str) -> str:
    if key not in form:
        raise HttpError(422, f"Failed to deserialize form body: missing field `{key}`")
    return form[key]


class _Endpoints:
    def __init__(self, app: App) -> None:
        self._app = app
        self._tokens = Tokens(app)

    async def authorise(self, request: Request) -> Response:
        if request.method == "POST":
            body = await request.json()
            pairs = [(k, v) for k, v in body.items() if isinstance(v, str)] if isinstance(body, dict) else []
        else:
            pairs = request.query
        parsed = authreq.parse(pairs)
        try:
            result = oauth2.authorise(self._app, parsed, self._app.auth.maybe(request))
        except OAuthError as error:
            return Response(403 if error.code == "access_denied" else 400, headers=[_ANY])
        if isinstance(result, oauth2.Login):
            return Response(401, headers=[_BEARER, _ANY])
        if isinstance(result, oauth2.Consent):
            consent = {
                "client_name": result.client_name,
                "scopes": result.scopes,
                "pii_scopes": result.pii_scopes,
                "consent_token": result.token,
            }
            response = json_response({"ConsentRequested": consent})
            response.content_type = None
            return response
        response = _redirection(result, 200 if request.method == "POST" else 302)
        response.body = b'"Permitted"'
        return response

    async def permit(self, request: Request) -> Response:
        token = await request.json() if request.method == "POST" else _token_of(request)
        return self._decide(request, str(token), oauth2.permit, 200 if request.method == "POST" else 302)

    async def reject(self, request: Request) -> Response:
        token = _need(await request.form(), "token") if request.method == "POST" else _token_of(request)
        return self._decide(request, token, oauth2.reject, 200)

    def _decide(self, request: Request, token: str, decide: Any, status: int) -> Response:
        try:
            identity = self._app.auth.identify(request)
        except ApiError:
            response = json_response("notauthenticated", 401, [_BEARER, _ANY])
            response.content_type = "text/plain; charset=utf-8"
            return response
        try:
            return _redirection(decide(self._app, identity, token), status)
        except ApiError:
            return Response(500, headers=[_ANY])

    async def token(self, request: Request) -> Response:
        form = await request.form()
        grant = _need(form, "grant_type")
        if grant not in _GRANTS:
            names = ", ".join(f"`{name}`" for name in _GRANTS)
            raise HttpError(422, f"Failed to deserialize form body: unknown variant `{grant}`, expected one of {names}")
        redirect_uri = ""
        if grant == "authorization_code":
            _need(form, "code")
            redirect_uri = parse_url(_need(form, "redirect_uri")) or ""
            if not redirect_uri:
                message = f'relative URL without a base: "{form["redirect_uri"]}"'
                raise HttpError(422, f"Failed to deserialize form body: {message}")
        elif grant == "refresh_token":
            _need(form, "refresh_token")
        try:
            client = self._tokens.client(*(_basic(request) or (form.get("client_id"), form.get("client_secret"))))
            return json_response(self._grant(grant, client, form, redirect_uri), 200, [_ANY])
        except OAuthError as error:
            return _error(error)

    def _grant(self, grant: str, client: Entry, form: dict[str, str], redirect_uri: str) -> dict[str, Any]:
        if grant == "authorization_code":
            return self._tokens.by_code(client, form["code"], redirect_uri, form.get("code_verifier"))
        scopes = form["scope"].split() if "scope" in form else None
        if grant == "refresh_token":
            return self._tokens.by_refresh(client, form["refresh_token"], scopes)
        if grant == "client_credentials":
            return self._tokens.by_client(client, scopes or [])
        raise OAuthError("authorization_pending")

    def _basic_client(self, request: Request) -> Entry:
        found = _basic(request)
        if found is None:
            raise OAuthError("authentication_required")
        return self._tokens.client(*found)

    async def introspect(self, request: Request) -> Response:
        token = _need(await request.form(), "token")
        try:
            return json_response(self._tokens.introspect(self._basic_client(request), token), 200, [_ANY])
        except OAuthError as error:
            response = _error(error)
            # This handler of Kanidm's builds its errors by hand: no content type, no challenge.
            response.content_type = None
            response.headers = [_ANY]
            return response

    async def revoke(self, request: Request) -> Response:
        token = _need(await request.form(), "token")
        try:
            self._tokens.revoke(self._basic_client(request), token)
        except OAuthError as error:
            return text(401, "", [_ANY]) if error.code == "authentication_required" else _error(error)
        return text(200, "", [_ANY])

    async def userinfo(self, request: Request) -> Response:
        token = bearer_token(request)
        try:
            if token is None:
                raise OAuthError("authentication_required")
            return json_response(self._tokens.userinfo(request.params["client"], token), 200, [_ANY])
        except OAuthError as error:
            return _error(error)

    def _client(self, request: Request) -> Entry | None:
        return self._app.directory.client(request.params["client"])

    async def jwks(self, request: Request) -> Response:
        client = self._client(request)
        if client is None:
            return _no_client()
        return json_response({"keys": [oauth2.key_of(client).jwk()]}, 200, [_ANY])

    def discovery(self, oidc: bool) -> Handler:
        async def get(request: Request) -> Response:
            client = self._client(request)
            return _no_client() if client is None else json_response(self._metadata(client, oidc), 200, [_ANY])

        return get

    def _metadata(self, client: Entry, oidc: bool) -> dict[str, Any]:
        origin, issuer = self._app.config.origin, self._tokens.issuer(client)
        scopes = {s for kind in ("scopes", "sup") for values in client.private[kind].values() for s in values}
        first: dict[str, Any] = {
            "issuer": issuer,
            "authorization_endpoint": f"{origin}/ui/oauth2",
            "token_endpoint": f"{origin}/oauth2/token",
        }
        if oidc:
            first["userinfo_endpoint"] = f"{issuer}/userinfo"
        first |= {
            "jwks_uri": f"{issuer}/public_key.jwk",
            "scopes_supported": sorted(scopes),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query", "fragment"],
            "grant_types_supported": ["authorization_code"],
        }
        if oidc:
            first["subject_types_supported"] = ["public"]
            first["id_token_signing_alg_values_supported"] = [oauth2.key_of(client).alg]
        first["token_endpoint_auth_methods_supported"] = _AUTH_METHODS
        if oidc:
            first |= {"display_values_supported": ["page"], "claim_types_supported": ["normal"]}
        first["service_documentation"] = _DOCUMENTATION
        if oidc:
            names = ("claims_parameter", "request_parameter", "request_uri_parameter")
            first |= {f"{name}_supported": False for name in names}
            first["require_request_uri_registration"] = False
        return first | {
            "code_challenge_methods_supported": ["S256"] if oauth2.requires_pkce(client) else [],
            "revocation_endpoint": f"{origin}/oauth2/token/revoke",
            "revocation_endpoint_auth_methods_supported": _AUTH_METHODS,
            "introspection_endpoint": f"{origin}/oauth2/token/introspect",
            "introspection_endpoint_auth_methods_supported": _AUTH_METHODS,
        }


def _redirection(result: oauth2.Permitted, status: int) -> Response:
    return Response(status, headers=[("location", result.location), ("access-control-allow-origin", result.origin)])


def _token_of(request: Request) -> str:
    token = dict(request.query).get("token")
    if token is None:
        raise HttpError(400, "Failed to deserialize query string: missing field `token`")
    return token


def _no_client() -> Response:
    response = json_response("nomatchingentries", 404, [_ANY])
    response.content_type = "text/plain; charset=utf-8"
    return response
