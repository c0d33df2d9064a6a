"""`/v1/auth` and what an account asks about itself: `/v1/self`, `/v1/logout`, `/v1/reauth` (server/core/src/https/v1.rs)."""

from typing import Any

from kiwi_id.devserver.app import App
from kiwi_id.devserver.auth import AuthResult, bearer_token
from kiwi_id.devserver.cookies import AUTH_SESSION, BEARER, Jar
from kiwi_id.devserver.entryview import show
from kiwi_id.devserver.http import ApiError, HttpError, Request, Response, Router, json_response
from kiwi_id.devserver.oauth2 import apps_of

__all__ = ["add_routes"]

_HEADER = "x-kanidm-auth-session-id"
_BAD_JSON = "Failed to deserialize the JSON body into the target type: "


def add_routes(router: Router, app: App) -> None:
    """Register the routes of this module."""
    handlers = _V1(app)
    router.add("POST", "/v1/auth", handlers.auth)
    router.add("GET", "/v1/auth/valid", handlers.valid)
    router.add("POST", "/v1/reauth", handlers.reauth)
    router.add("GET", "/v1/logout", handlers.logout)
    router.add("GET", "/v1/self", handlers.whoami)
    router.add("GET", "/v1/self/_uat", handlers.uat)
    router.add("GET", "/v1/self/_applinks", handlers.applinks)


class _V1:
    def __init__(self, app: App) -> None:
        self._app = app

    async def auth(self, request: Request) -> Response:
        body = await request.json()
        step = body.get("step") if isinstance(body, dict) else None
        if not isinstance(step, dict) or len(step) != 1:
            raise HttpError(422, f"{_BAD_JSON}missing field `step` at line 1 column 2")
        return self._answer(request, self._step(self._session_id(request), *next(iter(step.items()))))

    def _step(self, session_id: str | None, kind: str, value: Any) -> AuthResult:
        auth = self._app.auth
        if kind == "init" and isinstance(value, str):
            return auth.start(value, "token", False)
        if kind == "init2" and isinstance(value, dict):
            if not isinstance(value.get("username"), str):
                raise HttpError(422, f"{_BAD_JSON}step: missing field `username`")
            if value.get("issue") not in ("token", "cookie"):
                raise HttpError(422, f"{_BAD_JSON}step: missing field `issue`")
            return auth.start(value["username"], value["issue"], value.get("privileged") is True)
        if kind == "begin" and isinstance(value, str):
            return auth.begin(session_id, value)
        if kind == "cred":
            if value == "anonymous":
                return auth.credential(session_id, "anonymous", None)
            if isinstance(value, dict) and len(value) == 1:
                return auth.credential(session_id, *next(iter(value.items())))
        raise HttpError(422, f"{_BAD_JSON}step: unknown variant `{kind}`, expected one of `init`, `init2`, `begin`, `cred`")

    def _session_id(self, request: Request) -> str | None:
        token = request.headers.get(_HEADER) or request.cookies.get(AUTH_SESSION)
        found = self._app.cookie_key.verify(token) if token else None
        return found if isinstance(found, str) else None

    def _answer(self, request: Request, result: AuthResult) -> Response:
        jar = Jar(self._app.config, request)
        response = json_response({"sessionid": result.session_id, "state": {result.state: result.value}})
        if result.state in ("choose", "continue"):
            token = self._app.cookie_key.sign(result.session_id)
            jar.add_host_only(AUTH_SESSION, token)
            response.headers.append((_HEADER, token))
        elif result.state == "success" and result.issue == "cookie":
            jar.add(BEARER, result.value)
        response.headers += jar.headers()
        return response

    async def valid(self, request: Request) -> Response:
        self._app.auth.identify(request)
        return json_response(None)

    async def reauth(self, request: Request) -> Response:
        issue = await request.json()
        if issue not in ("token", "cookie"):
            raise HttpError(422, f"{_BAD_JSON}unknown variant, expected `token` or `cookie`")
        return self._answer(request, self._app.auth.reauth(request, issue))

    async def logout(self, request: Request) -> Response:
        self._app.auth.logout(request)
        return json_response(None)

    async def whoami(self, request: Request) -> Response:
        entry = self._app.auth.identify(request).entry
        return json_response({"youare": show(self._app.directory, entry, entry)})

    async def uat(self, request: Request) -> Response:
        # The real server only reads the token here: one of an ended session is still shown.
        token = bearer_token(request)
        claims = self._app.directory.session_key.verify(token) if token else None
        if claims is None:
            raise ApiError(401, "notauthenticated")
        return json_response(claims)

    async def applinks(self, request: Request) -> Response:
        entry = self._app.auth.identify(request).entry
        return json_response(
            [
                {
                    "Oauth2": {
                        "name": client.name,
                        "display_name": client.first("displayname"),
                        "redirect_url": client.first("oauth2_rs_origin_landing"),
                        "has_image": False,
                    }
                }
                for client in apps_of(self._app.directory, entry)
            ]
        )
