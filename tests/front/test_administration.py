"""Which requests administer Kanidm: every route of the versions that we serve, in every way of writing its path."""

from __future__ import annotations

import pytest

from kiwi_id.proxy.administration import READS, WRITES, is_admin
from tests.front.kanidm_routes import Route, routes

CLOSED = [route for route in routes() if route.closed]
OPEN = [route for route in routes() if not route.closed]


def spellings(path: str) -> list[str]:
    """Return a path as somebody writes it who hopes that we read another one than Kanidm does."""
    first, *rest = path.removeprefix("/").split("/")
    after = "".join(f"/{part}" for part in rest)
    escaped = "".join(f"%{byte:02x}" for byte in first.encode())
    every = "".join("/" + "".join(f"%{byte:02X}" for byte in part.encode()) for part in [first, *rest])
    return [
        *(path, path + "/", path + "//", "/" + path, path.replace("/", "//"), path.replace("/", "/./"), "/." + path),
        *(f"/{escaped}{after}", every, f"/{first}" + "%2f".join(["", *rest]), f"/{first.upper()}{after}", path.upper()),
        *(f"/ui/login/..{'/..' + path}", f"/pkg/..{path}", f"/pkg/%2e%2e{path}", f"/pkg/.%2E{path}", f"/v1/self/..{'/..' + path}"),
        *(path.replace("/", "\\"), "/" + path.replace("/", "\\"), f"/pkg%2f..{path}", f"/pkg\\..{path}"),
    ]


@pytest.mark.parametrize("route", CLOSED, ids=str)
def test_closed_routes(route: Route) -> None:
    """Closed however the path is spelt, by whatever method comes to the same handler, and whatever stands in its free places."""
    same = {"GET": ["GET", "HEAD"]}.get(route.method, [route.method, route.method.lower()])
    for value in ("x", "alice%40id.example.com", "_self", "self", "%2e%2e", "a%2f..%2f..%2fself"):
        for path in spellings(route.filled(value)):
            for method in same:
                if path.startswith("/"):
                    assert is_admin(method.encode(), path.encode()), (method, path)


@pytest.mark.parametrize("route", OPEN, ids=str)
def test_open_routes(route: Route) -> None:
    """Open as Kanidm's own pages and clients write it."""
    for value in ("x", "alice%40id.example.com", "0e8f2a6c-6a5e-4d0a-9d5f-0c4c1b4f0c11"):
        for method in {"GET": ["GET", "HEAD", "OPTIONS"]}.get(route.method, [route.method]):
            assert not is_admin(method.encode(), route.filled(value).encode()), (method, route)


def test_what_nobody_knows_is_closed() -> None:
    """What a later Kanidm may have where its administration is; what lies elsewhere, or only looks alike, is none of it."""
    for method, path in [
        *(
            ("GET", "/v1/person/x/_new"),
            ("GET", "/v1/new"),
            ("GET", "/v1"),
            ("POST", "/v1/self"),
            ("PUT", "/v1/credential/_update"),
        ),
        *(("GET", "/ui/admin"), ("GET", "/ui/admin/"), ("HEAD", "/ui/Admin/new"), ("GET", "/ui/api"), ("GET", "/ui/api/new")),
        *(("POST", "/ui"), ("POST", "/ui/new"), ("DELETE", "/ui/profile"), ("POST", "/ui/login/pw/x"), ("PROPFIND", "/ui/login")),
        *(("GET", "/ui/login/../admin/persons"), ("GET", "/ui/x/%2e%2e/admin"), ("GET", "/docs/x"), ("GET", "/scim/v2/Users")),
    ]:
        assert is_admin(method.encode(), path.encode()), (method, path)
    for method, path in [
        *(("POST", "/v10/x"), ("POST", "/v1x"), ("GET", "/scimitar"), ("GET", "/docsx"), ("POST", "/uix"), ("GET", "/ui/docs")),
        *(("GET", "/ui/administration"), ("GET", "/ui/apis"), ("GET", "/ui/new"), ("POST", "/oauth2/token"), ("GET", "/pkg/v1/x")),
        *(("POST", "/"), ("GET", "*"), ("POST", "/auth/verify"), ("GET", "/metrics")),
    ]:
        assert not is_admin(method.encode(), path.encode()), (method, path)


def test_every_open_path_is_one_of_kanidms() -> None:
    """Nothing is open for a route that no version has."""
    for paths, methods in ((READS, {"GET"}), (WRITES, {"POST"})):
        known = {route.path for route in OPEN if route.method in methods}
        assert set(paths) <= known
