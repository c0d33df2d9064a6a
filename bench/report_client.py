"""What the report asks over connections of its own: single requests, and handshakes with and without resumption."""

from __future__ import annotations

import contextlib
import socket
import ssl
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.processes import cpu_seconds


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@contextlib.contextmanager
def _connected(port: int, context: ssl.SSLContext | None, session: ssl.SSLSession | None = None) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), 10) as tcp:
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is None:
            yield tcp
        else:
            with context.wrap_socket(tcp, session=session) as tls:
                yield tls


def _exchange(sock: socket.socket, path: str) -> tuple[int, bytes]:
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: id.example.com\r\nAccept: */*\r\n\r\n".encode())
    got = b""
    while b"\r\n\r\n" not in got:
        if not (piece := sock.recv(65536)):
            raise OSError("closed before an answer")
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
    while len(body) < length and (piece := sock.recv(65536)):
        body += piece
    return int(head.split(b" ")[1]), body


def ask(port: int, tls: bool, path: str) -> tuple[int, bytes]:
    """Return status and body of one GET. Raises OSError."""
    with _connected(port, _context() if tls else None) as sock:
        return _exchange(sock, path)


def until_200(port: int, tls: bool, path: str, log: Path, seconds: float = 20.0) -> None:
    """Ask until the answer is 200. Raises SystemExit, with the end of ``log``, when it never is."""
    ends = time.monotonic() + seconds
    last: object = "no answer"
    while time.monotonic() < ends:
        try:
            last = ask(port, tls, path)[0]
        except OSError as error:
            last = error
        if last == 200:
            return
        time.sleep(0.02)
    raise SystemExit(f"bench: {path} on port {port}: {last}\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")


@dataclass(frozen=True)
class Handshakes:
    """A kind of handshake: CPU of the server for each connection with one request, in µs, its median time, and how many resumed."""

    cpu_us: float
    median_us: float
    resumed: float
    protocol: str


def handshakes(port: int, pid: int, path: str, count: int, *, resume: bool) -> Handshakes:
    """Open ``count`` TLS connections one after another, one request on each; with ``resume`` each offers the last one's session."""
    context = _context()
    session: ssl.SSLSession | None = None
    times, resumed, protocol = [], 0, ""
    # Not counted: the first has no session to offer.
    for number in range(count + 1):
        if number == 1:
            used = cpu_seconds(pid)
        began = time.perf_counter()
        with _connected(port, context, session) as sock:
            assert isinstance(sock, ssl.SSLSocket)
            took = time.perf_counter() - began
            _exchange(sock, path)  # with TLS 1.3 the ticket comes behind the handshake
            protocol = sock.version() or ""
            if number:
                times.append(took)
                resumed += sock.session_reused is True
            if resume:
                session = sock.session
    used = cpu_seconds(pid) - used
    return Handshakes(used / count * 1e6, statistics.median(times) * 1e6, resumed / count, protocol)
