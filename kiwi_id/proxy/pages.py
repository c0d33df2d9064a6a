"""What the front says when it answers by itself: a small, kind page for a browser, JSON for a program."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable

from kiwi_id.page import NOSNIFF, document, security_headers
from kiwi_id.proxy.rules import Header, Headers

_TITLES = {
    400: "This request could not be understood",
    403: "This is not open to you",
    404: "Nothing here",
    408: "This took too long to arrive",
    413: "This is too large",
    417: "This request could not be understood",
    421: "This is another server",
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
    method: bytes = b"GET",
) -> tuple[Headers, bytes]:
    """Return headers and body of an error response; ``code`` is stable for programs, ``message`` is for people.

    ``retry_after`` in seconds becomes ``Retry-After`` and, on a page, a refresh by itself: of what was asked by GET only, because a
    browser refreshes by GET whatever it has sent.
    """
    extra: Headers = [(b"x-request-id", request_id)]
    if retry_after is not None:
        extra.append((b"retry-after", str(retry_after).encode()))
    if html_wanted:
        hint = ""
        if retry_after is not None and method not in (b"GET", b"HEAD"):
            hint = "<p>Nothing was done. Go back, or reload this page, to send it again.</p>\n"
        elif retry_after is not None:
            hint = "<p>You need not do anything: this page tries again by itself.</p>\n"
            extra.append((b"refresh", str(retry_after).encode()))
        number = html.escape(request_id.decode("latin-1"))
        content = f'<p>{html.escape(message)}</p>\n{hint}<p class="note">Request {number}</p>'
        body, kind = document(_TITLES.get(status, "Something went wrong"), content), b"text/html; charset=utf-8"
        extra += security_headers()
    else:
        answer = {"error": {"code": code, "message": message}, "meta": {"request_id": request_id.decode("latin-1")}}
        body, kind = json.dumps(answer).encode() + b"\n", b"application/json"
        extra += [(b"cache-control", b"no-store"), NOSNIFF]
    return [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *extra], body


def too_many_connections(code: str) -> bytes:
    """Return a whole response for a connection that is turned away before its request is read."""
    answer = {"error": {"code": code, "message": "Too many connections are open. Try again in a moment."}}
    body = json.dumps(answer).encode() + b"\n"
    head = (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncache-control: no-store\r\n"
        "x-content-type-options: nosniff\r\n"
        f"content-length: {len(body)}\r\nretry-after: 2\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
