"""A stand-in for kanidmd that costs as little as Python allows: TLS, HTTP/1.1, one constant JSON of 1.1 KB for every GET.

It takes kanidmd's command line (``server -c server.toml``, ``version``), so that the real supervisor starts it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import tomllib
from pathlib import Path

BODY = json.dumps({"keys": ["k" * 64 for _ in range(15)], "padding": "p" * 66}).encode()
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(BODY) + (
    b"cache-control: no-store\r\nx-kanidm-opid: 00000000-0000-0000-0000-000000000000\r\nx-content-type-options: nosniff\r\n"
    b"date: Tue, 24 Nov 2026 12:00:00 GMT\r\n\r\n" + BODY
)


class Answering(asyncio.Protocol):
    """Answers each request head; no parsing beyond finding its end, because the client is our own front."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        """Answer every complete head in what has come."""
        self.rest += data
        heads = self.rest.count(b"\r\n\r\n")
        if heads:
            self.rest = self.rest.rpartition(b"\r\n\r\n")[2]
            self.transport.write(ANSWER * heads)


async def serve(settings: dict[str, str]) -> None:
    """Listen as server.toml says, for ever."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings["tls_chain"], settings["tls_key"])
    host, _, port = settings["bindaddress"].rpartition(":")
    server = await asyncio.get_running_loop().create_server(Answering, host.strip("[]"), int(port), ssl=context, backlog=1024)
    await server.serve_forever()


def main() -> None:
    """Answer ``version``, or serve."""
    if sys.argv[1:2] == ["version"]:
        print("kanidmd 1.5.0 bench")
        return
    config = Path(sys.argv[sys.argv.index("-c") + 1])
    asyncio.run(serve(tomllib.loads(config.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
