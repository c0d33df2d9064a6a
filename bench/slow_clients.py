"""Slow clients by the thousand, in a process of their own, for ``bench.hostile`` and the tests of a front beside them.

    python -m bench.slow_clients PORT COUNT [--kinds silent idle headers body chunks reader] [--addresses 10] [--path /]

Keeps COUNT connections to 127.0.0.1:PORT open, from several loopback addresses, each doing next to nothing for as long as it is
let: whatever is closed is opened anew. Prints a line of JSON when all have been opened once, and at the end of its standard input
another, with how many are open then and how many had to be opened in all.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import sys
import time
from contextlib import suppress
from itertools import cycle

from bench.processes import raise_descriptors

HOST = b"Host: localhost\r\n"
KINDS = {
    "silent": b"",
    "idle": b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n",
    "headers": b"GET / HTTP/1.1\r\n" + HOST + b"X-Slow: ",
    "body": b"POST /ui/login/begin HTTP/1.1\r\n" + HOST + b"Content-Length: 60000\r\n\r\n",
    "chunks": b"POST /v1/person HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n",
    "reader": b"GET %s HTTP/1.1\r\n" + HOST + b"\r\n",
}
# Between two bytes of one client, seconds.
PERIOD = 1.0


class Crowd:
    """The clients; ``opened`` counts connections, replaced ones too."""

    def __init__(self, port: int, kinds: list[str], addresses: int, path: str) -> None:
        self._port, self._kinds = port, cycle(kinds)
        self._sources = cycle([f"127.0.0.{2 + number}" for number in range(addresses)])
        self._path = path.encode()
        self._selector = selectors.DefaultSelector()
        self.clients: dict[socket.socket, str] = {}
        self.opened = 0

    def open(self) -> None:
        """Open one connection, and send what its kind begins with."""
        kind = next(self._kinds)
        sock = socket.socket()
        if kind == "reader":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.opened += 1
        try:
            sock.bind((next(self._sources), 0))
            sock.settimeout(10)
            sock.connect(("127.0.0.1", self._port))
            sock.sendall(KINDS[kind] % self._path if kind == "reader" else KINDS[kind])
            sock.setblocking(False)
        except OSError:
            sock.close()
            return
        self.clients[sock] = kind
        if kind != "reader":  # which is told by its sends that it was closed
            self._selector.register(sock, selectors.EVENT_READ)

    def _close(self, sock: socket.socket) -> None:
        if self.clients.pop(sock) != "reader":
            self._selector.unregister(sock)
        sock.close()

    def watch(self, seconds: float) -> None:
        """Wait so long, and take out whatever the server closes meanwhile."""
        for key, _ in self._selector.select(seconds):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            try:
                gone = not sock.recv(65536)
            except BlockingIOError:
                gone = False
            except OSError:
                gone = True
            if gone:
                self._close(sock)

    def drip(self, sock: socket.socket) -> None:
        """Send or read one byte."""
        try:
            if self.clients[sock] == "reader":
                if not sock.recv(1):
                    self._close(sock)
            elif self.clients[sock] not in ("silent", "idle"):
                sock.send(b"x")
        except BlockingIOError:
            pass
        except OSError:
            self._close(sock)

    def keep(self, count: int) -> None:
        """Open connections until there are so many, or a server that refuses them has been asked often enough for now."""
        for _ in range(min(count - len(self.clients), 200)):
            self.open()


def _input_ended(selector: selectors.DefaultSelector) -> bool:
    return bool(selector.select(0)) and not os.read(sys.stdin.fileno(), 1)


def main() -> None:
    """Do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--addresses", type=int, default=10)
    parser.add_argument("--path", default="/")
    args = parser.parse_args()
    raise_descriptors()
    crowd = Crowd(args.port, args.kinds, args.addresses, args.path)
    while crowd.opened < args.count:
        crowd.open()
        if crowd.opened % 100 == 0:
            crowd.watch(0)
    print(json.dumps({"open": len(crowd.clients), "opened": crowd.opened}), flush=True)
    stdin = selectors.DefaultSelector()
    stdin.register(sys.stdin, selectors.EVENT_READ)
    while not _input_ended(stdin):
        began = time.monotonic()
        for number, sock in enumerate(list(crowd.clients)):
            if sock in crowd.clients:
                crowd.drip(sock)
            if number % 100 == 99:
                with suppress(ValueError):
                    crowd.watch(0)
        crowd.keep(args.count)
        while (left := began + PERIOD - time.monotonic()) > 0 and not stdin.select(0):
            crowd.watch(min(left, 0.1))
            time.sleep(min(left, 0.02))
    print(json.dumps({"open": len(crowd.clients), "opened": crowd.opened}), flush=True)


if __name__ == "__main__":
    main()
