"""Requests, answers and routes: the small part of an HTTP framework that the stand-in needs.

Quart would do as well, but importing it takes longer than the whole start of this process may take.
"""

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

__all__ = ["BODY_LIMIT", "ApiError", "Handler", "HttpError", "Request", "Response", "Router", "json_response", "text"]

BODY_LIMIT = 2 * 1024 * 1024
"""The largest body in bytes of an ordinary request (axum's default; SCIM sync allows 32 MiB)."""


class HttpError(Exception):
    """An answer that is not the handler's own: parser messages and the like, as plain text."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class ApiError(Exception):
    """Kanidm's OperationError: a status and its JSON form, sent as text/plain (server/core/src/https/errors.rs)."""

    def __init__(self, status: int, error: Any) -> None:
        super().__init__(str(error))
        self.status = status
        self.error = error


@dataclass(slots=True)
class Response:
    """An answer. A body that is an iterator is sent chunked, piece by piece."""

    status: int = 200
    body: bytes | AsyncIterator[bytes] = b""
    content_type: str | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Request:
    """One request, with its body still to be read."""

    method: str
    target: str
    headers: dict[str, str]
    chunks: AsyncIterator[bytes]
    params: dict[str, str] = field(default_factory=dict)
    opid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def path(self) -> str:
        """The path, percent-encoding untouched."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> list[tuple[str, str]]:
        """The query's pairs in the order they came."""
        return parse_qsl(self.target.partition("?")[2], keep_blank_values=True)

    @property
    def cookies(self) -> dict[str, str]:
        """Cookies by name."""
        pairs = (part.strip().partition("=") for part in self.headers.get("cookie", "").split(";"))
        return {name: value for name, eq, value in pairs if eq}

    async def body(self) -> bytes:
        """The whole body; HttpError 413 when it is larger than BODY_LIMIT bytes."""
        data = bytearray()
        async for chunk in self.chunks:
            data += chunk
            if len(data) > BODY_LIMIT:
                raise HttpError(413, "Failed to buffer the request body: length limit exceeded")
        return bytes(data)

    def _media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def json(self) -> Any:
        """The body as JSON, with axum's errors: 415 for another type, 400 for bad syntax."""
        if self._media_type() != "application/json":
            raise HttpError(415, "Expected request with `Content-Type: application/json`")
        try:
            return json.loads(await self.body())
        except (ValueError, RecursionError) as error:
            raise HttpError(400, f"Failed to parse the request body as JSON: {error}") from None

    async def json_list(self) -> list[str]:
        """The body as a JSON list of strings; 422 when it is something else."""
        value = await self.json()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise HttpError(422, "Failed to deserialize the JSON body into the target type: invalid type, expected a sequence")
        return value

    async def form(self) -> dict[str, str]:
        """The body as a form; 415 for another type."""
        if self._media_type() != "application/x-www-form-urlencoded":
            raise HttpError(415, "Form requests must have `Content-Type: application/x-www-form-urlencoded`")
        return dict(parse_qsl((await self.body()).decode("utf-8", "replace"), keep_blank_values=True))


def json_response(value: Any, status: int = 200, headers: list[tuple[str, str]] | None = None) -> Response:
    """A compact JSON answer."""
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return Response(status, body, "application/json", headers or [])


def text(status: int, message: str, headers: list[tuple[str, str]] | None = None) -> Response:
    """A plain-text answer, as axum gives for strings."""
    return Response(status, message.encode(), "text/plain; charset=utf-8", headers or [])


Handler = Callable[[Request], Awaitable[Response]]


class Router:
    """Finds the handler for a method and a path; `{name}` in a pattern matches one segment, `{*name}` the rest."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, Handler]] = {}
        self._patterns: list[tuple[list[str], dict[str, Handler]]] = []

    def add(self, methods: str, pattern: str, handler: Handler) -> None:
        """Register a handler for space-separated methods; GET answers HEAD too."""
        table = self._exact.get(pattern)
        if table is None:
            table = self._exact[pattern] = {}
            if "{" in pattern:
                self._patterns.append((pattern.split("/"), table))
        for method in methods.split():
            table[method] = handler

    def find(self, method: str, path: str) -> tuple[Handler | None, dict[str, str], list[str]]:
        """The handler or None, the path's parameters, and the methods that the path knows (none: no such path)."""
        table, params = self._exact.get(path), {}
        if table is None:
            segments = path.split("/")
            for pattern, candidate in self._patterns:
                matched = _match(pattern, segments)
                if matched is not None:
                    table, params = candidate, matched
                    break
            else:
                return None, {}, []
        allowed = [m for known in table for m in (("GET", "HEAD") if known == "GET" else (known,))]
        return table.get("GET" if method == "HEAD" else method), params, allowed


def _match(pattern: list[str], segments: list[str]) -> dict[str, str] | None:
    params = {}
    for index, part in enumerate(pattern):
        if part.startswith("{*"):
            params[part[2:-1]] = unquote("/".join(segments[index:]))
            return params
        if index >= len(segments):
            return None
        if part.startswith("{"):
            if not segments[index]:
                return None
            params[part[1:-1]] = unquote(segments[index])
        elif part != segments[index]:
            return None
    return params if len(pattern) == len(segments) else None
