"""One GET with one deadline for all of it: resolving the name, connecting, TLS, headers and body."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

from kiwi_id.verify.errors import KeysError


def fetch(url: str, context: ssl.SSLContext, *, timeout: float, most: int) -> bytes:
    """Return what ``url`` answers, in ``timeout`` seconds, of ``most`` bytes at most. No redirects. Raises KeysError.

    The standard library's timeouts are for each read and each address: a server that sends a byte now and then keeps a reader for
    ever. So the request has a thread of its own, and is ended from outside, by its socket.
    """
    request = _Request(url, context, timeout, most)
    request.start()
    request.join(timeout)
    if request.is_alive():
        request.abort()
        raise KeysError(f"{url}: {request.late}")
    if request.error:
        raise KeysError(f"{url}: {request.error}")
    return request.body


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class _Request(threading.Thread):
    """``body`` or ``error`` is there when the thread has ended."""

    def __init__(self, url: str, context: ssl.SSLContext, timeout: float, most: int) -> None:
        super().__init__(name="kiwi-id-jwks-request", daemon=True)
        self._url, self._timeout, self._most = url, timeout, most
        self._opener = urllib.request.build_opener(_NoRedirect(), *_handlers(self, context, direct=url.startswith("http:")))
        self._sockets: list[socket.socket] = []
        self._aborted = False
        self.body = b""
        self.error = ""
        self.late = f"no complete answer within {timeout:g} s"

    def run(self) -> None:
        try:
            self._get()
        except Exception as error:  # noqa: BLE001 - urllib lets through what its parts raise: OSError, HTTPException, ValueError
            reason = getattr(error, "reason", None) or error
            # A read that took all of the time ended in this thread before the other one woke up.
            self.error = self.late if isinstance(reason, TimeoutError) else str(reason or type(error).__name__)
            if isinstance(error, urllib.error.HTTPError):
                error.close()
        finally:
            for connected in self._sockets:
                connected.close()

    def _get(self) -> None:
        with self._opener.open(self._url, timeout=self._timeout) as response:
            if response.status != 200:
                raise KeysError(f"HTTP status {response.status}")
            self.body = response.read(self._most + 1)
        if len(self.body) > self._most:
            raise KeysError(f"more than {self._most} bytes")

    def connected(self, made: socket.socket) -> None:
        """Take note of a connection: of a copy of its descriptor, for TLS takes the socket itself over."""
        self._sockets.append(made.dup())
        if self._aborted:
            self.abort()

    def abort(self) -> None:
        """Let whatever the thread does with its connection fail at once."""
        self._aborted = True
        for connected in list(self._sockets):
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)


def _handlers(request: _Request, context: ssl.SSLContext, *, direct: bool) -> list[urllib.request.BaseHandler]:
    """Return what tells ``request`` of connections; ``direct``: no proxy from the environment, on the loopback."""

    class Told(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            request.connected(self.sock)

    class ToldTls(http.client.HTTPSConnection, Told):
        """Its connect() calls the one above before it begins with TLS."""

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Told, req)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(ToldTls, req, context=context)

    return [Http(), Https(), *([urllib.request.ProxyHandler({})] if direct else [])]
