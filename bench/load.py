"""A load generator in a process of its own: N keep-alive connections, one request in flight on each, for a number of seconds.

Prints one JSON line: ``requests``, ``seconds``, ``p50_us``, ``p99_us``, ``errors``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import time


class Client(asyncio.Protocol):
    """Sends the next request as soon as the answer to the last one is complete."""

    def __init__(self, request: bytes, times: list[float], failures: list[str]) -> None:
        self.request, self.times, self.failures = request, times, failures
        self.buffer = b""
        self.length = -1
        self.stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.send()

    def send(self) -> None:
        """Send one request."""
        self.began = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Count an answer when it is whole."""
        self.buffer += data
        if self.length < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            if not head.startswith(b"http/1.1 200"):
                self.failures.append(head.split(b"\r\n")[0].decode("latin-1"))
            self.length = end + 4 + int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(self.buffer) >= self.length:
            self.buffer = self.buffer[self.length :]
            self.length = -1
            self.times.append(time.perf_counter() - self.began)
            if self.stopped:
                self.transport.abort()
            else:
                self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note an end that we did not ask for."""
        if not self.stopped:
            self.failures.append(f"connection lost: {exc}")


async def run(host: str, port: int, tls: bool, path: str, connections: int, seconds: float) -> dict[str, object]:
    """Run the load; return the figures."""
    context = None
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    times: list[float] = []
    failures: list[str] = []
    request = b"GET %s HTTP/1.1\r\nHost: id.example.com\r\nAccept: application/json\r\nUser-Agent: bench\r\n\r\n" % path.encode()
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: Client(request, times, failures), host, port, ssl=context)
        clients.append(client)
    await asyncio.sleep(min(1.0, seconds / 4))  # warm-up: connections upstream are opened, code paths are warm
    times.clear()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took, count = time.perf_counter() - began, len(times)
    for client in clients:
        client.stopped = True
        client.transport.abort()
    ordered = sorted(times[:count]) or [0.0]
    return {
        "requests": count,
        "seconds": took,
        "p50_us": ordered[len(ordered) // 2] * 1e6,
        "p99_us": ordered[int(len(ordered) * 0.99)] * 1e6,
        "errors": len(failures),
        "first_error": failures[0] if failures else "",
    }


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--path", default="/oauth2/openid/bench/public_key.jwk")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    print(json.dumps(asyncio.run(run(args.host, args.port, args.tls, args.path, args.connections, args.seconds))))


if __name__ == "__main__":
    main()
