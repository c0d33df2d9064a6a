"""The clients of the fault runner: as plain as possible, so that nothing between them and the front repeats or repairs anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import h11
import trio

# Longer than any request may take here: the gate's time and kanidmd's together.
PATIENCE = 60.0


class Broken(Exception):
    """The front did not answer: refused, reset, closed or silent."""


@dataclass
class Answer:
    """A whole answer."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    cookies: dict[str, str] = field(default_factory=dict)

    @property
    def location(self) -> str:
        """Where it leads to, or nothing."""
        return next((value.decode() for name, value in self.headers if name == b"location"), "")

    @property
    def own_error(self) -> str:
        """The code of an error that the front itself answers with, or nothing: Kanidm's errors have another form."""
        try:
            error = json.loads(self.body)["error"]
            return str(error["code"]) if self.status >= 400 else ""
        except (ValueError, KeyError, TypeError):
            return ""


class Client:
    """One keep-alive connection and a jar of cookies. Opens a new connection when the last answer ended the one before."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stream: trio.SocketStream | None = None
        self._http = h11.Connection(h11.CLIENT)
        self.cookies: dict[str, str] = {}

    async def ask(
        self,
        method: str,
        target: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        form: dict[str, str] | None = None,
        body: Any = None,
    ) -> Answer:
        """Send one request, once; return its answer. Raises Broken."""
        data, lines = b"", [("host", "localhost"), ("accept", "application/json"), *headers]
        if form is not None:
            data = urlencode(form).encode()
            lines.append(("content-type", "application/x-www-form-urlencoded"))
        elif body is not None:
            data = json.dumps(body).encode()
            lines.append(("content-type", "application/json"))
        if self.cookies:
            lines.append(("cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items())))
        lines.append(("content-length", str(len(data))))
        try:
            with trio.fail_after(PATIENCE):
                return await self._exchange(h11.Request(method=method, target=target, headers=lines), data)
        except (trio.TooSlowError, trio.BrokenResourceError, OSError, h11.ProtocolError, EOFError) as error:
            self.close()
            raise Broken(f"{type(error).__name__}: {error}") from None

    async def _exchange(self, request: h11.Request, data: bytes) -> Answer:
        if self._stream is None:
            self._stream = await trio.open_tcp_stream("127.0.0.1", self._port)
            self._http = h11.Connection(h11.CLIENT)
        http = self._http
        out = http.send(request) or b""
        if data:
            out += http.send(h11.Data(data=data)) or b""
        await self._stream.send_all(out + (http.send(h11.EndOfMessage()) or b""))
        answer: Answer | None = None
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                part = await self._stream.receive_some(65536)
                if not part:
                    raise EOFError("the connection was closed")
                http.receive_data(part)
            elif isinstance(event, h11.Response):
                answer = Answer(event.status_code, list(event.headers))
            elif isinstance(event, h11.Data):
                assert answer is not None
                answer.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
        assert answer is not None
        self._keep_cookies(answer)
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
        else:
            self.close()
        return answer

    def _keep_cookies(self, answer: Answer) -> None:
        for name, value in answer.headers:
            if name == b"set-cookie":
                pair, _, attributes = value.decode("latin-1").partition(";")
                key, _, content = pair.partition("=")
                if content and "max-age=0" not in attributes.lower():
                    self.cookies[key] = content
                else:
                    self.cookies.pop(key, None)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._stream is not None:
            self._stream.socket.close()
            self._stream = None
