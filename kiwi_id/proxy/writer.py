"""HTTP/1.1 out: heads, and the framing of response bodies (RFC 9112 §6)."""

from __future__ import annotations

from http import HTTPStatus

from kiwi_id.proxy.exchange import Aborted
from kiwi_id.proxy.rules import Headers

REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


def head(first: bytes, headers: Headers) -> bytes:
    """Return a whole head: its first line, its fields, the empty line. Raises ValueError when a field holds a line break.

    What passes through was parsed and cannot hold one; ours might by a mistake, and that would split a message in two.
    """
    lines = [first, *[b"%s: %s" % field for field in headers], b"\r\n"]
    out = b"\r\n".join(lines)
    if out.count(b"\n") != len(headers) + 2 or out.count(b"\r") != len(headers) + 2 or b"\x00" in out:
        raise ValueError("a header field with a line break in it")
    return out


class ResponseWriter:
    """Frames one response. ``ended`` when it is complete."""

    def __init__(self, method: bytes, version: bytes) -> None:
        self._method, self._version = method, version
        self._out: list[bytes] = []
        self._chunked = self._bodiless = False
        self._left: int | None = None  # bytes of the body that are still owed, where its length was told
        self.ended = False

    def informational(self, status: int, headers: Headers) -> None:
        """Add an interim response (RFC 9110 §15.2)."""
        self._out.append(head(b"HTTP/1.1 %d %s" % (status, REASONS.get(status, b"")), headers))

    def start(self, status: int, headers: Headers, reason: bytes, *, close: bool) -> bool:
        """Add the head; return whether the connection must end after this response (``close``, or nothing else ends it)."""
        length = next((value for name, value in headers if name == b"content-length"), None)
        if self._method == b"HEAD" or status in (204, 304):
            self._bodiless = True
            if status == 204 and length is not None:  # RFC 9110 §8.6: a 204 has none
                headers = [field for field in headers if field[0] != b"content-length"]
        elif length is not None:
            self._left = int(length)
        elif self._version == b"1.1":
            self._chunked = True
            headers = [*headers, (b"transfer-encoding", b"chunked")]
        else:
            close = True
        if close:
            headers = [*headers, (b"connection", b"close")]
        self._out.append(head(b"HTTP/1.1 %d %s" % (status, reason or REASONS.get(status, b"")), headers))
        return close

    def write(self, data: bytes) -> None:
        """Add a piece of the body. Raises Aborted when there is more of it than was told."""
        if not data or self._bodiless:
            return
        if self._chunked:
            self._out += (b"%x\r\n" % len(data), data, b"\r\n")
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise Aborted("the response is longer than its Content-Length")
        self._out.append(data)

    def finish(self, trailers: Headers) -> None:
        """Add the end; ``trailers`` only where there is a place for them. Raises Aborted when there is less than was told."""
        if self._left:
            raise Aborted("the response is shorter than its Content-Length")
        if self._chunked:
            self._out.append(head(b"0", trailers))
        self.ended = True

    def take(self) -> bytes:
        """Return what is to be sent now."""
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out = []
        return data
