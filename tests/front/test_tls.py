"""TLS on both sides: the listener's own, and the pinned one to kanidmd."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from kiwi_id.instance import certs
from tests.front.conftest import Front, Lines, Pair
from tests.front.upstream import OK, Peer
from tests.front.wire import Client

HOST = b"Host: id.example.com\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
MakeFront = Callable[..., Awaitable[Front]]


def serving(chain: Path, key: Path) -> ssl.SSLContext:
    """Return a server's context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    return context


def with_key_of(key: Path, issuer_of: Path, target: Path, *, own_key: Path | None = None) -> None:
    """Write a certificate with the subject of ``issuer_of``, signed by ``key``, for that key or ``own_key``."""
    private = certs.load_private(key)
    public = certs.load_private(own_key or key).public_key()
    subject = certs.load_chain(issuer_of)[0]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject.subject)
        .issuer_name(subject.subject)
        .public_key(public)  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(subject.not_valid_before_utc)
        .not_valid_after(subject.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, hashes.SHA256())  # type: ignore[arg-type]
    )
    target.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


async def refused(front: Front, lines: Lines) -> None:
    """Check that neither a GET nor a POST gets through, and that the server got no byte of them."""
    for number, request in enumerate((GET, POST + b"Content-Length: 8\r\n\r\npassword"), 1):
        reply = await front.ask(request)
        assert (reply.status, reply.one(b"retry-after")) == (503, b"2")
        assert "cannot connect to kanidmd" in str((await lines.requests(number))[-1]["upstream_error"])
    assert front.kanidm.everything == b""
    assert front.pool.limiter.borrowed_tokens == 0


async def test_another_certificate_is_refused(front: Front, lines: Lines, tmp_path: Path) -> None:
    """A server on kanidmd's port with a certificate of its own, made just as ours, gets not one byte of a request."""
    certs.make_loopback(tmp_path / "chain", tmp_path / "key")
    front.kanidm.context = serving(tmp_path / "chain", tmp_path / "key")
    await refused(front, lines)


async def test_a_certificate_of_the_same_key_and_subject_is_refused(
    front: Front, lines: Lines, loopback: Pair, tmp_path: Path
) -> None:
    """The pin is the certificate: another of the same subject, signed by the same key, is not it."""
    with_key_of(loopback[1], loopback[0], tmp_path / "chain")
    front.kanidm.context = serving(tmp_path / "chain", loopback[1])
    await refused(front, lines)


async def test_a_certificate_that_the_pinned_one_has_signed_is_refused(
    front: Front, lines: Lines, loopback: Pair, tmp_path: Path
) -> None:
    """The pinned certificate is no authority: what its key has signed for another key is refused, with the chain shown or not."""
    certs.make_loopback(tmp_path / "unused", tmp_path / "key")
    with_key_of(loopback[1], loopback[0], tmp_path / "chain", own_key=tmp_path / "key")
    with (tmp_path / "chain").open("ab") as chain:
        chain.write(loopback[0].read_bytes())
    front.kanidm.context = serving(tmp_path / "chain", tmp_path / "key")
    await refused(front, lines)


async def test_a_renewed_certificate_after_the_reload(front: Front, lines: Lines, tmp_path: Path) -> None:
    """A renewed certificate is refused before the pin's reload and taken after it; the old one is good until the next renewal."""
    old = front.kanidm.context
    pairs = [(tmp_path / f"chain{number}", tmp_path / f"key{number}") for number in range(2)]
    for pair in pairs:
        certs.make_loopback(*pair)
    front.kanidm.context = serving(*pairs[0])
    assert (await front.ask(GET)).status == 503
    front.pin.reload(pairs[0][0])
    for context in (serving(*pairs[0]), old):
        front.pool.child_ended()
        front.kanidm.context = context
        assert (await front.ask(GET)).status == 200
    front.pin.reload(pairs[1][0])
    front.pool.child_ended()
    assert (await front.ask(GET)).status == 503


async def test_plain_http_on_kanidmds_port(front: Front, lines: Lines, nursery: trio.Nursery) -> None:
    """A server without TLS gets our hello and no request."""
    front.kanidm.stop()
    got = bytearray()

    async def serve(stream: trio.SocketStream) -> None:
        got.extend(await stream.receive_some(65536))
        await stream.send_all(OK)

    await nursery.start(partial(trio.serve_tcp, serve, front.kanidm.address.port, host="127.0.0.1"))  # no other address's port
    assert (await front.ask(POST + b"Content-Length: 8\r\n\r\npassword")).status == 503
    assert b"password" not in got
    assert got.startswith(b"\x16\x03")


