"""The key set over HTTP: from a real server on the loopback that behaves well and badly."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kiwi_id.instance.certs import make_loopback
from kiwi_id.verify import JwksUrl, KeysError, UnknownKey, remote
from tests.verify.craft import Signer, verifier
from tests.verify.test_keys import jwk, jwks

OLD, NEW = Signer("EdDSA", "old"), Signer("EdDSA", "new")
PATIENCE = 30.0


class Server:
    """Serves what it is told to, and counts."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.body, self.status, self.headers = jwks(jwk(OLD)), 200, dict[str, str]()
        self.served = threading.Semaphore(0)
        self.count = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.count += 1
                self.send_response(outer.status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(outer.body)
                self.wfile.flush()
                outer.served.release()

            def log_message(self, *_: object) -> None:
                return None

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:  # a client that does not trust us hangs up
                return None

        self.http = Quiet(("127.0.0.1", 0), Handler)
        if context is not None:
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://localhost:{self.http.server_address[1]}/oauth2/keys"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Stop."""
        self.http.shutdown()
        self.http.server_close()
        self.thread.join(PATIENCE)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server without TLS."""
    made = Server()
    yield made
    made.close()


@pytest.fixture
def made() -> Iterator[Callable[..., JwksUrl]]:
    """Makes sources that are closed in the end."""
    sources: list[JwksUrl] = []

    def make(url: str, **options: float | str | Path) -> JwksUrl:
        source = JwksUrl(url, **options)  # type: ignore[arg-type]
        sources.append(source)
        return source

    yield make
    for source in sources:
        source.close()
        source._thread.join(PATIENCE)
        assert not source._thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends
        threading.Event().wait(0.005)


def test_keys_are_fetched_at_the_start(server: Server, made: Callable[..., JwksUrl]) -> None:
    """The set is there when the verifier is made; checking tokens makes no request."""
    check = verifier(keys=made(server.url))
    for _ in range(3):
        assert check.verify(OLD.token()).subject
    assert server.count == 1


def test_refresh_in_the_background(server: Server, made: Callable[..., JwksUrl]) -> None:
    """A new set is there after the interval without anybody asking; remembered tokens of a removed key end."""
    source = made(server.url, refresh=0.02)
    check = verifier(keys=source)
    token = OLD.token()
    keys = source.current()
    assert check.verify(token)
    until(lambda: server.count > 2)
    assert source.current() is keys  # the same set again empties no cache
    server.body = jwks(jwk(NEW))
    until(lambda: source.current() is not keys)
    assert check.verify(NEW.token())
    with pytest.raises(UnknownKey):
        check.verify(token)


@pytest.mark.parametrize(
    ("status", "body"), [(500, b""), (404, b"no"), (302, b""), (204, b""), (200, b"junk"), (200, jwks()), (200, b" " * 300_000)]
)
def test_the_last_good_keys_stay(
    server: Server, made: Callable[..., JwksUrl], caplog: pytest.LogCaptureFixture, status: int, body: bytes
) -> None:
    """Whatever the server answers instead of keys, those before stay in use; it is told once."""
    server.headers = {"location": "/elsewhere"} if status == 302 else {}
    source = made(server.url, refresh=0.01)
    check = verifier(keys=source)
    with caplog.at_level(logging.WARNING, "kiwi_id.verify"):
        server.status, server.body = status, body
        before = server.count
        until(lambda: server.count > before + 3)
        assert check.verify(OLD.token())
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{server.url}: ")
    with pytest.raises(KeysError):
        JwksUrl(server.url)


def test_nobody_there(server: Server, made: Callable[..., JwksUrl], caplog: pytest.LogCaptureFixture) -> None:
    """A server that has gone leaves the keys in place; at the start it is an error in words."""
    source = made(server.url)
    check = verifier(keys=source)
    server.close()
    with pytest.raises(KeysError, match="refused"):
        source.refresh()
    assert check.verify(OLD.token())
    with pytest.raises(KeysError, match=r"localhost:\d+/oauth2/keys: .*refused"):
        JwksUrl(server.url)


def test_redirects_are_not_followed(server: Server) -> None:
    """A redirect, also to the same server, would let somebody else name the keys."""
    server.status, server.headers = 302, {"location": server.url}
    with pytest.raises(KeysError):
        JwksUrl(server.url)
    assert server.count == 1


def test_a_drop_a_second_ends(server: Server) -> None:
    """A server that sends a little now and then, for ever, is left after the timeout."""
    stop = threading.Event()

    class Drip(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            while not stop.wait(0.01):
                try:
                    self.wfile.write(b" ")
                except OSError:
                    return

        def log_message(self, *_: object) -> None:
            return None

    server.http.RequestHandlerClass = Drip
    with pytest.raises(KeysError, match=r"no complete answer within 0\.3 s"):
        JwksUrl(server.url, timeout=0.3)
    stop.set()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_drop_a_second_before_the_answer_ends(scheme: str) -> None:
    """So is one that drips a header, or its part of the handshake; its connection is closed, and no thread stays behind."""
    listener = socket.create_server(("127.0.0.1", 0))
    left = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            # An HTTP header without end, and a TLS record that is announced with 16 KB.
            connection.sendall(b"HTTP/1.1 200 OK\r\nx: " if scheme == "http" else b"\x16\x03\x03\x40\x00")
            with suppress(OSError):
                while not left.wait(0.01):
                    connection.sendall(b"\x02")
        left.set()

    def fetch() -> None:
        try:
            JwksUrl(f"{scheme}://localhost:{listener.getsockname()[1]}/oauth2/keys", timeout=0.3)
        except KeysError as error:
            told.append(str(error))

    told: list[str] = []
    threads = [threading.Thread(target=work, daemon=True) for work in (drip, fetch)]
    with listener:
        for thread in threads:
            thread.start()
        threads[1].join(PATIENCE)
        assert len(told) == 1
        assert told[0].endswith("/oauth2/keys: no complete answer within 0.3 s")
        assert left.wait(PATIENCE)  # by an error of the connection: nobody else sets it
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("kiwi-id-jwks-")])


def test_an_unknown_key_fetches_soon_but_not_often(
    server: Server, made: Callable[..., JwksUrl], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token of a key that is not there is refused at once and wakes the thread; a flood of them makes no flood of requests."""
    source = made(server.url)
    check = verifier(keys=source)
    server.body = jwks(jwk(OLD), jwk(NEW))
    for _ in range(20):  # the set was fetched a moment ago
        with pytest.raises(UnknownKey):
            check.verify(NEW.token())
    assert not source._wake.is_set()
    assert server.count == 1
    keys = source.current()
    source._fetched -= remote.AGAIN_SECONDS
    with pytest.raises(UnknownKey):
        check.verify(NEW.token())
    until(lambda: source.current() is not keys)
    assert check.verify(NEW.token())
    assert server.count == 2


def test_the_thread_ends_with_its_source(server: Server) -> None:
    """A source that nobody uses any more is collected, and its thread with it."""
    source = JwksUrl(server.url, refresh=0.01)
    thread = source._thread
    assert thread.daemon
    del source
    until(lambda: not thread.is_alive())


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python 3.12 and later warn; servers do it all the same
def test_after_a_fork_the_child_refreshes_for_itself(server: Server, made: Callable[..., JwksUrl]) -> None:
    """Servers that fork after loading (gunicorn --preload) have no thread in the child: it is started there at the first use."""
    source = made(server.url, refresh=0.02)
    keys = source.current()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            ends = time.monotonic() + PATIENCE
            while source.current() is keys and time.monotonic() < ends:
                threading.Event().wait(0.005)
            os._exit(0 if source.current().find("new") else 3)
        finally:
            os._exit(4)
    server.body = jwks(jwk(NEW))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example.com/oauth2/keys",
        "http://127.0.0.1.evil.example/keys",
        "http://localhost.evil.example/keys",
        "http://[::2]/keys",
        "https://user:password@id.example.com/keys",
        "ftp://id.example.com/keys",
        "file:///etc/passwd",
        "https://",
        "http://[::1/keys",
        "",
        "id.example.com/keys",
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    """Without TLS only this machine is asked; nothing with a password, which then is not in the message."""
    with pytest.raises(KeysError) as caught:
        JwksUrl(url)
    assert "password@" not in str(caught.value)


@pytest.mark.parametrize(("refresh", "timeout"), [(0, 1), (1, 0), (1, -1), (float("nan"), 1)])
def test_intervals_that_are_none(refresh: float, timeout: float) -> None:
    """Zero would fetch without a pause, or never."""
    with pytest.raises(KeysError, match="more than 0"):
        JwksUrl("https://id.example.com/oauth2/keys", refresh=refresh, timeout=timeout)


def test_tls(tmp_path: Path, made: Callable[..., JwksUrl]) -> None:
    """Over TLS the server's certificate is checked: with its own as ca_file it passes, with the system's it does not."""
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    make_loopback(chain, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    server = Server(context)
    try:
        assert verifier(keys=made(server.url, ca_file=chain)).verify(OLD.token())
        with pytest.raises(KeysError, match="certificate verify failed"):
            JwksUrl(server.url)
        with pytest.raises(KeysError, match=r"none\.pem"):
            JwksUrl(server.url, ca_file=tmp_path / "none.pem")
    finally:
        server.close()
