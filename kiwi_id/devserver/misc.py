"""Small routes: `/status`, static files, docs, and the SCIM route that carries large bodies."""

import contextlib
import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from email.utils import formatdate, parsedate_to_datetime

import trio

from kiwi_id.devserver.app import App
from kiwi_id.devserver.http import Handler, HttpError, Request, Response, Router, json_response
from kiwi_id.devserver.pages import STYLE

__all__ = ["SCIM_LIMIT", "add_routes", "pattern"]

SCIM_LIMIT = 32 * 1024 * 1024
"""The largest body in bytes of a SCIM sync, as in the real server."""

_PIECE = 64 * 1024
_STARTED = formatdate(usegmt=True)
_LOGO = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><circle cx="32" cy="32" r="30" fill="#7a5230"/>'
    '<circle cx="32" cy="32" r="25" fill="#9bd14b"/><circle cx="32" cy="32" r="8" fill="#f4f7dc"/></svg>\n'
)
_FILES = {
    "style.css": ("text/css", STYLE),
    "img/logo-square.svg": ("image/svg+xml", _LOGO),
    "img/icon-oauth2.svg": ("image/svg+xml", _LOGO),
}


def add_routes(router: Router, app: App) -> None:
    """Register the routes of this module."""
    router.add("GET", "/status", _status)
    router.add("GET", "/robots.txt", _robots)
    router.add("GET", "/docs", _docs)
    router.add("GET", "/docs/swagger-ui", _swagger)
    router.add("GET", "/docs/swagger-ui/{*path}", _swagger)
    router.add("GET", "/docs/v1/openapi.json", _openapi)
    router.add("GET", "/.well-known/change-password", _change_password)
    router.add("GET", "/scim/v1/Sync", _scim_get)
    router.add("POST", "/scim/v1/Sync", _scim_post)
    if app.config.ui:
        router.add("GET", "/pkg/{*path}", _pkg)
        router.add("GET", "/manifest.webmanifest", _manifest(app.config.domain))


async def _status(request: Request) -> Response:
    return json_response(True)


async def _robots(request: Request) -> Response:
    return Response(200, b"User-agent: *\n        Disallow: /\n", "text/plain;charset=utf-8")


async def _docs(request: Request) -> Response:
    return Response(307, headers=[("location", "/docs/swagger-ui")])


async def _swagger(request: Request) -> Response:
    return Response(200, b"<!DOCTYPE html><title>Swagger UI</title><p>The stand-in has no API browser.</p>", "text/html")


async def _openapi(request: Request) -> Response:
    return json_response({"openapi": "3.0.3", "info": {"title": "Kanidm (stand-in)", "version": "1.5.0"}, "paths": {}})


async def _change_password(request: Request) -> Response:
    return Response(303, headers=[("location", "/ui/update_credentials")])


async def _pkg(request: Request) -> Response:
    found = _FILES.get(request.params["path"])
    if found is None:
        return Response(404)
    since = request.headers.get("if-modified-since")
    with contextlib.suppress(TypeError, ValueError):
        if since and parsedate_to_datetime(since) >= parsedate_to_datetime(_STARTED):
            return Response(304)
    return Response(200, found[1].encode(), found[0], [("accept-ranges", "bytes"), ("last-modified", _STARTED)])


def _manifest(domain: str) -> Handler:
    async def get(request: Request) -> Response:
        icon = {"src": "/pkg/img/logo-square.svg", "type": "image/svg+xml", "sizes": "512x512"}
        names = {"name": f"Kanidm {domain}", "short_name": "Kanidm", "start_url": "/"}
        body = json.dumps({**names, "icons": [icon]}, indent=2).encode()
        headers = [("vary", "accept-encoding")]
        # The one answer that Kanidm compresses: here so that proxies meet a compressed body.
        if "gzip" in request.headers.get("accept-encoding", ""):
            body = gzip.compress(body)
            headers.append(("content-encoding", "gzip"))
        return Response(200, _once(body), "application/manifest+json;charset=utf-8", headers)

    return get


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def pattern(size: int) -> bytes:
    """The first `size` bytes of what `GET /scim/v1/Sync?bytes=` sends, for whoever compares."""
    block = bytes(range(256))
    return (block * (size // 256 + 1))[:size]


async def _scim_get(request: Request) -> Response:
    """Stream `bytes` bytes, pausing `pause` seconds before each 64 KiB; for tests of proxies. The real route needs a token."""
    query = dict(request.query)
    if "bytes" not in query:
        return Response(500, b'"serdejsonerror"', "text/plain; charset=utf-8")
    try:
        size, pause = int(query["bytes"]), float(query.get("pause", "0"))
    except ValueError:
        raise HttpError(400, "bytes and pause must be numbers") from None

    async def pieces() -> AsyncIterator[bytes]:
        piece, left = pattern(_PIECE), size
        while left > 0:
            await trio.sleep(pause)
            yield piece[:left]
            left -= _PIECE

    return Response(200, pieces(), "application/scim+json")


async def _scim_post(request: Request) -> Response:
    """Take up to 32 MiB, piece by piece, and answer its size and SHA-256; for tests of proxies."""
    digest, size = hashlib.sha256(), 0
    async for chunk in request.chunks:
        digest.update(chunk)
        size += len(chunk)
        if size > SCIM_LIMIT:
            raise HttpError(413, "Failed to buffer the request body: length limit exceeded")
    return json_response({"bytes": size, "sha256": digest.hexdigest()})
