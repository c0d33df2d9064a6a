"""A stand-in for kanidmd that costs as little as Python allows: TLS, HTTP/1.1, one constant JSON of 1.1 KB for every GET.

It takes kanidmd's command line (``server -c server.toml``, ``version``), so that the real supervisor starts it. For the measuring
of large bodies, ``GET /bytes/N`` is answered with N bytes, and a request with a body with the count of its bytes.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
import tomllib
from pathlib import Path

BODY = json.dumps({"keys": ["k" * 64 for _ in range(15)], "padding": "p" * 66}).encode()
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/%s\r\ncontent-length: %d\r\n" + (
    b"cache-control: no-store\r\nx-kanidm-opid: 00000000-0000-0000-0000-000000000000\r\nx-content-type-options: nosniff\r\n"
    b"date: Tue, 24 Nov 2026 12:00:00 GMT\r\n\r\n"
)
ANSWER = _HEAD % (b"json", len(BODY)) + BODY
PIECE = bytes(1 << 18)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Answering(asyncio.Protocol):
    """Answers each request; no parsing beyond what the bench sends, because the clients are its own proxies."""

    def __init__(self) -> None:
        self.rest = b""
        self.body = self.counted = 0  # bytes of a request body to come, and that have come
        self.to_send = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=len(PIECE))

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete in what has come."""
        if self.counted < self.body:
            self._count(len(data))
            return
        self.rest += data
        while b"\r\n\r\n" in self.rest:
            head, _, self.rest = self.rest.partition(b"\r\n\r\n")
            if head.startswith(b"GET /bytes/"):
                self.to_send = int(head[11 : head.index(b" ", 11)])
                self.transport.write(_HEAD % (b"octet-stream", self.to_send))
                self.resume_writing()
            elif head.startswith(b"GET "):
                self.transport.write(ANSWER)
            else:
                length = _LENGTH.search(head + b"\r\n")
                self.counted, self.body = 0, int(length[1]) if length else 0
                came, self.rest = len(self.rest), b""
                self._count(came)

    def _count(self, came: int) -> None:
        self.counted += came
        if self.counted >= self.body:
            answer = b'{"bytes":%d}' % self.counted
            self.transport.write(_HEAD % (b"json", len(answer)) + answer)

    def pause_writing(self) -> None:
        """Send no more for now."""
        self.paused = True

    def resume_writing(self) -> None:
        """Send as much of a large answer as is taken."""
        self.paused = False
        while self.to_send and not self.paused:
            size = min(self.to_send, len(PIECE))
            self.to_send -= size
            self.transport.write(PIECE if size == len(PIECE) else PIECE[:size])


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
