"""What the front says when it answers by itself: a small, kind page for a browser, JSON for a program."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable

from kiwi_id.page import document
from kiwi_id.proxy.rules import Header, Headers

_TITLES = {
    400: "This request could not be understood",
    404: "Nothing here",
    408: "This took too long to arrive",
    413: "This is too large",
    417: "This request could not be understood",
    431: "This request is too large",
    500: "Something went wrong on our side",
    501: "This is not supported",
    502: "The login service did not answer properly",
    503: "The login service is starting",
    504: "The login service takes too long",
    505: "This is not supported",
}


def wants_html(headers: Iterable[Header]) -> bool:
    """Tell whether the client is a browser that shows pages: its ``Accept`` names ``text/html``."""
    return any(name == b"accept" and b"text/html" in value for name, value in headers)


def error(
    status: int,
    code: str,
    message: str,
    *,
    request_id: bytes,
    html_wanted: bool,
    retry_after: int | None = None,
) -> tuple[Headers, bytes]:
    """Return headers and body of an error response; ``code`` is stable for programs, ``message`` is for people.

    ``retry_after`` in seconds becomes ``Retry-After`` and, on a page, a refresh by itself.
    """
    extra: Headers = [
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id),
        (b"x-content-type-options", b"nosniff"),
    ]
    if retry_after is not None:
        extra.append((b"retry-after", str(retry_after).encode()))
    if html_wanted:
        hint = ""
        if retry_after is not None:
            hint = "<p>You need not do anything: this page tries again by itself.</p>\n"
            extra.append((b"refresh", str(retry_after).encode()))
        number = html.escape(request_id.decode("latin-1"))
        content = f'<p>{html.escape(message)}</p>\n{hint}<p class="note">Request {number}</p>'
        body, kind = document(_TITLES.get(status, "Something went wrong"), content), b"text/html; charset=utf-8"
        extra.append((b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"))
    else:
        answer = {"error": {"code": code, "message": message}, "meta": {"request_id": request_id.decode("latin-1")}}
        body, kind = json.dumps(answer).encode() + b"\n", b"application/json"
    return [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *extra], body
