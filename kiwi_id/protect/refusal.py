"""The answer beyond a limit: 429 with ``Retry-After`` (RFC 6585 §4), as a page, as JSON, or in the words of RFC 6749."""

from __future__ import annotations

import html
import json
import math

from kiwi_id.page import document, security_headers
from kiwi_id.protect.ledger import Over
from kiwi_id.proxy import pages
from kiwi_id.proxy.exchange import Exchange
from kiwi_id.proxy.rules import Headers

CODE = "too_many_failures"
_TITLE = "Too many wrong tries"


async def refuse(exchange: Exchange, over: Over, *, oauth: bool = False) -> None:
    """Answer 429; ``oauth``: at a token endpoint. Raises ClientGone."""
    seconds = max(1, math.ceil(over.seconds))
    exchange.notes |= {"error": CODE, "limit": over.limit}
    message = f"{_reason(over, oauth=oauth)} Please try again in {_time(seconds)}."
    headers: Headers = [(b"retry-after", str(seconds).encode()), (b"x-request-id", exchange.request_id)]
    as_json: Headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if oauth:
        # RFC 6749 §5.2 has no word for it; this is the one of §4.1.2.1 for a server that cannot answer just now.
        body = json.dumps({"error": "temporarily_unavailable", "error_description": message}).encode()
        headers += [*as_json, (b"access-control-allow-origin", b"*")]
    elif pages.wants_html(exchange.headers):
        number = html.escape(exchange.request_id.decode("latin-1"))
        content = (
            f"<p>{html.escape(message)}</p>\n<p>Nothing is lost: your account is as it was.</p>\n"
            f'<p><a href="/ui">Back to the login</a></p>\n<p class="note">Request {number}</p>'
        )
        body = document(_TITLE, content)
        headers += [(b"content-type", b"text/html; charset=utf-8"), *security_headers()]
    else:
        meta = {"request_id": exchange.request_id.decode("latin-1")}
        body = json.dumps({"error": {"code": CODE, "message": message}, "meta": meta}).encode() + b"\n"
        headers += as_json
    headers.append((b"content-length", str(len(body)).encode()))
    await exchange.respond(429, headers, body)


def _reason(over: Over, *, oauth: bool) -> str:
    if oauth:
        return f"Too many requests {'of this client ' if over.name else ''}from this address were refused."
    return f"There were too many wrong logins {'to this account' if over.name else 'from your network'}."


def _time(seconds: int) -> str:
    if seconds == 1:
        return "a second"
    return f"{seconds} seconds" if seconds < 90 else f"{math.ceil(seconds / 60)} minutes"
