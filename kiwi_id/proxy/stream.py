"""A TCP connection, or TLS on one, as the front uses it: a non-blocking socket of the standard library, waited for by Trio.

``trio.SSLStream`` moves each byte through two memory buffers and five Python layers; at a request's size that cost more than TLS
itself (docs/measurements.md). ``ssl.SSLSocket`` lets OpenSSL read and write the socket; what is left is to wait when it says so.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress

import trio
from trio.lowlevel import notify_closing, wait_readable, wait_writable

from kiwi_id.proxy import alarms

READ_SIZE = 65536
# Bytes that the kernel takes before it asks us to wait. Trio's 16 KiB make a large body wait at each TLS record.
UNSENT = 131072
# The largest TLS record (RFC 8446 §5.1). A read gives one at a time; after a full one there is probably more.
_RECORD = 16384
_ACKED = struct.Struct("=120xQ")
_CLOSED = "this connection has been closed"
_UNREADY = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Late(Exception):
    """Nothing has come by the deadline of :meth:`Stream.expect_by`."""


class Stream:
    """One connection. At most one task receives and one sends at a time.

    Every failure raises trio.BrokenResourceError, every use after :meth:`close` trio.ClosedResourceError. A send that was cancelled
    leaves the connection good for nothing but :meth:`abort` and :meth:`close`; a receive that was cancelled has lost nothing.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Take over ``sock``, connected; TLS when it is an ``ssl.SSLSocket`` whose handshake is still to be done."""
        sock.setblocking(False)
        with suppress(OSError):  # not TCP
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        self.socket = sock
        self.tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self._alarms = alarms.current()
        self._alarm: int | None = None
        self._late = False

    @classmethod
    def of(cls, tcp: trio.SocketStream, wrap: Callable[[socket.socket], socket.socket] | None = None) -> Stream:
        """Return the stream of a connection that Trio has made or accepted; ``wrap`` makes a TLS socket of it."""
        inner = tcp.socket
        sock = socket.socket(inner.family, inner.type, inner.proto, fileno=inner.detach())
        try:
            return cls(wrap(sock) if wrap is not None else sock)
        except BaseException:
            sock.close()
            raise

    async def handshake(self) -> None:
        """Do the TLS handshake. Bound it with a cancel scope. Raises ssl.SSLError, trio.BrokenResourceError."""
        assert self.tls is not None  # noqa: S101 - for the type checker; plain streams have none
        while True:
            try:
                self.tls.do_handshake()
            except _UNREADY as unready:
                await self._wait(unready)
            except ssl.SSLError:
                raise
            except (OSError, ValueError) as error:
                raise self._failure(error) from error
            else:
                return

    def expect_by(self, deadline: float | None) -> None:
        """Have :meth:`receive` raise Late when it waits at ``deadline``, of Trio's clock, or up to a tick later; None: never."""
        if self._alarm is not None:
            self._alarms.cancel(self, self._alarm)
        self._late = False
        self._alarm = None if deadline is None else self._alarms.set(self, deadline)

    def ring(self) -> None:
        """Have :meth:`receive` raise Late as soon as it waits."""
        self._alarm, self._late = None, True
        notify_closing(self.socket)  # wakes whoever waits for the socket, and does nothing else

    async def receive(self) -> bytes:
        """Return the next bytes, at most ``READ_SIZE``; empty at the end of what the peer sends.

        Raises Late, having lost nothing, when :meth:`expect_by` is over.
        """
        tls = self.tls
        if tls is None or not tls.pending():
            await self._readable()
        while True:
            try:
                if tls is None:
                    return self.socket.recv(READ_SIZE)
                data = tls.recv(_RECORD)
                return data if len(data) < _RECORD else self._read_on(tls, data)
            except _UNREADY as unready:
                await self._wait(unready)
            except ssl.SSLEOFError:
                return b""  # without TLS's good-bye, as many HTTP peers do; whoever needs to know where a message ends knows
            except (OSError, ValueError) as error:
                raise self._failure(error) from error

    @staticmethod
    def _read_on(tls: ssl.SSLSocket, data: bytes) -> bytes:
        parts, size = [data], len(data)
        with suppress(OSError):  # whatever it is, the next receive meets it again
            while size < READ_SIZE and len(data) == _RECORD:
                data = tls.recv(_RECORD)
                parts.append(data)
                size += len(data)
        return b"".join(parts)

    def send_now(self, data: bytes | memoryview) -> int:
        """Send what can be sent without waiting; return how many bytes that was."""
        sock, size = self.socket, len(data)
        sent = 0
        try:
            while sent < size:
                sent += sock.send(data if not sent else memoryview(data)[sent:])
        except _UNREADY:
            pass
        except (OSError, ValueError) as error:
            raise self._failure(error) from error
        return sent

    async def send(self, data: bytes) -> None:
        """Send all of ``data``, waiting as long as the peer takes: bound it with a cancel scope."""
        rest = memoryview(data)[self.send_now(data) :]
        while rest:
            rest = await self.send_some(rest)

    async def send_some(self, data: memoryview) -> memoryview:
        """Wait until some of ``data`` can be sent, send that, and return the rest.

        After a cancellation nothing has been sent; go on with the same bytes, which is what TLS demands.
        """
        await self._writable()
        return data[self.send_now(data) :]

    def acknowledged(self) -> int:
        """Return how many bytes the peer's kernel has taken so far (``tcpi_bytes_acked`` of linux/tcp.h); 0 when it is unknown."""
        try:
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.size)
        except OSError:  # not TCP
            return 0
        return int(_ACKED.unpack(info)[0]) if len(info) == _ACKED.size else 0

    def pending(self) -> bool:
        """Tell whether decrypted bytes wait to be received."""
        return self.tls is not None and self.tls.pending() > 0

    # A closed socket must not be waited for: its descriptor is -1 like that of all others, and Trio, whose epoll refuses that, goes
    # on taking it for waited for. The next who did the same would get trio.BusyResourceError.

    async def _readable(self) -> None:
        while not self._late:
            if self.closed:
                raise trio.ClosedResourceError(_CLOSED)
            try:
                await wait_readable(self.socket)
            except trio.ClosedResourceError:  # closed meanwhile, or rung
                continue
            except OSError as error:
                raise self._failure(error) from error
            return
        raise Late

    async def _writable(self) -> None:
        while not self.closed:
            try:
                await wait_writable(self.socket)
            except trio.ClosedResourceError:  # closed meanwhile, or it was the receiver that was rung for
                continue
            except OSError as error:
                raise self._failure(error) from error
            return
        raise trio.ClosedResourceError(_CLOSED)

    async def _wait(self, unready: OSError) -> None:
        # A TLS read may have to write first and a write to read (key updates), so the exception says for what to wait.
        if isinstance(unready, ssl.SSLWantWriteError):
            await self._writable()
        else:
            await self._readable()

    def _failure(self, error: BaseException) -> Exception:
        if self.closed:
            return trio.ClosedResourceError(_CLOSED)
        return trio.BrokenResourceError(str(error))

    def option(self, level: int, name: int, value: int | bytes) -> None:
        """Set a socket option."""
        self.socket.setsockopt(level, name, value)

    def say_goodbye(self) -> None:
        """Tell the peer that nothing more will be sent, TLS's way first, without waiting for anything."""
        with suppress(OSError, ValueError):
            if self.tls is not None:
                with suppress(ssl.SSLError):
                    self.tls.unwrap()  # says it also when the peer is still sending, and then complains
            self.socket.shutdown(socket.SHUT_WR)

    async def discard(self) -> None:
        """Read raw bytes, TLS or not, and throw them away until the peer ends. Bound it with a cancel scope."""
        with suppress(OSError, ValueError, trio.ClosedResourceError):
            while not self.closed:
                await wait_readable(self.socket)
                if not socket.socket.recv(self.socket, READ_SIZE):  # past ssl.SSLSocket's own, which would decrypt
                    return

    def abort(self) -> None:
        """Reset the connection: the peer can tell that what it has got is not all."""
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` or :meth:`abort` has been called."""
        return self.socket.fileno() < 0

    def close(self) -> None:
        """Close at once; whoever waits for the connection gets trio.ClosedResourceError."""
        self.expect_by(None)
        if not self.closed:
            notify_closing(self.socket)
            self.socket.close()
