"""The provisioning REST API: persons, groups, service accounts, OAuth2 clients (server/core/src/https/v1.rs, v1_oauth2.rs)."""

import re
import time
import uuid
from typing import Any

from kiwi_id.devserver.app import App
from kiwi_id.devserver.crypto import SigningKey, hash_password, new_secret
from kiwi_id.devserver.directory import Entry
from kiwi_id.devserver.entryview import show
from kiwi_id.devserver.http import ApiError, Handler, HttpError, Request, Response, Router, json_response

__all__ = ["add_routes"]

_KINDS = {
    "person": ("person", ("account", "person")),
    "group": ("group", ("group",)),
    "service_account": ("service_account", ("account", "service_account")),
}
_CLIENT = ("account", "oauth2_resource_server")
_SCOPE = re.compile(r"[0-9a-zA-Z_]+")
_BAD_JSON = "Failed to deserialize the JSON body into the target type: "


def add_routes(router: Router, app: App) -> None:
    """Register the routes of this module."""
    rest = _Rest(app)
    for path, (cls, classes) in _KINDS.items():
        router.add("GET", f"/v1/{path}", rest.lister(cls))
        router.add("POST", f"/v1/{path}", rest.creator(classes))
        router.add("GET", f"/v1/{path}/{{id}}", rest.getter(cls))
        router.add("PATCH", f"/v1/{path}/{{id}}", rest.patcher(cls))
        router.add("DELETE", f"/v1/{path}/{{id}}", rest.deleter(cls))
        router.add("GET PUT POST DELETE", f"/v1/{path}/{{id}}/_attr/{{attr}}", rest.attribute(cls))
    router.add("GET", "/v1/oauth2", rest.lister("oauth2_resource_server"))
    router.add("GET", "/oauth2", rest.lister("oauth2_resource_server"))
    router.add("POST", "/v1/oauth2/_basic", rest.creator((*_CLIENT, "oauth2_resource_server_basic")))
    router.add("POST", "/v1/oauth2/_public", rest.creator((*_CLIENT, "oauth2_resource_server_public")))
    router.add("GET", "/v1/oauth2/{id}", rest.getter("oauth2_resource_server"))
    router.add("PATCH", "/v1/oauth2/{id}", rest.patcher("oauth2_resource_server"))
    router.add("DELETE", "/v1/oauth2/{id}", rest.deleter("oauth2_resource_server"))
    router.add("POST DELETE", "/v1/oauth2/{id}/_attr/{attr}", rest.attribute("oauth2_resource_server"))
    router.add("GET", "/v1/oauth2/{id}/_basic_secret", rest.basic_secret)
    router.add("POST DELETE", "/v1/oauth2/{id}/_scopemap/{group}", rest.scope_map("scopes"))
    router.add("POST DELETE", "/v1/oauth2/{id}/_sup_scopemap/{group}", rest.scope_map("sup"))
    router.add("POST DELETE", "/v1/oauth2/{id}/_claimmap/{claim}/{group}", rest.claim_map)
    router.add("POST", "/v1/oauth2/{id}/_claimmap/{claim}", rest.claim_join)
    router.add("GET POST", "/v1/service_account/{id}/_api_token", rest.api_tokens)
    router.add("DELETE", "/v1/service_account/{id}/_api_token/{token}", rest.api_token_delete)
    router.add("GET", "/v1/service_account/{id}/_credential/_generate", rest.generate)


