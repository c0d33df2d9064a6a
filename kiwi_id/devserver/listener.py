"""The HTTPS listener: TLS and HTTP/1.1 on Trio streams with h11, one task a connection."""

import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus

import h11
import trio

from kiwi_id.devserver import log
from kiwi_id.devserver.config import ServerConfig
from kiwi_id.devserver.http import Handler, Request, Response, text

__all__ = ["Listener", "TlsError"]

_CHUNK = 65536
_HANDSHAKE_SECONDS = 30
# What is left of an unread body is read up to here, so that the client sees the answer rather than a reset.
_DRAIN_BYTES = 2 * 1024 * 1024
_LOST = (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, OSError)

Logger = Callable[[Request, Response, float], None]


class TlsError(Exception):
    """The TLS files cannot be used; the text names them and says why."""


def _context(config: ServerConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.tls_chain, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise TlsError(f"cannot load {config.tls_chain} and {config.tls_key}: {error}") from None
    return context


class Listener:
    """Serves `handler` over TLS; the certificate can be exchanged while connections are open."""

    def __init__(self, config: ServerConfig, handler: Handler, logger: Logger) -> None:
        """Load the TLS files; raises TlsError when they are unusable."""
        self._config = config
        self._handler = handler
        self._logger = logger
        self._tls = _context(config)

    def reload(self) -> None:
        """Read the TLS files again for connections yet to come; on TlsError the old ones stay."""
        self._tls = _context(self._config)

    async def bind(self) -> list[trio.SocketListener]:
        """Listen on the configured address; raises OSError when it is taken."""
        return await trio.open_tcp_listeners(self._config.bind_port, host=self._config.bind_host)

    async def connection(self, tcp: trio.SocketStream) -> None:
        """Serve one connection until either side ends it. A lost client is no error."""
        stream = trio.SSLStream[trio.SocketStream](tcp, self._tls, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(_HANDSHAKE_SECONDS):
                await stream.do_handshake()
            await _Connection(stream, self._handler, self._logger).run()
        except (*_LOST, trio.TooSlowError):
            pass
        except h11.RemoteProtocolError:
            pass
        except Exception as error:  # noqa: BLE001 - one connection's fault must not end the others
            log.event("ERROR", f"connection failed: {type(error).__name__}")
        finally:
            await trio.aclose_forcefully(stream)


class _Connection:
    def __init__(self, stream: trio.SSLStream[trio.SocketStream], handler: Handler, logger: Logger) -> None:
        self._stream = stream
        self._handler = handler
        self._logger = logger
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_CHUNK)

    async def _event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # h11 types its sentinels loosely
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(bytes(await self._stream.receive_some(_CHUNK)))

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self._stream.send_all(data)

    async def _chunks(self) -> AsyncIterator[bytes]:
        while self._http.their_state is h11.SEND_BODY:
            event = await self._event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return

    async def run(self) -> None:
        while True:
            try:
                event = await self._event()
            except h11.RemoteProtocolError as error:
                if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    await self._respond("GET", text(error.error_status_hint, ""))
                return
            if not isinstance(event, h11.Request):
                return
            started = time.perf_counter()
            headers: dict[str, str] = {}
            for raw, value in event.headers:
                name, found = raw.decode("ascii"), value.decode("latin-1")
                headers[name] = f"{headers[name]}{'; ' if name == 'cookie' else ', '}{found}" if name in headers else found
            request = Request(event.method.decode(), event.target.decode("latin-1"), headers, self._chunks())
            response = await self._handler(request)
            self._logger(request, response, time.perf_counter() - started)
            await self._respond(request.method, response)
            drained = 0
            async for chunk in self._chunks():
                drained += len(chunk)
                if drained > _DRAIN_BYTES:
                    return
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _respond(self, method: str, response: Response) -> None:
        headers = list(response.headers)
        if response.content_type:
            headers.insert(0, ("content-type", response.content_type))
        if isinstance(response.body, bytes):
            # A 304's length would be that of the body it does not have; the real server leaves it out.
            if response.status != HTTPStatus.NOT_MODIFIED:
                headers.append(("content-length", str(len(response.body))))
        else:
            headers.append(("transfer-encoding", "chunked"))
        headers.append(("date", formatdate(usegmt=True)))
        reason = HTTPStatus(response.status).phrase.encode()
        head = self._http.send(h11.Response(status_code=response.status, headers=headers, reason=reason)) or b""
        if isinstance(response.body, bytes):
            if method != "HEAD" and response.body:
                head += self._http.send(h11.Data(data=response.body)) or b""
            head += self._http.send(h11.EndOfMessage()) or b""
            await self._stream.send_all(head)
            return
        await self._stream.send_all(head)
        async for piece in response.body:
            await self._send(h11.Data(data=piece))
        await self._send(h11.EndOfMessage())


Serve = Callable[[trio.SocketStream], Awaitable[None]]
