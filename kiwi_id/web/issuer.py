"""The issuer at the front: exchanges become its requests, and Kanidm's way back to relying parties goes through it.

Served on the connection loop itself and not through Quart-Trio: a login makes three of these requests, and each would cost more
there than all the rest of it (docs/measurements.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from kiwi_id.kanidm.oauth2 import Surprise
from kiwi_id.logs import Log
from kiwi_id.proxy import pages
from kiwi_id.proxy.caller import Unavailable
from kiwi_id.proxy.exchange import Exchange, Handler
from kiwi_id.proxy.gate import RETRY_AFTER
from kiwi_id.proxy.rules import Headers

if TYPE_CHECKING:
    from kiwi_id.issuer.http import Request, Response
    from kiwi_id.issuer.service import Service

log = Log("issuer")

# A token request is a few kilobytes: a code, a verifier, an address.
MAX_BODY = 65536
_COOKIES = (b"set-cookie",)
_Answer = TypeVar("_Answer")


class IssuerHandler:
    """Serves the issuer's paths; what is meant for Kanidm at one of them goes on to ``otherwise``, whole."""

    def __init__(self, service: Service, otherwise: Handler) -> None:
        self._service, self._otherwise = service, otherwise

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one exchange."""
        body = await exchange.read_body(MAX_BODY)
        request = to_request(exchange, body)
        if self._service.passes_by(request):
            await self._otherwise(exchange)
            return
        exchange.notes["route"] = "issuer"
        await respond(exchange, await self.answer(request))

    async def answer(self, request: Request) -> Response:
        """Answer a request at one of the issuer's paths; with 502 or 503 when Kanidm does not play its part."""
        return await guarded(request, self._service.handle)

    async def kanidm_logout(self, exchange: Exchange) -> None:
        """Pass Kanidm's own logout on, and tell the session's clients of it afterwards."""
        try:
            notices = await self._service.before_kanidm_logout(to_request(exchange, b""))
        except (Unavailable, Surprise):
            notices = []
        await self._otherwise(exchange)
        if notices and exchange.status in (200, 302, 303):
            await self._service.deliver(notices)

    async def resume(self, exchange: Exchange) -> None:
        """Answer where Kanidm would go on with a request of ours; what is not ours, and what has to be shown, is Kanidm's."""
        response = None
        if exchange.method == b"GET":
            response = await guarded(to_request(exchange, b""), self._service.resume)
        if response is None:
            await self._otherwise(exchange)
            return
        exchange.notes["route"] = "issuer"
        await respond(exchange, response)

    async def returning(self, exchange: Exchange, headers: Headers) -> bool:
        """Take over Kanidm's redirect to a relying party; return False to let it pass as it is."""
        from kiwi_id.issuer.callback import is_ours  # noqa: PLC0415 - loaded by now

        location = next((value for name, value in headers if name == b"location"), b"")
        if not is_ours(location):
            return False
        kept = [header for header in headers if header[0] in _COOKIES]
        try:
            response = await self._service.returning(to_request(exchange, b""), location.decode("latin-1"), kept)
        except (Unavailable, Surprise) as error:
            exchange.notes["upstream_error"] = str(error)
            message = "The login service is not available right now. Please try again in a moment."
            await exchange.respond_error(503, "upstream_unavailable", message, retry_after=RETRY_AFTER)
            return True
        if response is None:
            return False
        exchange.notes["route"] = "issuer"
        await respond(exchange, response)
        return True


async def guarded(request: Request, handle: Callable[[Request], Awaitable[_Answer]]) -> Response | _Answer:
    """Return the answer of ``handle``; 502 or 503 when Kanidm does not play its part."""
    try:
        return await handle(request)
    except Unavailable as error:
        log.warn("no answer from kanidmd for the issuer", path=request.path, error=str(error))
        if error.uncertain:  # 503 would ask for a repetition, and what was sent may have been done
            return refusal(request, 502, "upstream_failed", "The login service did not answer properly. Please try again.")
        message = "The login service is not available right now. Please try again in a moment."
        return refusal(request, 503, "upstream_unavailable", message, retry_after=RETRY_AFTER)
    except Surprise as error:
        log.error("Kanidm answered what it should not", path=request.path, error=str(error))
        return refusal(request, 502, "upstream_failed", "The login service did not answer properly. Please try again.")


def to_request(exchange: Exchange, body: bytes) -> Request:
    """Return an exchange as the issuer sees it."""
    from kiwi_id.issuer.http import Request  # noqa: PLC0415

    return Request(
        method=exchange.method.decode("ascii", "replace"),
        path=exchange.path.decode("ascii", "replace"),
        query=exchange.target.partition(b"?")[2],
        headers=exchange.headers,
        body=body,
        client=exchange.origin.client,
        request_id=exchange.request_id,
    )


async def respond(exchange: Exchange, response: Response) -> None:
    """Send the issuer's response."""
    body = response.body
    headers: Headers = [*response.headers, (b"x-request-id", exchange.request_id)]
    if response.status not in (204, 304):
        headers.append((b"content-length", str(len(body)).encode()))
    await exchange.respond(response.status, headers, b"" if exchange.method == b"HEAD" else body)


def refusal(request: Request, status: int, code: str, message: str, *, retry_after: int | None = None) -> Response:
    """Return our own error page, or JSON."""
    from kiwi_id.issuer.http import Response  # noqa: PLC0415

    html_wanted = pages.wants_html(request.headers)
    headers, body = pages.error(
        status,
        code,
        message,
        request_id=request.request_id,
        html_wanted=html_wanted,
        retry_after=retry_after,
        method=request.method.encode(),
    )
    ours = (b"content-length", b"x-request-id")  # the server adds these to every response
    return Response(status, [header for header in headers if header[0] not in ours], body)