class _Rest:
    def __init__(self, app: App) -> None:
        self._auth = app.auth
        self._directory = app.directory

    def _writer(self, request: Request) -> Entry:
        identity = self._auth.identify(request)
        if not (identity.read_write and self._directory.may_write(identity.entry)):
            raise ApiError(403, "accessdenied")
        return identity.entry

    def _target(self, request: Request, cls: str, key: str = "id") -> Entry:
        entry = self._directory.get(request.params[key])
        # Of clients these paths take the name only, not the UUID (oauth2_id in server/core/src/https/v1_oauth2.rs).
        if entry is None or not entry.is_a(cls) or (cls == "oauth2_resource_server" and request.params[key] == entry.uuid):
            raise ApiError(404, "nomatchingentries")
        return entry

    def lister(self, cls: str) -> Handler:
        async def get(request: Request) -> Response:
            viewer = self._auth.identify(request).entry
            return json_response([show(self._directory, entry, viewer) for entry in self._directory.of_class(cls)])

        return get

    def creator(self, classes: tuple[str, ...]) -> Handler:
        async def post(request: Request) -> Response:
            attrs = _attrs(await request.json())
            self._writer(request)
            self._directory.create(classes, attrs)
            return json_response(None)

        return post

    def getter(self, cls: str) -> Handler:
        async def get(request: Request) -> Response:
            viewer = self._auth.identify(request).entry
            entry = self._directory.get(request.params["id"])
            # What is missing is no error to the real server.
            return json_response(show(self._directory, entry, viewer) if entry and entry.is_a(cls) else None)

        return get

    def deleter(self, cls: str) -> Handler:
        async def delete(request: Request) -> Response:
            self._writer(request)
            self._directory.delete(self._target(request, cls))
            return json_response(None)

        return delete

    def patcher(self, cls: str) -> Handler:
        async def patch(request: Request) -> Response:
            attrs = _attrs(await request.json())
            self._writer(request)
            entry = self._target(request, cls)
            for attr, values in attrs.items():
                if attr == "oauth2_rs_basic_secret":
                    entry.private["secret"] = new_secret()
                elif attr == "es256_private_key_der":
                    entry.private["key"] = SigningKey.generate().pem()
                else:
                    self._directory.modify(entry, attr, values)
            if entry.flag("oauth2_jwt_legacy_crypto_enable") and not entry.private.get("rsa"):
                entry.private["rsa"] = SigningKey.generate("RS256").pem()
            self._directory.save(entry)
            return json_response(None)

        return patch

    def attribute(self, cls: str) -> Handler:
        async def handle(request: Request) -> Response:
            attr = request.params["attr"]
            if request.method in ("GET", "HEAD"):
                viewer = self._auth.identify(request).entry
                entry = self._directory.get(request.params["id"])
                shown = show(self._directory, entry, viewer)["attrs"] if entry and entry.is_a(cls) else {}
                return json_response(shown.get(attr))
            values: list[str] = []
            if request.method != "DELETE" or request.headers.get("content-type"):
                values = await request.json_list()
            self._writer(request)
            self._change(self._target(request, cls), request.method, attr, values)
            return json_response(None)

        return handle

    def _change(self, entry: Entry, method: str, attr: str, values: list[str]) -> None:
        old = entry.attrs.get(attr, [])
        if method == "PUT":
            self._directory.modify(entry, attr, values)
        elif method == "POST":
            self._directory.modify(entry, attr, [*old, *values])
        else:
            gone = {found.uuid for found in map(self._directory.get, values) if found} | set(values)
            self._directory.modify(entry, attr, [value for value in old if value not in gone] if values else None)

    def _client(self, request: Request) -> Entry:
        self._writer(request)
        return self._target(request, "oauth2_resource_server")

    async def basic_secret(self, request: Request) -> Response:
        identity = self._auth.identify(request)
        entry = self._directory.get(request.params["id"])
        basic = entry is not None and entry.is_a("oauth2_resource_server_basic")
        if entry is None or not basic or not self._directory.may_write(identity.entry):
            return json_response(None)
        return json_response(entry.private["secret"])

    def scope_map(self, kind: str) -> Handler:
        async def handle(request: Request) -> Response:
            scopes = await request.json_list() if request.method == "POST" else []
            entry = self._client(request)
            group = self._target(request, "group", "group")
            if not all(_SCOPE.fullmatch(scope) for scope in scopes):
                raise ApiError(400, {"invalidattribute": "Invalid Oauth Scope Map syntax"})
            if request.method == "POST":
                entry.private[kind][group.uuid] = sorted(set(scopes))
            else:
                entry.private[kind].pop(group.uuid, None)
            self._directory.save(entry)
            return json_response(None)

        return handle

    async def claim_map(self, request: Request) -> Response:
        values = await request.json_list() if request.method == "POST" else []
        entry = self._client(request)
        group = self._target(request, "group", "group")
        claim = entry.private["claims"].setdefault(request.params["claim"], {"join": "array", "groups": {}})
        if request.method == "POST":
            claim["groups"][group.uuid] = sorted(set(values))
        else:
            claim["groups"].pop(group.uuid, None)
        if not claim["groups"]:  # how it is joined is forgotten with it
            del entry.private["claims"][request.params["claim"]]
        self._directory.save(entry)
        return json_response(None)

    async def claim_join(self, request: Request) -> Response:
        join = await request.json()
        if join not in ("csv", "ssv", "array"):
            raise HttpError(422, f"{_BAD_JSON}unknown variant, expected one of `csv`, `ssv`, `array`")
        entry = self._client(request)
        entry.private["claims"].setdefault(request.params["claim"], {"join": join, "groups": {}})["join"] = join
        self._directory.save(entry)
        return json_response(None)

    async def api_tokens(self, request: Request) -> Response:
        body = await request.json() if request.method == "POST" else None
        identity = self._auth.identify(request)
        entry = self._target(request, "service_account")
        if body is None:
            return json_response(list(entry.private.get("tokens", {}).values()))
        if not isinstance(body, dict) or not isinstance(body.get("label"), str):
            raise HttpError(422, f"{_BAD_JSON}missing field `label`")
        if not (identity.read_write and self._directory.may_write(identity.entry)):
            raise ApiError(403, "accessdenied")
        token: dict[str, Any] = {
            "account_id": entry.uuid,
            "token_id": str(uuid.uuid4()),
            "label": body["label"],
            "expiry": body.get("expiry"),
            "issued_at": int(time.time()),
            "purpose": "readwrite" if body.get("read_write") is True else "readonly",
        }
        entry.private.setdefault("tokens", {})[token["token_id"]] = token
        self._directory.save(entry)
        return json_response(self._directory.session_key.sign(token))

    async def api_token_delete(self, request: Request) -> Response:
        self._writer(request)
        entry = self._target(request, "service_account")
        entry.private.get("tokens", {}).pop(request.params["token"], None)
        self._directory.save(entry)
        return json_response(None)

    async def generate(self, request: Request) -> Response:
        self._writer(request)
        entry = self._target(request, "service_account")
        password = new_secret()
        set_generated(entry, password)
        self._directory.save(entry)
        return json_response(password)


def set_generated(entry: Entry, password: str) -> None:
    """Give an account a generated password; what it had before is gone (the caller saves the entry)."""
    entry.private.pop("totp", None)
    entry.private |= {"cred": str(uuid.uuid4()), "password": hash_password(password), "generated": True}


def _attrs(body: Any) -> dict[str, list[str]]:
    attrs = body.get("attrs") if isinstance(body, dict) else None
    if not isinstance(attrs, dict):
        raise HttpError(422, f"{_BAD_JSON}missing field `attrs` at line 1 column 2")
    for values in attrs.values():
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise HttpError(422, f"{_BAD_JSON}attrs: invalid type, expected a sequence of strings")
    return attrs
