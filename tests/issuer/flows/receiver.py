"""A relying party's back-channel logout endpoint: a small HTTP server in a thread that keeps what is posted to it."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import jwt
import trio


class Receiver:
    """Answers POST at any path with 200, or with what ``answers`` holds for the path; keeps the logout tokens by path."""

    def __init__(self) -> None:
        self.got: dict[str, list[str]] = {}
        self.answers: dict[str, list[int]] = {}
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                assert self.headers["content-type"] == "application/x-www-form-urlencoded"
                self.send_response(receiver._take(self.path, parse_qs(body, strict_parsing=True)["logout_token"][0]))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _take(self, path: str, token: str) -> int:
        with self._lock:
            self.got.setdefault(path, []).append(token)
            queue = self.answers.get(path)
            return queue.pop(0) if queue else 200

    def of(self, sid: str) -> dict[str, list[str]]:
        """Return the tokens of one session by path: a late one of an earlier test is none of them."""

        def is_of(token: str) -> bool:
            return bool(jwt.decode(token, options={"verify_signature": False})["sid"] == sid)

        with self._lock:
            kept = {path: [token for token in got if is_of(token)] for path, got in self.got.items()}
        return {path: got for path, got in kept.items() if got}

    async def wait(self, path: str, count: int, sid: str, seconds: float = 20.0) -> list[str]:
        """Wait until ``count`` tokens of a session have come to a path; return all that came."""
        deadline = time.monotonic() + seconds
        while len(found := self.of(sid).get(path, [])) < count:
            assert time.monotonic() < deadline, f"{len(found)} instead of {count} logout tokens at {path}"
            await trio.sleep(0.02)
        return found

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self.got.clear()
            self.answers.clear()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
