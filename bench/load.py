"""A load generator in a process of its own: N keep-alive connections, some of them with a request in flight at any time.

    python -m bench.load HOST PORT [--tls] [--connections 16] [--in-flight N | --rate R] [--seconds 4] [--pid PID]

Every connection is opened, and has had one answer, before anything is measured. Then either a *closed loop*: ``--in-flight``
requests at any time (by default one on each connection), each on the connection that has been idle longest; 0 leaves all of them
idle. Or, with ``--rate``, an *open loop*: requests come at random times, that many a second on average, whether or not others have
been answered, and wait for a connection when none is idle; their latency counts from when they came.

Prints one JSON object: ``requests``, ``seconds``, ``p50_us``, ``p99_us``, ``errors``, ``first_error``, and for ``--pid`` the CPU
seconds that process used meanwhile and its resident memory (``cpu_s``, ``rss_mb``).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import ssl
import threading
import time
from collections import deque

from bench.processes import cpu_seconds, raise_descriptors, rss_mb

# Connections that shake hands at once while all are opened.
OPENING = 64
# A time so short that a busy machine gives no answer in it goes on until there is one, for so many seconds.
LONGEST = 20.0


class Client(asyncio.Protocol):
    """One connection; tells the load when an answer is complete."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.buffer = b""
        self.length = -1
        self.first: asyncio.Future[None] | None = load.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a first answer."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.send(time.perf_counter())

    def send(self, began: float) -> None:
        """Send a request, whose time counts from ``began``."""
        self.began = began
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        """Count an answer when it is whole."""
        self.buffer += data
        if self.length < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            if not head.startswith(b"http/1.1 200"):
                self.load.failures.append(head.split(b"\r\n")[0].decode("latin-1"))
            self.length = end + 4 + int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(self.buffer) >= self.length:
            self.buffer = self.buffer[self.length :]
            self.length = -1
            if self.first is not None:
                self.first.set_result(None)
                self.first = None
                self.load.idle.append(self)
            else:
                self.load.answered(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note an end that we did not ask for."""
        if not self.load.stopped:
            self.load.failures.append(f"connection lost: {exc}")
            if self.first is not None and not self.first.done():
                self.first.set_exception(ConnectionError(f"lost before its first answer: {exc}"))


class Load:
    """The connections, and which of them sends next."""

    def __init__(self, path: str) -> None:
        head = f"GET {path} HTTP/1.1\r\nHost: id.example.com\r\nAccept: application/json\r\nUser-Agent: bench\r\n\r\n"
        self.request = head.encode()
        self.loop = asyncio.get_running_loop()
        self.idle: deque[Client] = deque()
        self.waiting: deque[float] = deque()
        self.times: list[float] = []
        self.failures: list[str] = []
        self.closed_loop = True
        self.stopped = False

    async def open(self, host: str, port: int, tls: bool, connections: int) -> None:
        """Open all connections; each has had an answer when this returns."""
        context = None
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        while len(self.idle) < connections:
            some = min(OPENING, connections - len(self.idle))
            opening = (self.loop.create_connection(lambda: Client(self), host, port, ssl=context) for _ in range(some))
            clients = [client for _, client in await asyncio.gather(*opening)]
            await asyncio.gather(*(client.first for client in clients if client.first is not None))

    def start(self, in_flight: int) -> None:
        """Begin a closed loop."""
        for _ in range(in_flight):
            self.idle.popleft().send(time.perf_counter())

    def arrive(self, due: float) -> None:
        """Send the next request of an open loop, or let it wait."""
        if self.idle:
            self.idle.popleft().send(due)
        else:
            self.waiting.append(due)

    def answered(self, client: Client) -> None:
        """Take an answer's time; go on."""
        now = time.perf_counter()
        self.times.append(now - client.began)
        if self.stopped:
            return
        if self.closed_loop:
            self.idle.append(client)
            self.idle.popleft().send(now)
        elif self.waiting:
            client.send(self.waiting.popleft())
        else:
            self.idle.append(client)

    def pace(self, rate: float) -> None:
        """Let requests come at random times, ``rate`` a second; runs in a thread, whose sleep is finer than the loop's."""
        arrivals = random.Random(1)  # noqa: S311 - the same times for every contender
        due = time.perf_counter()
        while not self.stopped:
            due += arrivals.expovariate(rate)
            if (wait := due - time.perf_counter()) > 0:
                time.sleep(wait)
            if not self.stopped:
                self.loop.call_soon_threadsafe(self.arrive, due)


async def run(args: argparse.Namespace) -> dict[str, object]:
    """Run the load; return the figures."""
    load = Load(args.path)
    await load.open(args.host, args.port, args.tls, args.connections)
    pacer = None
    if args.rate:
        load.closed_loop = False
        pacer = threading.Thread(target=load.pace, args=(args.rate,))
        pacer.start()
    else:
        load.start(args.connections if args.in_flight is None else min(args.in_flight, args.connections))
    gc.freeze()
    gc.disable()  # our own pauses are not the contender's
    await asyncio.sleep(min(1.0, args.seconds / 4))  # warm-up: connections upstream are opened, code paths are warm
    load.times.clear()
    used, began = cpu_seconds(args.pid) if args.pid else 0.0, time.perf_counter()
    while True:
        await asyncio.sleep(args.seconds)
        took, count = time.perf_counter() - began, len(load.times)
        if count or load.failures or args.in_flight == 0 or took > LONGEST:
            break
    used = cpu_seconds(args.pid) - used if args.pid else 0.0
    memory = rss_mb(args.pid) if args.pid else 0.0
    load.stopped = True
    if pacer:
        pacer.join()
    ordered = sorted(load.times[:count]) or [0.0]
    return {
        "requests": count,
        "seconds": took,
        "p50_us": ordered[len(ordered) // 2] * 1e6,
        "p99_us": ordered[int(len(ordered) * 0.99)] * 1e6,
        "errors": len(load.failures),
        "first_error": load.failures[0] if load.failures else "",
        "cpu_s": used,
        "rss_mb": memory,
    }


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--path", default="/oauth2/openid/bench/public_key.jwk")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--in-flight", type=int)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--pid", type=int, default=0)
    raise_descriptors()
    try:
        print(json.dumps(asyncio.run(run(parser.parse_args()))))
    except OSError as error:
        raise SystemExit(f"bench: the load could not open its connections: {error}") from None


if __name__ == "__main__":
    main()
