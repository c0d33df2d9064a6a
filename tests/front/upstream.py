"""A scripted TLS server in Kanidm's place: it records every byte that it gets and answers with the bytes that a test gives it."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import trio

from kiwi_id.values import Address
from tests.front.wire import reset

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class Peer:
    """One connection of the front to us. ``received`` are all its bytes, ``ended`` is set when the front has closed it."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        self.received = bytearray()
        self.ended = trio.Event()
        self._taken = 0

    async def more(self) -> bool:
        """Receive once; return False at the end of the connection."""
        try:
            data = await self.stream.receive_some(65536)
        except _GONE:
            data = b""
        self.received += data
        if not data:
            self.ended.set()
        return bool(data)

    async def read_until(self, wanted: bytes) -> bytes:
        """Return the bytes not taken yet up to and including ``wanted``; empty when the connection ends first."""
        while (end := self.received.find(wanted, self._taken)) < 0:
            if not await self.more():
                return b""
        return self._take(end + len(wanted) - self._taken)

    async def read_exactly(self, count: int) -> bytes:
        """Return ``count`` bytes not taken yet; empty when the connection ends first."""
        while len(self.received) - self._taken < count:
            if not await self.more():
                return b""
        return self._take(count)

    def _take(self, count: int) -> bytes:
        piece = bytes(self.received[self._taken : self._taken + count])
        self._taken += count
        return piece

    async def read_request(self) -> bytes:
        """Return one whole request as its raw bytes; empty when the connection ends before it is complete."""
        head = await self.read_until(b"\r\n\r\n")
        if not head:
            return b""
        length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head)
        if length is not None and int(length[1]):
            body = await self.read_exactly(int(length[1]))
            return head + body if body else b""
        if b"\r\ntransfer-encoding: chunked\r\n" not in head:
            return head
        body = b""
        while True:
            line = await self.read_until(b"\r\n")
            if not line:
                return b""
            body += line
            if size := int(line.split(b";")[0], 16):
                body += await self.read_exactly(size + 2)
                continue
            while line := await self.read_until(b"\r\n"):
                body += line
                if line == b"\r\n":
                    return head + body
            return b""

    async def send(self, data: bytes) -> None:
        """Send raw bytes; that the front has gone meanwhile is no failure of ours."""
        with suppress(*_GONE):
            await self.stream.send_all(data)

    async def answer_end(self, answer: bytes) -> None:
        """Answer one request with ``answer`` and end the connection."""
        await self.read_request()
        await self.send(answer)

    def reset(self) -> None:
        """End the connection by an RST."""
        reset(self.stream.transport_stream)

    async def gone(self) -> None:
        """Wait until the front has closed the connection."""
        while not self.ended.is_set():
            await self.more()


Script = Callable[[Peer], Awaitable[None]]
Answer = bytes | Callable[[bytes], bytes]


class FakeKanidm:
    """``requests`` are the complete ones, ``peers`` all connections; ``answer`` is what each request gets.

    ``script`` takes a connection over completely. Both may be changed at any time, ``script`` for connections to come.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(chain, key)
        self.answer: Answer = OK
        self.script: Script = self.keep_answering
        self.peers: list[Peer] = []
        self.requests: list[bytes] = []
        self.arrived = trio.Event()
        self.failures: list[str] = []
        self._scope = trio.CancelScope()
        self.address: Address

    @property
    def everything(self) -> bytes:
        """All bytes that were ever received."""
        return b"".join(bytes(peer.received) for peer in self.peers)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Listen on a port of the kernel's choice (or the one we had) until :meth:`stop`."""
        port = self.address.port if hasattr(self, "address") else 0
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        self.address = Address("127.0.0.1", listeners[0].socket.getsockname()[1])
        self._scope = trio.CancelScope()
        with self._scope:
            await trio.serve_listeners(self._serve, listeners, task_status=_Started(task_status))

    def stop(self) -> None:
        """End as a killed process does: no listener, no connection any more."""
        for peer in self.peers:
            peer.reset()
        self._scope.cancel()

    async def _serve(self, tcp: trio.SocketStream) -> None:
        stream = trio.SSLStream(tcp, self.context, server_side=True, https_compatible=True)
        try:
            await stream.do_handshake()
        except _GONE as error:
            self.failures.append(str(error.__cause__ or error))
            return
        peer = Peer(stream)
        self.peers.append(peer)
        self.arrived.set()
        try:
            with suppress(*_GONE):
                await self.script(peer)
        finally:
            tcp.socket.close()

    async def keep_answering(self, peer: Peer) -> None:
        """Answer request after request."""
        while await self.answer_one(peer):
            pass

    async def answer_one(self, peer: Peer) -> bytes:
        """Answer one request and return it; empty when the connection ended."""
        request = await peer.read_request()
        if request:
            self.requests.append(request)
            await peer.send(self.answer if isinstance(self.answer, bytes) else self.answer(request))
        return request


class _Started:
    """Hands ``started`` on without trio's list of listeners."""

    def __init__(self, status: trio.TaskStatus[None]) -> None:
        self._status = status

    def started(self, _value: object = None) -> None:
        self._status.started()
