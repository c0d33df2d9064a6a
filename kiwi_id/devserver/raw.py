"""`/v1/raw/create` and `/v1/raw/modify`: many entries, or many changes of one, in one transaction; and SSH keys."""

import re
from typing import Any

from kiwi_id.devserver.app import App
from kiwi_id.devserver.directory import Entry
from kiwi_id.devserver.http import ApiError, HttpError, Request, Response, Router, json_response

__all__ = ["add_routes"]

_BAD_JSON = "Failed to deserialize the JSON body into the target type: "
_SSH = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/=]{16,}( .*)?")
# What Kanidm takes by paths of their own only, and how it calls it.
_BY_API = {"ssh_publickey": "SSH public keys", "oauth2_rs_scope_map": "Oauth Scope Maps"}
_GID_BASE = 0x7000_0000


def add_routes(router: Router, app: App) -> None:
    """Register the routes of this module."""
    raw = _Raw(app)
    router.add("POST", "/v1/raw/create", raw.create)
    router.add("POST", "/v1/raw/modify", raw.modify)
    router.add("GET POST", "/v1/person/{id}/_ssh_pubkeys", raw.ssh_keys)
    router.add("DELETE", "/v1/person/{id}/_ssh_pubkeys/{label}", raw.ssh_key_delete)


class _Raw:
    def __init__(self, app: App) -> None:
        self._auth = app.auth
        self._directory = app.directory

    def _writer(self, request: Request) -> None:
        identity = self._auth.identify(request)
        if not (identity.read_write and self._directory.may_write(identity.entry)):
            raise ApiError(403, "accessdenied")

    async def create(self, request: Request) -> Response:
        body = await request.json()
        entries = body.get("entries") if isinstance(body, dict) else None
        if not isinstance(entries, list):
            raise HttpError(422, f"{_BAD_JSON}missing field `entries` at line 1 column 2")
        self._writer(request)
        if not entries:
            raise ApiError(400, "emptyrequest")
        for entry in entries:
            _by_api(entry["attrs"])
        self._directory.create_many([entry["attrs"] for entry in entries])
        return json_response(None)

    async def modify(self, request: Request) -> Response:
        body = await request.json()
        try:
            [attr, key] = body["filter"]["eq"]
            changes = [_change(mod) for mod in body["modlist"]["mods"]]
        except (KeyError, TypeError, ValueError):
            raise HttpError(422, f"{_BAD_JSON}the stand-in knows the filter `eq` and the three kinds of changes") from None
        self._writer(request)
        if not changes:
            raise ApiError(400, "emptyrequest")
        entry = self._directory.get(key) if attr in ("uuid", "name") else None
        if entry is None:
            raise ApiError(404, "nomatchingentries")
        _by_api({attr: [value] for _, attr, value in changes})
        self._allow(entry, changes)
        posix = {"posixaccount", "posixgroup"} & {value for kind, attr, value in changes if (kind, attr) == ("present", "class")}
        if posix and not entry.first("gidnumber") and not any(attr == "gidnumber" for _, attr, _ in changes):
            changes.append(("present", "gidnumber", str(_GID_BASE | (int(entry.uuid[-8:], 16) & 0x0FFF_FFFF))))
        self._directory.change(entry, changes)
        return json_response(None)

    @staticmethod
    def _allow(entry: Entry, changes: list[tuple[str, str, str]]) -> None:
        classes = {(kind, value) for kind, attr, value in changes if attr == "class"}
        if ("removed", "posixaccount") in classes:
            raise ApiError(403, "accessdenied")  # 1.5.0 lets unix admins give the class, not take it
        if entry.is_a("builtin") and (classes or any(attr in ("name", "description") for _, attr, _ in changes)):
            raise ApiError(403, "systemprotectedobject")
        if entry.is_a("group") and any(attr == "entry_managed_by" for _, attr, _ in changes):
            raise ApiError(403, "accessdenied")  # 1.5.0 lets idm_access_control_admins do that, which idm_admin is not in
        if entry.is_a("service_account") and any(attr == "description" for _, attr, _ in changes):
            raise ApiError(403, "accessdenied")

    def _person(self, request: Request) -> Entry:
        entry = self._directory.get(request.params["id"])
        if entry is None or not entry.is_a("person"):
            raise ApiError(404, "nomatchingentries")
        return entry

    async def ssh_keys(self, request: Request) -> Response:
        if request.method != "POST":
            self._auth.identify(request)
            return json_response([line.partition(": ")[2] for line in self._person(request).attrs.get("ssh_publickey", ())])
        values = await request.json_list()
        self._writer(request)
        entry = self._person(request)
        if len(values) != 2 or not _SSH.fullmatch(values[1]):
            raise ApiError(400, "vl0001valuesshpublickeystring")
        label, key = values
        old = entry.attrs.get("ssh_publickey", [])
        if not any(line.startswith(f"{label}: ") for line in old):  # a label that is there keeps its key
            words = key.split()
            shown = " ".join([*words[:2], words[2] if len(words) > 2 else ""])
            self._directory.modify(entry, "ssh_publickey", sorted([*old, f"{label}: {shown}"]))
        return json_response(None)

    async def ssh_key_delete(self, request: Request) -> Response:
        self._writer(request)
        entry = self._person(request)
        kept = [line for line in entry.attrs.get("ssh_publickey", []) if not line.startswith(f"{request.params['label']}: ")]
        self._directory.modify(entry, "ssh_publickey", kept)
        return json_response(None)


def _change(mod: dict[str, Any]) -> tuple[str, str, str]:
    [(kind, what)] = mod.items()
    if kind == "purged" and isinstance(what, str):
        return kind, what, ""
    if kind not in ("present", "removed") or not isinstance(what, list) or len(what) != 2:
        raise ValueError(kind)
    return kind, str(what[0]), str(what[1])


def _by_api(attrs: dict[str, list[str]]) -> None:
    for attr, words in _BY_API.items():
        if attr in attrs:
            raise ApiError(400, {"invalidattribute": f"{words} can not be supplied through modification - please use the IDM api"})
