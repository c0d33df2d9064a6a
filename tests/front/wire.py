"""A client that speaks raw bytes and takes apart what comes back, strictly and with no library's help."""

from __future__ import annotations

import re
import socket
import ssl
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import trio

_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+: ?[^\r\n\x00]*")


@dataclass
class Reply:
    """A response as it stood on the wire: ``headers`` in their order, ``body`` without chunking, ``trailers``."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: Sequence[tuple[bytes, bytes]] = ()

    def all(self, name: bytes) -> list[bytes]:
        """Return every value of a header."""
        return [value for found, value in self.headers if found == name]

    def one(self, name: bytes) -> bytes | None:
        """Return the value of a header that must not be there twice."""
        values = self.all(name)
        assert len(values) <= 1, (name, values)
        return values[0] if values else None


def reset(stream: trio.SocketStream) -> None:
    """Close by an RST, as a process that dies with unread bytes does."""
    if stream.socket.fileno() >= 0:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()


def fields(lines: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Take header lines apart; each must be well-formed."""
    found = []
    for line in lines:
        assert _LINE.fullmatch(line.split(b":")[0].lower() + b":" + line.partition(b":")[2]), line
        name, _, value = line.partition(b":")
        found.append((name.lower(), value.strip()))
    return found


class Client:
    """A connection to the front."""

    def __init__(self, tcp: trio.SocketStream, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self.tcp, self.stream = tcp, stream
        self.buffer = bytearray()

    @property
    def port(self) -> int:
        """Our own port."""
        return int(self.tcp.socket.getsockname()[1])

    async def send(self, data: bytes) -> None:
        """Send raw bytes."""
        await self.stream.send_all(data)

    async def finish(self) -> None:
        """Send a FIN and go on reading."""
        await self.tcp.send_eof()

    def reset(self) -> None:
        """Go away by an RST."""
        reset(self.tcp)

    def close(self) -> None:
        """Close the socket."""
        self.tcp.socket.close()

    async def _more(self) -> bool:
        data = await self.stream.receive_some(65536)
        self.buffer += data
        return bool(data)

    async def until(self, wanted: bytes) -> bytes:
        """Return what comes up to and including ``wanted``. Raises EOFError when the connection ends before."""
        while (end := self.buffer.find(wanted)) < 0:
            if not await self._more():
                raise EOFError(bytes(self.buffer))
        return self._take(end + len(wanted))

    async def exactly(self, count: int) -> bytes:
        """Return ``count`` bytes. Raises EOFError."""
        while len(self.buffer) < count:
            if not await self._more():
                raise EOFError(bytes(self.buffer))
        return self._take(count)

    def _take(self, count: int) -> bytes:
        piece = bytes(self.buffer[:count])
        del self.buffer[:count]
        return piece

    async def rest(self) -> bytes:
        """Return everything up to the end of the connection."""
        while await self._more():
            pass
        return self._take(len(self.buffer))

    async def ended(self) -> bool:
        """Wait for the connection's end, by FIN or RST; tell whether nothing came before it."""
        try:
            return await self.rest() == b""
        except trio.BrokenResourceError:
            return not self.buffer

    async def head(self) -> Reply:
        """Return the head of the next response, 1xx included."""
        lines = (await self.until(b"\r\n\r\n"))[:-4].split(b"\r\n")
        status = re.fullmatch(rb"HTTP/1\.1 (\d{3}) ([ -~]*)", lines[0])
        assert status, lines[0]
        return Reply(int(status[1]), status[2], fields(lines[1:]))

    async def reply(self, method: str = "GET") -> Reply:
        """Return the next response, 1xx included, with its body as RFC 9112 §6.3 frames it."""
        reply = await self.head()
        chunked, length = reply.one(b"transfer-encoding"), reply.one(b"content-length")
        assert chunked is None or length is None, "a response with two lengths"
        if method == "HEAD" or reply.status in (204, 304) or reply.status < 200:
            return reply
        if chunked is not None:
            assert chunked == b"chunked"
            while size := int((await self.until(b"\r\n"))[:-2], 16):
                reply.body += await self.exactly(size)
                assert await self.exactly(2) == b"\r\n"
            lines = []
            while line := (await self.until(b"\r\n"))[:-2]:
                lines.append(line)
            reply.trailers = fields(lines)
        elif length is not None:
            reply.body = await self.exactly(int(length))
        else:
            assert reply.one(b"connection") == b"close"
            reply.body = await self.rest()
        return reply

    async def ask(self, request: bytes, method: str = "GET") -> Reply:
        """Send a request and return the response to it."""
        await self.send(request)
        return await self.reply(method)


def trusting(cafile: Any) -> ssl.SSLContext:
    """Return a client's TLS context that trusts ``cafile``."""
    return ssl.create_default_context(cafile=str(cafile))
