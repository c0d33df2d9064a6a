"""The pass-through as one would first write it: Hypercorn, a catch-all Quart-Trio route, httpx. Kept for comparison only."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response, request
from quart_trio import QuartTrio

from kiwi_id.kanidm.pin import client_context

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "content-length"}


def make_app(upstream: str, chain: Path) -> QuartTrio:
    """Return the application that forwards everything to ``upstream``."""
    app = QuartTrio("plain")
    client = httpx.AsyncClient(base_url=upstream, verify=client_context(chain), follow_redirects=False)

    @app.route("/", defaults={"path": ""}, methods=METHODS)
    @app.route("/<path:path>", methods=METHODS)
    async def forward(path: str) -> Response:
        headers = [(k, v) for k, v in request.headers if k.lower() not in HOP_BY_HOP]
        answer = await client.request(
            request.method, "/" + path, params=request.query_string.decode(), headers=headers, content=await request.get_data()
        )
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
        return Response(answer.content, answer.status_code, kept)

    return app


def main() -> None:
    """Serve: ``LISTEN UPSTREAM CHAIN [CERT KEY]``, as all peers do."""
    listen, upstream, chain, *tls = sys.argv[1:]
    config = Config()
    config.bind = [listen]
    # Its defaults, 1,000 requests and 5 s, would have it measured opening connections.
    config.keep_alive_max_requests, config.keep_alive_timeout = 1 << 62, 600
    if tls:
        config.certfile, config.keyfile = tls
    trio.run(serve, make_app(upstream, Path(chain)), config)


if __name__ == "__main__":
    main()
