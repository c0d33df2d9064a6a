"""aiohttp's client and server as a proxy: one session with a keep-alive pool, bodies streamed both ways and never decompressed."""

from __future__ import annotations

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web

from bench.peers import HOP_BY_HOP, UPSTREAM_CONNECTIONS, Arguments, arguments
from kiwi_id.kanidm.pin import client_context


async def make_app(args: Arguments) -> web.Application:
    """Return the application that forwards everything to the upstream."""
    connector = TCPConnector(ssl=client_context(args.chain), limit=UPSTREAM_CONNECTIONS)
    session = ClientSession(
        connector=connector, auto_decompress=False, cookie_jar=DummyCookieJar(), timeout=ClientTimeout(total=None, sock_read=60)
    )

    async def forward(request: web.Request) -> web.StreamResponse:
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
        body = request.content if request.can_read_body else None
        async with session.request(
            request.method, args.upstream + request.raw_path, headers=headers, data=body, allow_redirects=False
        ) as answer:
            response = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    response.headers.add(name, value)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    async def close(_: web.Application) -> None:
        await session.close()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    app.on_cleanup.append(close)
    return app


def main() -> None:
    """Serve."""
    args = arguments()
    web.run_app(
        make_app(args), host=args.host, port=args.port, ssl_context=args.tls, access_log=None, print=None, keepalive_timeout=600
    )


if __name__ == "__main__":
    main()
