"""The REST routes of credentials: reset intents, update sessions, an account's login sessions."""

import time
from typing import Any

from kiwi_id.devserver.app import App
from kiwi_id.devserver.credsession import detail, primary_of
from kiwi_id.devserver.directory import Entry
from kiwi_id.devserver.http import ApiError, HttpError, Request, Response, Router, json_response

__all__ = ["add_routes"]

_DEFAULT_TTL = "3600"
_BAD_JSON = "Failed to deserialize the JSON body into the target type: "
_PURPOSES = {"readonly": "readonly", "readwrite": "readwrite", "capable": "privilegecapable"}


def add_routes(router: Router, app: App) -> None:
    """Register the routes of this module."""
    handlers = _Credentials(app)
    router.add("GET", "/v1/person/{id}/_credential/_update_intent", handlers.intent)
    router.add("GET", "/v1/person/{id}/_credential/_update_intent/{ttl}", handlers.intent)
    router.add("GET", "/v1/person/{id}/_credential/_update", handlers.direct)
    router.add("GET", "/v1/person/{id}/_credential/_status", handlers.person_status)
    router.add("GET", "/v1/account/{id}/_user_auth_token", handlers.sessions)
    router.add("DELETE", "/v1/account/{id}/_user_auth_token/{session}", handlers.end_session)
    router.add("POST", "/v1/credential/_exchange_intent", handlers.exchange)
    router.add("POST", "/v1/credential/_status", handlers.status)
    router.add("POST", "/v1/credential/_update", handlers.update)
    router.add("POST", "/v1/credential/_commit", handlers.commit)
    router.add("POST", "/v1/credential/_cancel", handlers.cancel)


def _token(value: Any) -> str:
    token = value.get("token") if isinstance(value, dict) else None
    if not isinstance(token, str):
        raise HttpError(422, f"{_BAD_JSON}missing field `token`")
    return token


class _Credentials:
    def __init__(self, app: App) -> None:
        self._app = app
        self._directory = app.directory
        self._open = app.credentials

    def _account(self, request: Request, write: bool) -> Entry:
        identity = self._app.auth.identify(request)
        account = self._directory.get(request.params["id"])
        if account is None or not account.is_a("account"):
            raise ApiError(404, "nomatchingentries")
        own = account.uuid == identity.entry.uuid
        if (write and not identity.read_write) or not (own or self._directory.may_write(identity.entry)):
            raise ApiError(500, "notauthorised")
        return account

    async def intent(self, request: Request) -> Response:
        account = self._account(request, write=True)
        ttl = request.params.get("ttl", _DEFAULT_TTL)
        if not ttl.isdecimal():
            raise HttpError(400, f"Invalid URL: Cannot parse `ttl` with value `{ttl}` to a `u64`")
        return json_response(self._open.intend(account, int(ttl)))

    async def direct(self, request: Request) -> Response:
        return self._opened(self._open.open(self._account(request, write=True), None))

    async def person_status(self, request: Request) -> Response:
        found = detail(primary_of(self._account(request, write=False)))
        return json_response({"creds": [found] if found else []})

    async def sessions(self, request: Request) -> Response:
        # idm_admin sees none of other people's sessions in 1.5.0 (measured); each account sees its own.
        account = self._app.auth.identify(request).entry
        if self._directory.get(request.params["id"]) is not account:
            return json_response([])
        return json_response(
            [
                {
                    "account_id": account.uuid,
                    "session_id": key,
                    "state": {"expiresat": session["expiry"]},
                    "issued_at": session["issued_at"],
                    "purpose": _PURPOSES[session["scope"]],
                }
                for key, session in account.private.get("sessions", {}).items()
                if session["expiry"] > time.time()
            ]
        )

    async def end_session(self, request: Request) -> Response:
        account = self._app.auth.identify(request).entry
        if self._directory.get(request.params["id"]) is not account:
            raise ApiError(404, "nomatchingentries")
        account.private.get("sessions", {}).pop(request.params["session"], None)
        self._directory.save(account)
        return json_response(None)

    async def exchange(self, request: Request) -> Response:
        return self._opened(self._open.exchange(await request.json()))

    def _opened(self, token: str) -> Response:
        return json_response([{"token": token}, self._open.status(token)])

    async def status(self, request: Request) -> Response:
        return json_response(self._open.status(_token(await request.json())))

    async def cancel(self, request: Request) -> Response:
        self._open.cancel(_token(await request.json()))
        return json_response(None)

    async def update(self, request: Request) -> Response:
        body = await request.json()
        if not isinstance(body, list) or len(body) != 2:
            raise HttpError(422, f"{_BAD_JSON}invalid length, expected a tuple of size 2")
        change, token = body[0], _token(body[1])
        if isinstance(change, str):
            self._open.change(token, change)
        elif isinstance(change, dict) and len(change) == 1:
            self._open.change(token, *next(iter(change.items())))
        else:
            raise HttpError(422, f"{_BAD_JSON}invalid type, expected a variant of CURequest")
        return json_response(self._open.status(token))

    async def commit(self, request: Request) -> Response:
        self._open.commit(_token(await request.json()))
        return json_response(None)
