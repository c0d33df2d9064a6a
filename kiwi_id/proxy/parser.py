"""HTTP/1.1 in: request heads, chunked request bodies and kanidmd's responses, all parsed by llhttp (through httptools).

llhttp is fast and well tested, but reads some things leniently (two spaces in a request line), knows nothing of Host, and takes no
body from a request that has an Upgrade field. So a request's head must first match the grammar of RFC 9112 as it stands there, and
its body is read by a parser of its own, which sees nothing but the body.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import httptools

from kiwi_id.proxy.chunks import ChunkCheck, malformed_body
from kiwi_id.proxy.rules import BadRequest, Headers, check_framing

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
# RFC 9112 §3 and §5, without obsolete folds; field values as RFC 9110 §5.5 allows them.
_HEAD = re.compile(rb"(%s) [\x21-\x7e]++ HTTP/([0-9]\.[0-9])\r\n(?:%s:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n" % (_TOKEN, _TOKEN))
_CHUNKED_HEAD = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_MALFORMED = "The request is not valid HTTP/1.1."
# Of one response head, bytes; kanidmd's are below 4 KiB.
_LONGEST_HEAD = 1 << 18


class RequestHead(NamedTuple):
    """A request line and its fields; ``headers`` are lower-case names and values without white space around them."""

    method: bytes
    target: bytes
    version: bytes
    headers: Headers


class _Fields:
    """What llhttp calls back."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: Headers = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))


def parse_request(head: bytes) -> RequestHead:
    """Parse a whole request head, its empty line included. Raises BadRequest when anything about it is in doubt."""
    matched = _HEAD.fullmatch(head)
    if matched is None:
        raise BadRequest(400, "malformed_request", _MALFORMED)
    fields = _Fields()
    parser = httptools.HttpRequestParser(fields)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # it asks for another protocol, or CONNECT; whether it may is not the parser's to say
    except httptools.HttpParserInvalidMethodError:
        raise BadRequest(501, "unknown_method", "This method is not known here.") from None
    except httptools.HttpParserError:
        lines = head.split(b"\r\n")[1:-2]  # llhttp has not told the field at which it stopped
        check_framing(matched[2], [(name.lower(), value.strip(b" \t")) for name, _, value in (x.partition(b":") for x in lines)])
        raise BadRequest(400, "malformed_request", _MALFORMED) from None
    check_framing(matched[2], fields.headers)
    hosts = sum(name == b"host" for name, _ in fields.headers)
    if hosts > 1 or (not hosts and matched[2] == b"1.1"):  # RFC 9112 §3.2
        raise BadRequest(400, "bad_host", "A request must have one Host header.")
    return RequestHead(matched[1], fields.target, matched[2], fields.headers)


class ChunkedBody:
    """Decodes one chunked request body. ``done`` at its end, ``trailers`` then complete."""

    def __init__(self) -> None:
        self._check = ChunkCheck()
        self._parts: list[bytes] = []
        self._fields = _Fields()
        self._complete = False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_CHUNKED_HEAD)
        self._fields.headers.clear()

    @property
    def done(self) -> bool:
        """Whether the body has ended."""
        return self._check.done

    @property
    def trailers(self) -> Headers:
        """The trailer fields so far."""
        return self._fields.headers

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a trailer field (llhttp)."""
        self._fields.on_header(name, value)

    def on_body(self, data: bytes) -> None:
        """Take a piece of a chunk (llhttp)."""
        self._parts.append(data)

    def on_message_complete(self) -> None:
        """Take the end (llhttp)."""
        self._complete = True

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what ``data`` adds to the body, and what of it lies beyond the body's end. Raises BadRequest."""
        used = self._check.feed(data)
        try:
            self._parser.feed_data(data[:used])
        except httptools.HttpParserError:
            raise malformed_body() from None
        if self._complete != self._check.done:  # they read the same grammar; should they ever not, nobody goes on from here
            raise malformed_body()
        body = b"".join(self._parts)
        self._parts.clear()
        return body, data[used:]


class BadResponse(Exception):
    """What came is no HTTP/1.1 response."""


class ResponseHead(NamedTuple):
    """A status line and its fields, names in lower case."""

    status: int
    reason: bytes
    headers: Headers


class ResponseParser:
    """Parses one response, and the interim ones before it.

    ``interim`` and ``head`` appear as they come, :meth:`take` gives the body, ``complete`` tells of its end; ``reusable`` then,
    whether the connection can take another request.
    """

    def __init__(self, method: bytes) -> None:
        """``method`` of the request: what answers a HEAD has no body, whatever it says of one."""
        self.interim: list[ResponseHead] = []
        self.head: ResponseHead | None = None
        self.trailers: Headers = []
        self.complete = False
        self._bodiless = method == b"HEAD"
        self._parts: list[bytes] = []
        self._size = 0
        self._excess = self._unknown_coding = False
        self._parser: httptools.HttpResponseParser | None = None
        self.on_message_begin()
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Parse the next bytes. Raises BadResponse."""
        parser = self._parser
        if parser is None:
            self._excess = True
            return
        if self.head is None:
            self._size += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise BadResponse("it switches to another protocol") from None
        except httptools.HttpParserError as error:
            # llhttp says which rule was broken; nothing of the response itself.
            raise BadResponse(str(error)) from None
        if self.head is None and self._size > _LONGEST_HEAD:
            raise BadResponse("its head is too long")
        if self._unknown_coding:
            raise BadResponse("its transfer coding is not chunked")
        if self.complete:
            self._parser = None  # it refers to us: a cycle that only the garbage collector would find

    def end(self) -> bool:
        """Take the end of the connection for the response's, where its length is given by nothing else; tell whether it is."""
        head = self.head
        if head is not None and not any(name in (b"content-length", b"transfer-encoding") for name, _ in head.headers):
            self.complete = True
        return self.complete

    def take(self) -> bytes:
        """Return what has come of the body since the last call."""
        parts = self._parts
        if not parts:
            return b""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        return data

    @property
    def reusable(self) -> bool:
        """Whether the response is complete, with nothing behind it, and the connection stays open."""
        return self.complete and not self._excess and self._keep_alive

    # -- llhttp's callbacks --------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a response; one behind a complete response is nobody's."""
        self._excess = self.head is not None
        self._reason = b""
        self._headers: Headers = []
        self._keep_alive = False

    def on_status(self, reason: bytes) -> None:
        """Take (a piece of) the reason phrase."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head, or of the trailer."""
        fields = self._headers if self.head is None else self.trailers
        fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """Take the head."""
        if self._excess:
            return
        assert self._parser is not None  # noqa: S101 - who else calls
        head = ResponseHead(self._parser.get_status_code(), self._reason, self._headers)
        if head.status < 200:
            self.interim.append(head)
            return
        self.head = head
        # llhttp would read it until the connection ends, as RFC 9112 §6.3 has it; we could not pass it on so.
        self._unknown_coding = any(name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in head.headers)
        if self._bodiless:
            self._end()

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        if self.complete:
            self._excess = True
        else:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        """Take the end."""
        if self.head is not None and not self.complete and not self._excess:
            self._end()

    def _end(self) -> None:
        self._keep_alive = self._parser is not None and self._parser.should_keep_alive()
        self.complete = True
