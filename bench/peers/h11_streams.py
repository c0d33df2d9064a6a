"""h11 on Trio's streams on both sides, and nothing else: what a pass-through written so costs before it checks anything."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import h11
import trio

from bench.peers import HOP_BY_HOP, Arguments, arguments
from kiwi_id.kanidm.pin import client_context

READ_SIZE = 65536
_HOP_BY_HOP = frozenset(name.encode() for name in HOP_BY_HOP)


class Side:
    """One connection: a stream and the state of HTTP/1.1 on it."""

    def __init__(self, stream: trio.abc.Stream, role: type[h11.CLIENT] | type[h11.SERVER]) -> None:
        self.stream = stream
        self.http = h11.Connection(role)

    async def next(self) -> h11.Event:
        """Return the next event."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(bytes(await self.stream.receive_some(READ_SIZE)))
        assert isinstance(event, h11.Event)
        return event

    async def send(self, event: h11.Event) -> None:
        """Send an event."""
        if data := self.http.send(event):
            await self.stream.send_all(data)

    async def pass_on(self, to: Side) -> None:
        """Pass the rest of a message to the other side, up to its end."""
        while not isinstance(event := await self.next(), h11.EndOfMessage):
            await to.send(event)
        await to.send(event)


def _kept(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name not in _HOP_BY_HOP]


class Proxy:
    """The pool, and what is done with a client."""

    def __init__(self, args: Arguments) -> None:
        self.context = client_context(args.chain)
        self.tls = args.tls
        host, _, port = args.upstream.removeprefix("https://").rpartition(":")
        self.host, self.port = host, int(port)
        self.idle: list[Side] = []

    async def connect(self) -> Side:
        """Return a connection to the upstream, a kept one if there is any."""
        if self.idle:
            return self.idle.pop()
        stream = await trio.open_ssl_over_tcp_stream(self.host, self.port, ssl_context=self.context, https_compatible=True)
        return Side(stream, h11.CLIENT)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve a client until it leaves."""
        if self.tls is not None:
            stream = trio.SSLStream(stream, self.tls, server_side=True, https_compatible=True)
        client = Side(stream, h11.SERVER)
        try:
            while isinstance(request := await client.next(), h11.Request):
                upstream = await self.connect()
                await upstream.send(h11.Request(method=request.method, target=request.target, headers=_kept(request.headers)))
                await client.pass_on(upstream)
                answer = await upstream.next()
                assert isinstance(answer, h11.Response)
                await client.send(h11.Response(status_code=answer.status_code, headers=_kept(answer.headers)))
                await upstream.pass_on(client)
                client.http.start_next_cycle()
                upstream.http.start_next_cycle()
                self.idle.append(upstream)
        except (trio.BrokenResourceError, h11.ProtocolError):
            pass  # the client has gone
        finally:
            await trio.aclose_forcefully(stream)


def main() -> None:
    """Serve."""
    args = arguments()
    trio.run(partial(trio.serve_tcp, Proxy(args).serve, args.port, host=args.host, backlog=1024))


if __name__ == "__main__":
    main()
