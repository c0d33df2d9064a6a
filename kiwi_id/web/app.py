"""The Quart-Trio application: the pages on which people decide something (consent, sign-out).

What programs ask, and what every login passes, is served on the connection loop itself; these pages are rare, and a framework may
cost what it costs there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from quart import Response, request
from quart_trio import QuartTrio

if TYPE_CHECKING:
    from kiwi_id.issuer import http

PATHS = (b"/oauth2/consent", b"/oauth2/logout")


def create_app(serve: Callable[[http.Request], Awaitable[http.Response]]) -> QuartTrio:
    """Return the application; ``serve`` is the issuer's door."""
    from kiwi_id.issuer.http import Request  # noqa: PLC0415 - loaded by now

    app = QuartTrio("kiwi_id", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = 65536

    async def decide() -> Response:
        body = await request.get_data(as_text=False)
        asked = Request(
            method=request.method,
            path=request.path,
            query=request.query_string,
            headers=[(name, value) for name, value in request.scope["headers"]],
            body=body if isinstance(body, bytes) else body.encode(),
            client=request.remote_addr or "",
            request_id=request.scope["state"]["request_id"],
        )
        answer = await serve(asked)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
        response = Response(answer.body, answer.status)
        response.headers.clear()
        response.headers.extend(headers)
        return response

    async def refuse(_error: Exception) -> Response:
        # Quart's own answer to another method would name those of its routing table. The issuer knows which it answers.
        return await decide()

    for path in PATHS:
        app.add_url_rule(path.decode(), path.decode(), decide, methods=["GET", "HEAD", "POST"], provide_automatic_options=False)
    app.register_error_handler(405, refuse)
    return app
