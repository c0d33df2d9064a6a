"""The relying party's web server: it notes every request that a browser makes, and shows a page."""

from __future__ import annotations

import queue
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from kiwi_id.instance.certs import make_loopback

WAIT_SECONDS = 30


@dataclass(frozen=True)
class Visit:
    """One request: ``parameters`` of the query, ``form`` of the body."""

    method: str
    path: str
    parameters: dict[str, str]
    form: dict[str, str]


@dataclass
class Site:
    """A running server on ``port``."""

    port: int
    visits: queue.Queue[Visit]

    def visit(self) -> Visit:
        """Wait for the next request and return it."""
        return self.visits.get(timeout=WAIT_SECONDS)


@contextmanager
def serving(directory: Path | None) -> Iterator[Site]:
    """Serve on the loopback; over TLS when there is a ``directory`` for a certificate."""
    visits: queue.Queue[Visit] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
            parts = urlsplit(self.path)
            if parts.path != "/favicon.ico":
                visits.put(Visit(self.command, parts.path, dict(parse_qsl(parts.query)), dict(parse_qsl(body))))
            page = b"<!DOCTYPE html><title>Application</title><p>You are in the application."
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if directory is not None:
        chain, key = directory / "site-chain.pem", directory / "site-key.pem"
        make_loopback(chain, key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        # The handshake in the connection's own thread: Chromium opens connections that it may never use.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Site(server.server_address[1], visits)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
