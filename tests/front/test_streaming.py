"""Large bodies pass in both directions a piece at a time; who stops reading stops the other side's sending."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from tests.front.conftest import Front
from tests.front.upstream import OK, Peer

HOST = b"Host: id.example.com\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
MIB = 1 << 20
SIZE = 30 * MIB
PIECE = bytes(range(256)) * 256
FLAT = 4 * MIB


@pytest.fixture
def memory() -> Iterator[None]:
    """Python's allocations are traced."""
    tracemalloc.start(1)
    yield
    tracemalloc.stop()


def peak_above(before: int) -> int:
    """Return how far the traced memory has ever risen above ``before``."""
    return tracemalloc.get_traced_memory()[1] - before


async def drain(peer: Peer, size: int) -> str:
    """Receive ``size`` bytes without keeping them, and return their hash."""
    digest = hashlib.sha256(peer.received[peer.received.index(b"\r\n\r\n") + 4 :])
    size -= len(peer.received) - peer.received.index(b"\r\n\r\n") - 4
    while size:
        data = await peer.stream.receive_some(min(size, 65536))
        size -= len(data)
        digest.update(data)
    return digest.hexdigest()


def whole(size: int) -> str:
    """Return the hash of a body of ``size`` bytes made of PIECEs."""
    digest = hashlib.sha256()
    for _ in range(size // len(PIECE)):
        digest.update(PIECE)
    return digest.hexdigest()


async def test_an_upload_of_30_mib(front: Front, memory: None) -> None:
    """30 MiB go up whole while our memory stays flat."""
    got = ""

    async def script(peer: Peer) -> None:
        nonlocal got
        await peer.read_until(b"\r\n\r\n")
        got = await drain(peer, SIZE)
        await peer.send(OK)

    front.kanidm.script = script
    client = await front.connect()
    await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % SIZE)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(SIZE // len(PIECE)):
        await client.send(PIECE)
    assert (await client.reply()).status == 200
    assert got == whole(SIZE)
    assert peak_above(before) < FLAT


async def test_a_chunked_upload_of_30_mib(front: Front, memory: None) -> None:
    """The same without a length, in chunks of another size than our reads."""
    total, ended = 0, False

    async def script(peer: Peer) -> None:
        nonlocal total, ended
        await peer.read_until(b"\r\n\r\n")
        tail = b""
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            data = await peer.stream.receive_some(65536)
            total += len(data)
            tail = (tail + data)[-8:]
        ended = True
        await peer.send(OK)

    front.kanidm.script = script
    client = await front.connect()
    await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(SIZE // (3 * len(PIECE))):
        await client.send(b"%x\r\n" % (3 * len(PIECE)) + 3 * PIECE + b"\r\n")
    await client.send(b"0\r\n\r\n")
    assert (await client.reply()).status == 200
    assert ended
    assert total >= SIZE - SIZE % (3 * len(PIECE))
    assert peak_above(before) < FLAT


@pytest.mark.parametrize("framing", [b"content-length: %d" % SIZE, b"transfer-encoding: chunked"])
async def test_a_download_of_30_mib(front: Front, memory: None, framing: bytes) -> None:
    """30 MiB come down whole while our memory stays flat."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        for _ in range(SIZE // len(PIECE)):
            await peer.send(PIECE if b"length" in framing else b"%x\r\n%s\r\n" % (len(PIECE), PIECE))
        if b"chunked" in framing:
            await peer.send(b"0\r\n\r\n")

    front.kanidm.script = script
    client = await front.connect()
    await client.send(GET)
    await client.head()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    digest, left = hashlib.sha256(), SIZE
    while left:
        if b"chunked" in framing:
            size = int((await client.until(b"\r\n"))[:-2], 16)
            digest.update(await client.exactly(size))
            await client.exactly(2)
        else:
            size = min(left, 65536)
            digest.update(await client.exactly(size))
        left -= size
    if b"chunked" in framing:
        assert await client.exactly(5) == b"0\r\n\r\n"
    assert digest.hexdigest() == whole(SIZE)
    assert peak_above(before) < FLAT


async def test_a_client_that_pauses_pauses_kanidmd(front: Front, memory: None) -> None:
    """While the client does not read, kanidmd's sending stops after what the kernel's buffers hold; then all of it arrives."""
    size, sent = 64 * MIB, 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            await peer.send(PIECE)
            sent += len(PIECE)

    front.kanidm.script = script
    client = await front.connect()
    before = tracemalloc.get_traced_memory()[0]
    await client.send(GET)
    last = -1
    while last != sent or not sent:
        last = sent
        await trio.testing.wait_all_tasks_blocked(0.05)
    assert sent < 40 * MIB
    assert peak_above(before) < FLAT
    await client.head()
    left = size
    while left:
        left -= len(await client.exactly(min(left, 65536)))
    assert peak_above(before) < FLAT


async def test_an_answer_in_small_pieces_comes_piece_by_piece(front: Front) -> None:
    """Each piece is sent on when it comes, and not kept until there are more: a stream of events would stand still."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            await go_on.acquire()
            await peer.send(b"5\r\nevent\r\n")
        await go_on.acquire()
        await peer.send(b"0\r\n\r\n")

    go_on = trio.Semaphore(0)
    front.kanidm.script = script
    client = await front.connect()
    await client.send(GET)
    assert (await client.head()).status == 200
    for _ in range(3):
        go_on.release()
        assert await client.exactly(10) == b"5\r\nevent\r\n"
    go_on.release()
    assert await client.exactly(5) == b"0\r\n\r\n"


async def test_a_request_in_small_pieces_goes_piece_by_piece(front: Front) -> None:
    """The same in the other direction, while the answer comes: both can talk at once."""

    async def script(peer: Peer) -> None:
        await peer.read_until(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            await peer.read_until(b"1\r\nx\r\n")
            await peer.send(b"1\r\ny\r\n")
        await peer.read_until(b"0\r\n\r\n")
        await peer.send(b"0\r\n\r\n")

    front.kanidm.script = script
    client = await front.connect()
    await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
    assert (await client.head()).status == 200
    for _ in range(3):
        await client.send(b"1\r\nx\r\n")
        assert await client.exactly(6) == b"1\r\ny\r\n"
    await client.send(b"0\r\n\r\n")
    assert await client.exactly(5) == b"0\r\n\r\n"