async def test_requests_over_tls(make_front: MakeFront, loopback: Pair) -> None:
    """Over TLS the same holds as without, kanidmd hears of https, and ALPN is not needed."""
    front = await make_front(serving(*loopback))
    client = await front.connect()
    await client.send(GET + POST + b"Content-Length: 5\r\n\r\nhello")
    for _ in range(2):
        assert (await client.reply()).body == b"ok"
    assert b"x-forwarded-proto: https\r\n" in front.kanidm.requests[0]
    reply = await client.ask(GET[:-2] + b"X: y\nz\r\n\r\n")
    assert (reply.status, reply.one(b"connection")) == (400, b"close")
    assert await client.ended()


async def test_the_end_is_said_in_tls(make_front: MakeFront, loopback: Pair) -> None:
    """A connection that we end says TLS's good-bye, so that a strict client knows that nothing was cut off."""
    front = await make_front(serving(*loopback))
    client = await front.connect()
    assert isinstance(client.stream, trio.SSLStream)
    client.stream._https_compatible = False  # strict: an end without the good-bye is an error now
    await client.send(GET.replace(b"1.1", b"1.0"))
    assert (await client.reply()).body == b"ok"
    assert await client.rest() == b""


async def test_an_early_answer_over_tls(make_front: MakeFront, loopback: Pair) -> None:
    """A refusal reaches a client that goes on uploading over TLS: its connection is not reset under the answer."""
    front = await make_front(serving(*loopback))
    front.limit(max_body_bytes=10)
    client = await front.connect()
    await client.send(POST + b"Content-Length: 1000000\r\n\r\n" + b"x" * 300_000)
    assert (await client.reply()).status == 413
    await client.send(b"x" * 300_000)
    assert await client.ended()


async def test_leaving_is_noticed_over_tls(make_front: MakeFront, loopback: Pair) -> None:
    """A client that resets its TLS connection ends its upstream request."""
    front = await make_front(serving(*loopback))

    async def script(peer: Peer) -> None:
        await peer.read_request()
        asked.set()
        await peer.gone()

    asked = trio.Event()
    front.kanidm.script = script
    client = await front.connect()
    await client.send(GET)
    await asked.wait()
    client.reset()
    await front.kanidm.peers[0].ended.wait()


async def test_a_handshake_that_stalls(make_front: MakeFront, loopback: Pair) -> None:
    """A client that says nothing, or half a hello, is gone after tls_handshake_timeout; others are served meanwhile."""
    front = await make_front(serving(*loopback))
    front.limit(tls_handshake_timeout=0.2)
    stalled = []
    for part in (b"", b"\x16\x03\x01\x02\x00\x01\x00"):
        tcp = await trio.open_tcp_stream("127.0.0.1", front.listener.addresses[0].port)
        client = Client(tcp, tcp)
        front.clients.append(client)
        await client.send(part) if part else None
        stalled.append(client)
    assert (await front.ask(GET)).status == 200
    for client in stalled:
        assert await client.ended()


async def test_plain_http_on_the_tls_port(make_front: MakeFront, loopback: Pair, lines: Lines) -> None:
    """HTTP where TLS is spoken ends that connection and nothing else."""
    front = await make_front(serving(*loopback))
    tcp = await trio.open_tcp_stream("127.0.0.1", front.listener.addresses[0].port)
    client = Client(tcp, tcp)
    front.clients.append(client)
    await client.send(GET)
    with suppress(trio.BrokenResourceError):
        assert GET not in await client.rest()
    assert (await front.ask(GET)).status == 200
    assert not [record for record in lines.records if "unexpected" in record["msg"]]


async def test_a_new_certificate_for_new_connections(make_front: MakeFront, loopback: Pair, tmp_path: Path) -> None:
    """A swapped TLS context is what new connections see, and a connection that is open goes on with its own."""
    front = await make_front(serving(*loopback))
    old = await front.connect()
    assert (await old.ask(GET)).status == 200
    pair = tmp_path / "chain", tmp_path / "key"
    certs.make_loopback(*pair)
    front.listener.tls = serving(*pair)
    with pytest.raises(trio.BrokenResourceError):
        await front.connect()  # trusts the old certificate only
    front.certificate = pair[0]
    assert (await front.ask(GET)).status == 200
    assert (await old.ask(GET)).status == 200


async def test_a_handshake_during_the_drain(make_front: MakeFront, loopback: Pair) -> None:
    """A connection that was shaking hands when the drain began ends as soon as it has, and does not keep the listener."""
    front = await make_front(serving(*loopback))
    tcp = await trio.open_tcp_stream("127.0.0.1", front.listener.addresses[0].port)
    client = Client(tcp, tcp)
    front.clients.append(client)
    while not front.listener.open:
        await trio.testing.wait_all_tasks_blocked(0.005)
    front.listener.stop()
    context = ssl.create_default_context(cafile=str(loopback[0]))
    client.stream = trio.SSLStream(tcp, context, server_hostname="127.0.0.1", https_compatible=True)
    with trio.fail_after(5):  # and not after header_timeout
        await client.stream.do_handshake()
        assert await client.ended()
        client.close()
        await front.stopped.wait()
