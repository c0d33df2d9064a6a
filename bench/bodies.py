"""Large bodies, in a process of its own: GETs or POSTs of N bytes, one after another on each of some connections, for some seconds.

    python -m bench.bodies HOST PORT --direction down|up [--tls] [--size 31457280] [--connections 1] [--seconds 4] [--pid PID]

Prints one JSON object: ``transfers``, ``seconds``, ``mib_s`` (2^20 bytes of body a second, all connections together), ``closed``
(answers after which the connection was not kept alive, so that the next body had to wait for a handshake), and for
``--pid`` the CPU seconds that process used meanwhile, and its resident memory before, at its peak, and after. Every body is
checked to have arrived whole.
"""

from __future__ import annotations

import argparse
import json
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

from bench.processes import cpu_seconds, reset_peak, rss_mb

_HEAD = "{} HTTP/1.1\r\nHost: id.example.com\r\nUser-Agent: bench\r\nContent-Length: {}\r\n\r\n"


class Transfers:
    """One connection, on which bodies go up or down."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.up, self.size = args.direction == "up", args.size
        self.buffer = bytearray(1 << 18)
        self.body = memoryview(bytes(self.size if self.up else 0))
        self.args = args
        self.closed = 0
        self.socket = self.connect()

    def connect(self) -> socket.socket:
        """Return a new connection."""
        tcp = socket.create_connection((self.args.host, self.args.port), 30)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.args.tls:
            return tcp
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(tcp)

    def once(self) -> None:
        """Send one body, or receive one. Raises SystemExit when it does not arrive as it should."""
        line = "POST /v1/upload" if self.up else f"GET /bytes/{self.size}"
        head = _HEAD.format(line, self.size) if self.up else _HEAD.format(line, 0).replace("Content-Length: 0\r\n", "")
        self.socket.sendall(head.encode())
        if self.up:
            for at in range(0, self.size, len(self.buffer)):
                self.socket.sendall(self.body[at : at + len(self.buffer)])
        start = b""
        while b"\r\n\r\n" not in start:
            if not (piece := self.socket.recv(65536)):
                raise SystemExit(f"bench: the connection was closed before an answer ({start[:100]!r})")
            start += piece
        answer, _, rest = start.partition(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if not answer.startswith(b"HTTP/1.1 200") or (not self.up and length != self.size):
            raise SystemExit(f"bench: not the answer that was wanted: {answer[:200]!r}")
        left = length - len(rest)
        while left > 0:
            came = self.socket.recv_into(self.buffer, min(left, len(self.buffer)))
            if not came:
                raise SystemExit(f"bench: a body was cut, {left} bytes before its end")
            if self.up:
                rest += self.buffer[:came]
            left -= came
        if self.up and json.loads(rest)["bytes"] != self.size:
            raise SystemExit(f"bench: {self.size} bytes were sent, and this arrived: {rest!r}")
        if b"\r\nconnection: close" in answer.lower():
            self.closed += 1
            self.socket.close()
            self.socket = self.connect()

    def run(self, ends: float) -> int:
        """Transfer until then; return how many bodies."""
        count = 0
        while not count or time.perf_counter() < ends:
            self.once()
            count += 1
        return count


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--direction", choices=("up", "down"), required=True)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--size", type=int, default=30 << 20)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--pid", type=int, default=0)
    args = parser.parse_args()
    before = rss_mb(args.pid) if args.pid else 0.0
    transfers = [Transfers(args) for _ in range(args.connections)]
    if args.pid:
        reset_peak(args.pid)
    used = cpu_seconds(args.pid) if args.pid else 0.0
    began = time.perf_counter()
    with ThreadPoolExecutor(args.connections) as threads:
        count = sum(threads.map(lambda one: one.run(began + args.seconds), transfers))
    took = time.perf_counter() - began
    closed = sum(one.closed for one in transfers)
    result = {"transfers": count, "seconds": took, "mib_s": count * args.size / took / (1 << 20), "closed": closed}
    if args.pid:
        result["cpu_s"] = cpu_seconds(args.pid) - used
        result |= {"before_mb": before, "peak_mb": rss_mb(args.pid, peak=True), "after_mb": rss_mb(args.pid)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
