"""Connections that come faster than the loop turns, and those that have come when the listener closes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import trio
import trio.testing

from kiwi_id.proxy.arrivals import AT_ONCE, BACKLOG, Arrivals
from kiwi_id.proxy.listener import bind
from kiwi_id.values import Address
from tests.front.conftest import Front

GET = b"GET / HTTP/1.1\r\nHost: id.example.com\r\n\r\n"


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket as the front binds it."""
    (sock,) = bind(Address("127.0.0.1", 0))
    with closing(sock):
        yield sock


def knock(sock: socket.socket, times: int, stack: ExitStack) -> list[socket.socket]:
    """Connect so many times, which the kernel alone answers."""
    return [stack.enter_context(socket.create_connection(sock.getsockname()[:2])) for _ in range(times)]


async def test_many_are_taken_at_a_turn(listening: socket.socket) -> None:
    """Those that are there are taken without a turn of the loop for each, a bounded number; then others have their turn."""
    arrivals = Arrivals(listening)
    with ExitStack() as stack:
        knock(listening, 2 * AT_ONCE + 2, stack)
        for _ in range(2):
            for _ in range(AT_ONCE):
                with trio.testing.assert_no_checkpoints():
                    stream = await arrivals.accept()
                stack.callback(stream.socket.close)
            with trio.testing.assert_checkpoints():
                stream = await arrivals.accept()
            stack.callback(stream.socket.close)
    await arrivals.aclose()


async def test_who_comes_later_is_waited_for(listening: socket.socket, nursery: trio.Nursery) -> None:
    """With nobody there an accept waits, until somebody comes or the socket is closed."""
    arrivals = Arrivals(listening)
    taken: list[trio.SocketStream] = []

    async def take() -> None:
        with pytest.raises(trio.ClosedResourceError):  # noqa: PT012
            while True:
                taken.append(await arrivals.accept())

    nursery.start_soon(take)
    await trio.testing.wait_all_tasks_blocked()
    with ExitStack() as stack:
        knock(listening, 1, stack)
        while not taken:
            await trio.testing.wait_all_tasks_blocked()
        await arrivals.aclose()
        taken[0].socket.close()


def test_the_backlog_is_as_long_as_the_kernel_allows(listening: socket.socket) -> None:
    """A surge of some thousands does not overflow it: an overflow costs a client a second and more, its kernel's repetition."""
    wanted = min(BACKLOG, int(Path("/proc/sys/net/core/somaxconn").read_text()))
    state = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    assert int.from_bytes(state[28:32], "little") == wanted  # tcpi_sacked, which is the backlog of a listening socket


async def test_whoever_has_connected_is_answered_at_a_stop(front: Front) -> None:
    """Connections that nobody has accepted yet when the drain begins are served, and told that they end; then none is taken."""
    address = front.listener.addresses[0]
    clients = []
    with ExitStack() as stack:
        for _ in range(50):  # blocking: the front cannot run meanwhile
            clients.append(stack.enter_context(socket.create_connection((address.host, address.port))))
            clients[-1].sendall(GET)
        front.listener.stop()
        await front.stopped.wait()
        for client in clients:
            answer = b""
            while data := client.recv(65536):
                answer += data
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nconnection: close\r\n" in answer
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address.host, address.port))


async def test_what_is_inherited_is_left_to_the_next(front: Front, listening: socket.socket) -> None:
    """Where somebody else holds the socket, those that wait in it go to whoever takes it up, and are not reset."""
    arrivals = Arrivals(listening.dup())
    with ExitStack() as stack:
        (client,) = knock(listening, 1, stack)
        await arrivals.aclose()
        sock, peer = listening.accept()
        stack.callback(sock.close)
        assert peer == client.getsockname()
