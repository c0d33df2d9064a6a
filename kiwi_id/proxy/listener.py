"""The listener: binds, accepts, shakes hands, and runs one connection server for each client; drains them at the end.

Hypercorn's accept loop is not used: an exception in one connection ends its whole server, its TLS context cannot be replaced, and
it has no cap (docs/architecture.md, "The connection loop").
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import trio

from kiwi_id.config import Config
from kiwi_id.errors import ConfigError, Problem
from kiwi_id.instance.files import require_file
from kiwi_id.logs import Log
from kiwi_id.proxy import pages
from kiwi_id.proxy.arrivals import BACKLOG, Arrivals
from kiwi_id.proxy.connection import Connection, Settings
from kiwi_id.proxy.crowd import Scope, Shared
from kiwi_id.proxy.exchange import Handler
from kiwi_id.proxy.refusals import Refusals
from kiwi_id.proxy.rules import is_trusted, neighbourhood, plain_address
from kiwi_id.proxy.stream import Stream
from kiwi_id.values import Address

log = Log("front")

# Connections that are told at once why they are not served; more are closed without a word, which holds nothing.
_MOST_TOLD = 32


class AddressInUse(ConfigError):
    """Somebody listens there already."""


def bind(address: Address) -> list[socket.socket]:
    """Bind and listen on every address that ``address`` resolves to. Raises ConfigError in words when that fails."""
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, where in found:
            sock = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(where)
            sock.listen(BACKLOG)
    except OSError as error:
        for sock in sockets:
            sock.close()
        fix = {
            errno.EADDRINUSE: "Another program listens there: 'ss -ltnp' shows which. Stop it, or choose another address.",
            errno.EADDRNOTAVAIL: "This machine has no such address yet: bring the interface up, or choose one of 'ip address'.",
            errno.EACCES: "Ports below 1024 need CAP_NET_BIND_SERVICE: grant it, or choose a higher port.",
        }.get(error.errno or 0, "")
        problem = Problem(str(address), "listen_addr", error.strerror or str(error), "an address that can be listened on", fix)
        refused = AddressInUse if error.errno == errno.EADDRINUSE else ConfigError
        raise refused([problem]) from None
    return sockets


def tls_context(config: Config) -> ssl.SSLContext | None:
    """Return the listener's TLS context, or None for plain HTTP. Raises ConfigError when the files cannot be used."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        for file in (config.tls_cert, config.tls_key):
            require_file(file)  # OpenSSL would wait for a FIFO's writer
        # The password callback only refuses: without it OpenSSL would ask on the terminal and hang a start.
        context.load_cert_chain(config.tls_cert, config.tls_key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else error.strerror or str(error)
        problem = Problem(
            str(config.tls_cert),
            "tls_cert",
            f"files that cannot be used together ({reason}; tls_key is {config.tls_key})",
            "a PEM certificate chain, and in tls_key its private key, without a password",
            "Check both files with 'kiwi-id check'.",
        )
        raise ConfigError([problem]) from None
    return context


class Listener:
    """Accepts on bound sockets. ``tls`` may be replaced at any time; connections that are open keep theirs.

    ``inherited`` sockets are somebody else's, who goes on listening: what is not accepted at our end is left to the next process.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        *,
        tls: ssl.SSLContext | None,
        handler: Handler,
        settings: Callable[[], Settings],
        refusals: Refusals | None = None,
        inherited: bool = False,
    ) -> None:
        self.tls = tls
        self.shared = Shared(refusals)
        self.connections: set[Connection] = set()
        self.open = 0
        self._of_address: Counter[str] = Counter()
        self._told = 0
        self._handler, self._settings = handler, settings
        self._sockets, self._inherited = sockets, inherited
        self.addresses = [Address(*sock.getsockname()[:2]) for sock in sockets]
        self._accepting = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until :meth:`stop` (or cancellation); all connections have ended when this returns."""
        async with trio.open_nursery() as connections:
            connections.start_soon(self._accept, connections)
            task_status.started()
            log.info("listening", addresses=[str(address) for address in self.addresses], tls=self.tls is not None)

    async def _accept(self, connections: trio.Nursery) -> None:
        def last(stream: trio.SocketStream) -> None:
            connections.start_soon(self._serve, stream)

        listeners = [Arrivals(sock, None if self._inherited else last) for sock in self._sockets]
        with self._accepting:
            await trio.serve_listeners(self._serve, listeners, handler_nursery=connections)

    async def _serve(self, stream: trio.SocketStream) -> None:
        """Serve one client. Nothing that goes wrong here may end more than this one connection."""
        peer: tuple[str, int] = ("", 0)
        try:
            if stream.socket.family != socket.AF_UNIX:
                peer = stream.socket.getpeername()[:2]  # fails when the client has reset the connection before we accepted it
                peer = plain_address(peer[0].partition("%")[0]) or peer[0], peer[1]
            with self._place(peer[0]) as refused:
                if not refused:
                    await self._serve_client(stream, peer)
            if refused:
                await self._turn_away(stream, refused, peer[0])
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
            log.debug("connection failed", error=str(error.__cause__ or error), client=peer[0])
        except Exception as error:  # noqa: BLE001 - see above
            log.crash("unexpected error in a connection", error, client=peer[0])
        finally:
            with trio.move_on_after(1, shield=True):
                await trio.aclose_forcefully(stream)

    @contextmanager
    def _place(self, address: str) -> Iterator[str]:
        """Hold a place for a connection from ``address``; yield why there is none, or nothing."""
        settings = self._settings()
        limits, of_address = settings.limits, self._of_address
        # A proxy's connections are those of all its clients. A Unix socket's peer has no address.
        group = "" if settings.trusted and is_trusted(address, settings.trusted) else neighbourhood(address)
        if group and of_address[group] >= limits.max_connections_per_address:
            yield "too_many_connections_per_address"
            return
        if self.open >= limits.max_connections:
            if not self.shared.heads.end_longest():
                yield "too_many_connections"
                return
            self.shared.refusals.count("made_room", address, open=self.open)
        self.open += 1
        of_address[group] += 1
        try:
            yield ""
        finally:
            self.open -= 1
            of_address[group] -= 1
            if not of_address[group]:
                del of_address[group]

    async def _serve_client(self, tcp: trio.SocketStream, peer: tuple[str, int]) -> None:
        tls, limits = self.tls, self._settings().limits
        wrap = partial(tls.wrap_socket, server_side=True, do_handshake_on_connect=False) if tls is not None else None
        stream = Stream.of(tcp, wrap)
        try:
            if tls is not None:
                with trio.move_on_after(limits.tls_handshake_timeout) as scope:
                    waiting = Scope(scope)
                    self.shared.heads.join(waiting)
                    try:
                        await stream.handshake()
                    finally:
                        self.shared.heads.leave(waiting)
                if scope.cancelled_caught:
                    self.shared.refusals.count("slow_tls_handshake", peer[0])
                    return
            connection = Connection(
                stream, peer, "https" if tls else "http", handler=self._handler, settings=self._settings, shared=self.shared
            )
            self.connections.add(connection)
            if self._accepting.cancel_called:  # it was shaking hands when all others were told
                connection.drain()
            try:
                await connection.serve()
            finally:
                self.connections.discard(connection)
        finally:
            stream.close()

    async def _turn_away(self, stream: trio.SocketStream, why: str, address: str) -> None:
        self.shared.refusals.count(why, address, open=self.open)
        if self.tls is None and self._told < _MOST_TOLD:
            self._told += 1
            try:
                with trio.move_on_after(1), suppress(trio.BrokenResourceError):
                    await stream.send_all(pages.too_many_connections(why))
                    await stream.send_eof()
                    while await stream.receive_some():  # closed with bytes unread, the answer could be lost on its way
                        pass
            finally:
                self._told -= 1

    def stop(self) -> None:
        """Stop accepting and let each connection end after the request in progress. ``run`` then returns by itself."""
        self._accepting.cancel()
        for connection in list(self.connections):
            connection.drain()
