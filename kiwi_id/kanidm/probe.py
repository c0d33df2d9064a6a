"""One question to kanidmd, on a connection of its own: ``GET /status`` over the pinned TLS.

``/status`` is a constant ``true`` that no database stands behind (server/core/src/https/mod.rs), but only a booted kanidmd
listens at all: its listener binds after the migrations. A connection of its own is the point: it proves that the accept loop
and the TLS set-up work, which a kept-alive connection does not.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import closing
from functools import partial

import trio

from kiwi_id.descriptors import exhausted
from kiwi_id.kanidm.pin import UpstreamPin
from kiwi_id.proxy.stream import Stream
from kiwi_id.values import Address

_REQUEST = b"GET /status HTTP/1.1\r\nHost: %s\r\nUser-Agent: kiwi-id-probe\r\nConnection: close\r\n\r\n"
_MOST = 16384


class ProbeFailed(Exception):
    """kanidmd did not answer as it should; the message says how.

    ``ours``: we could not even ask, which says nothing of it; ``refused``: nobody listens there.
    """

    def __init__(self, message: str, *, ours: bool = False, refused: bool = False) -> None:
        super().__init__(message)
        self.ours, self.refused = ours, refused


async def probe(address: Address, pin: UpstreamPin, *, timeout: float) -> None:
    """Ask once, within ``timeout`` seconds. Raises ProbeFailed."""
    try:
        with trio.fail_after(timeout):
            stream = await connect(address, pin)
            with closing(stream):
                await stream.send(_REQUEST % str(address).encode())
                acknowledge_now(stream)
                answer = b""
                while b"\r\n" not in answer and len(answer) < _MOST:
                    part = await stream.receive()
                    if not part:
                        break
                    answer += part
    except trio.TooSlowError:
        raise ProbeFailed(f"no answer within {timeout:g} s") from None
    except (OSError, trio.BrokenResourceError, ssl.SSLError) as error:
        refused = isinstance(error, ConnectionRefusedError)
        raise ProbeFailed(str(error.__cause__ or error), ours=exhausted(error), refused=refused) from None
    status = answer.split(b"\r\n", 1)[0].split(b" ")
    if len(status) < 2 or status[0] != b"HTTP/1.1" or status[1] != b"200":
        raise ProbeFailed("an answer that is not 200")


def acknowledge_now(stream: Stream) -> None:
    """Acknowledge what has come at once; call it after the first send on a new connection.

    kanidmd sends its TLS session tickets and then the answer, with Nagle's algorithm on: the answer waits for the tickets'
    acknowledgement, which Linux delays by 40 ms once it takes the connection for an interactive one. Measured: 41 ms → 0.2 ms.
    """
    stream.option(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


async def connect(address: Address, pin: UpstreamPin) -> Stream:
    """Open a pinned TLS connection, handshake done. Bound it with a cancel scope.

    Raises OSError when nothing listens, trio.BrokenResourceError or ssl.SSLError (PinMismatch among them) when TLS fails.
    """
    try:
        tcp = await trio.open_tcp_stream(address.host, address.port)
    except OSError as error:
        # Trio packs what happened into a group, and says only that all attempts have failed.
        if isinstance(error.__cause__, BaseExceptionGroup) and isinstance(error.__cause__.exceptions[0], OSError):
            raise error.__cause__.exceptions[0] from None
        raise
    stream = Stream.of(tcp, partial(pin.context.wrap_socket, server_hostname=address.host, do_handshake_on_connect=False))
    try:
        await stream.handshake()
        pin.check(stream.tls)
    except BaseException:
        stream.close()
        raise
    return stream
