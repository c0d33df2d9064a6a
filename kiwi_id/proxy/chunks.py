"""A second pair of eyes on chunked request bodies, and the one that says where they end.

Whatever is read leniently is read otherwise by somebody else, and then the two disagree on where the next request begins. llhttp
does the decoding (``parser.ChunkedBody``); what it checks itself, such as the bytes behind a chunk, is not repeated here.
"""

from __future__ import annotations

import re

from kiwi_id.proxy.rules import BadRequest

# RFC 9112 §7.1. Fifteen digits are 1,024 pebibytes, and fit every parser's integers.
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*)?\r\n")
_LONGEST = 65536
# Of what is neither data nor usual framing, in bytes: size lines beyond sixteen bytes and twice the data behind them, and trailers.
# Without a bound, chunks of one byte with a long extension each are a body that takes for ever and is never too large.
_MOST_EXCESS = 65536


class ChunkCheck:
    """Follows the raw bytes of one chunked body; :meth:`feed` takes them in any pieces, up to and beyond its end (``done``)."""

    def __init__(self) -> None:
        self._skip = 0
        self._line = bytearray()
        self._trailers = False
        self._excess = 0
        self.done = False

    def feed(self, data: bytes) -> int:
        """Check the next bytes; return how many of them belong to the body. Raises BadRequest."""
        at = 0
        while at < len(data) and not self.done:
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            end = data.find(b"\n", at) + 1 or len(data)
            self._line += data[at:end]
            at = end
            if self._line.endswith(b"\n"):
                self._end_line(bytes(self._line))
                self._line.clear()
            elif len(self._line) > _LONGEST:
                raise malformed_body()
        return at

    def _end_line(self, line: bytes) -> None:
        if self._trailers:
            self._exceed(len(line))
            if not _TRAILER.fullmatch(line):
                raise malformed_body()
            self.done = line == b"\r\n"
            return
        size = _SIZE.fullmatch(line)
        if size is None:
            raise malformed_body()
        length = int(size[1], 16)
        self._exceed(len(line) - 16 - 2 * length)
        self._trailers = length == 0
        self._skip = length + 2 if length else 0

    def _exceed(self, size: int) -> None:
        self._excess = max(0, self._excess + size)
        if self._excess > _MOST_EXCESS:
            raise BadRequest(413, "body_too_large", "The request body has more chunk extensions or trailers than are allowed here.")


def malformed_body() -> BadRequest:
    """Return what is raised for a body that is not framed as it must be."""
    return BadRequest(400, "malformed_body", "The request body's chunks or trailers are malformed.")
