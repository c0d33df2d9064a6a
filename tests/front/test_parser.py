"""Two parsers must read a request in the same way: what ours lets through is held against h11, which knows nothing of it."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kiwi_id.proxy.parser import BadResponse, ChunkedBody, ResponseParser, parse_request
from kiwi_id.proxy.rules import BadRequest, check_head

PIECES = st.sampled_from(
    [
        *(
            b"GET",
            b"POST",
            b"FOO",
            b"CONNECT",
            b" ",
            b"  ",
            b"/",
            b"/a?b=c",
            b"*",
            b"http://h/",
            b"HTTP/1.1",
            b"HTTP/1.0",
            b"HTTP/2.0",
        ),
        *(b"\r\n", b"\r", b"\n", b":", b": ", b"\t", b"\x00", b"\x7f", b"\xff", b"Host", b"host", b"Host: h\r\n", b"X: y\r\n"),
        *(b"Content-Length", b"Content-Length: 5\r\n", b"Content-Length: +5\r\n", b"Content-Length: 5, 5\r\n"),
        *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"transfer-encoding : chunked\r\n"),
        *(b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"Expect: 100-continue\r\n", b" fold\r\n", b"X:\r\n", b"X: y \t\r\n"),
    ]
)


@given(st.lists(PIECES, min_size=1, max_size=12).map(b"".join), st.binary(max_size=3), st.integers(0, 60))
@example(b"Host: h\r\n", b"", 0)
@example(b"Host: h\r\nContent-Length: 5\r\nUpgrade: h2c\r\nConnection: upgrade\r\n", b"", 0)
def test_h11_reads_the_same_request(middle: bytes, noise: bytes, place: int) -> None:
    """A head that is let through is one to h11, with the same method, target and fields."""
    line = b"POST /a?b=c HTTP/1.1\r\n"
    for head in (
        line + middle[:place] + noise + middle[place:] + b"\r\n",
        middle + b"\r\n\r\n",
        line[:place] + noise + line[place:],
    ):
        whole = head[: head.find(b"\r\n\r\n") + 4] if b"\r\n\r\n" in head else head + b"\r\n\r\n"
        try:
            check_head(whole)
            ours = parse_request(whole)
        except BadRequest:
            continue
        theirs = h11.Connection(h11.SERVER)
        theirs.receive_data(whole)
        event = theirs.next_event()
        assert isinstance(event, h11.Request)
        assert (ours.method, ours.target, ours.version) == (event.method, event.target, event.http_version)
        assert ours.headers == list(event.headers)


def test_what_is_let_through() -> None:
    """The property above is not an empty one: these heads pass."""
    head = parse_request(b"POST /a?b=c HTTP/1.1\r\nHost: h\r\nX-A:  b \t\r\nX-A:\r\nContent-Length: 5\r\nUpgrade: h2c\r\n\r\n")
    assert head == (
        b"POST",
        b"/a?b=c",
        b"1.1",
        [(b"host", b"h"), (b"x-a", b"b"), (b"x-a", b""), (b"content-length", b"5"), (b"upgrade", b"h2c")],
    )
    assert parse_request(b"GET / HTTP/1.0\r\n\r\n").headers == []


@pytest.mark.parametrize("method", [b"FOO", b"get", b"GETT"])
def test_an_unknown_method(method: bytes) -> None:
    """RFC 9110 §9.1: 501 for a method that is not known, and never a guess."""
    with pytest.raises(BadRequest) as refused:
        parse_request(method + b" / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert refused.value.status == 501


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.binary(max_size=10), st.data())
def test_a_chunked_body_in_any_pieces(chunks: list[bytes], behind: bytes, data: st.DataObject) -> None:
    """However the bytes arrive, the body is whole, its trailers too, and what lies behind it is handed back untouched."""
    wire = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nX-Sum: 1\r\n\r\n" + behind
    body, decoder, rest = b"", ChunkedBody(), b""
    at = 0
    while at < len(wire):
        step = data.draw(st.integers(1, len(wire) - at))
        piece, beyond = decoder.feed(wire[at : at + step])
        body, rest, at = body + piece, rest + beyond, at + step
    assert (body, rest, decoder.done) == (b"".join(chunks), behind, True)
    assert decoder.trailers == [(b"x-sum", b"1")]


ANSWERS = [
    (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
    (b"GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", b"hello", True),
    (b"GET", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
    (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"", True),
    (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", True),
    (b"GET", b"HTTP/1.1 204\r\n\r\n", b"", True),
]


@given(st.sampled_from(ANSWERS), st.booleans(), st.data())
def test_an_answer_in_any_pieces(answer: tuple[bytes, bytes, bytes, bool], early: bool, data: st.DataObject) -> None:
    """However an answer arrives, it is read to its end, and no further; only then may the connection be used again."""
    method, wire, body, reusable = answer
    wire = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * early + wire
    parser, found, at = ResponseParser(method), b"", 0
    while at < len(wire):
        assert not parser.reusable
        step = data.draw(st.integers(1, len(wire) - at))
        parser.feed(wire[at : at + step])
        found, at = found + parser.take(), at + step
    assert (found, parser.complete, parser.reusable) == (body, True, reusable)
    assert [head.status for head in parser.interim] == [103] * early
    parser.feed(b"x")
    assert not parser.reusable


@given(st.sampled_from(ANSWERS), st.data())
def test_an_answer_that_ends_early(answer: tuple[bytes, bytes, bytes, bool], data: st.DataObject) -> None:
    """The end of the connection is an answer's end only where nothing else says how long it is."""
    method, wire, _, _ = answer
    parser = ResponseParser(method)
    parser.feed(wire[: data.draw(st.integers(1, len(wire) - 1))])
    assert parser.complete or not parser.end()
    until = ResponseParser(b"GET")
    until.feed(b"HTTP/1.0 200 OK\r\n\r\nto the end")
    assert until.end()
    assert (until.take(), until.reusable) == (b"to the end", False)


@pytest.mark.parametrize("wire", [b"x", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50000, b"HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n"])
def test_what_is_no_answer(wire: bytes) -> None:
    """A broken, an endless or a protocol-switching answer is refused."""
    with pytest.raises(BadResponse):
        ResponseParser(b"GET").feed(wire)
