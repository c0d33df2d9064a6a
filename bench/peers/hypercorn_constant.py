"""Hypercorn answering a constant: what any pass-through behind Hypercorn costs at least. It asks no upstream."""

from __future__ import annotations

from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from bench.peers import arguments
from bench.upstream import BODY

HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY)), (b"cache-control", b"no-store")]


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Answer every request (an ASGI application)."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


def main() -> None:
    """Serve."""
    args = arguments()
    config = Config()
    config.bind = [f"{args.host}:{args.port}"]
    config.keep_alive_max_requests, config.keep_alive_timeout = 1 << 62, 600
    if args.cert:
        config.certfile, config.keyfile = args.cert, args.key
    trio.run(serve, answer, config)


if __name__ == "__main__":
    main()
