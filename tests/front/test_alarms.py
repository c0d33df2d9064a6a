"""Deadlines of connections: rung in time and in order, not when cancelled, and nothing is kept of those that are over."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import MockClock

from kiwi_id.proxy import alarms
from kiwi_id.proxy.alarms import TICK, Alarms
from kiwi_id.proxy.stream import Late, Stream


class Bell:
    """Remembers when it was rung."""

    def __init__(self) -> None:
        self.rung: list[float] = []

    def ring(self) -> None:
        """Remember now."""
        self.rung.append(trio.current_time())


async def test_rung_in_time(autojump_clock: MockClock) -> None:
    """Each is rung once, at its deadline or up to a tick later, whatever the order in which they were set."""
    start = trio.current_time()
    ringing = alarms.current()
    bells = {seconds: Bell() for seconds in (60.0, 0.05, 10.0, 0.0, 10.01, 3600.0)}
    for seconds, bell in bells.items():
        ringing.set(bell, start + seconds)
    await trio.sleep(4000)
    for seconds, bell in bells.items():
        assert len(bell.rung) == 1
        assert seconds <= bell.rung[0] - start <= seconds + TICK * 1.001


async def test_an_earlier_one_is_not_slept_over(autojump_clock: MockClock) -> None:
    """One that is set while the task sleeps towards a later one is rung in its own time."""
    ringing, late, early = alarms.current(), Bell(), Bell()
    ringing.set(late, trio.current_time() + 1000)
    await trio.sleep(500)
    now = trio.current_time()
    ringing.set(early, now + 1)
    await trio.sleep(2)
    assert early.rung
    assert early.rung[0] - now <= 1 + TICK * 1.001
    assert not late.rung


async def test_what_is_over_is_rung_at_once(autojump_clock: MockClock) -> None:
    """A deadline that has passed, by however much, is rung without anybody having to wait."""
    ringing, bell = alarms.current(), Bell()
    ringing.set(bell, float("-inf"))
    await trio.sleep(2 * TICK)
    assert bell.rung


async def test_cancelled(autojump_clock: MockClock) -> None:
    """What is cancelled is not rung, cancelling it again does nothing, and in the end nothing of it is kept."""
    ringing, bell, other = Alarms(), Bell(), Bell()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ringing.run)
        await trio.testing.wait_all_tasks_blocked()
        tick = ringing.set(bell, trio.current_time() + 5)
        ringing.set(other, trio.current_time() + 5)
        ringing.cancel(bell, tick)
        ringing.cancel(bell, tick)
        await trio.sleep(10)
        ringing.cancel(other, tick)
        assert not bell.rung
        assert other.rung
        assert not ringing._due
        assert not ringing._ticks
        nursery.cancel_scope.cancel()


async def test_one_for_each_run(autojump_clock: MockClock) -> None:
    """There is one in a Trio run, however often it is asked for."""
    assert alarms.current() is alarms.current()


def _pair() -> tuple[Stream, socket.socket]:
    ours, theirs = socket.socketpair()
    return Stream(ours), theirs


async def test_a_receive_that_is_late(autojump_clock: MockClock) -> None:
    """It raises Late, has lost nothing, and after another deadline receives as before."""
    stream, peer = _pair()
    with peer:
        stream.expect_by(trio.current_time() + 10)
        with pytest.raises(Late):
            await stream.receive()
        with pytest.raises(Late):  # until somebody says otherwise
            await stream.receive()
        stream.expect_by(None)
        peer.send(b"at last")
        assert await stream.receive() == b"at last"
        stream.close()


async def test_the_sender_sleeps_through_it(autojump_clock: MockClock) -> None:
    """A task that sends on the connection, whose receiver is rung for, goes on sending."""
    stream, peer = _pair()
    sent = trio.Event()

    async def send() -> None:
        await stream.send(b"x" * (1 << 22))
        sent.set()

    with peer:
        peer.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            stream.expect_by(trio.current_time() + 1)
            with pytest.raises(Late):
                await stream.receive()
            assert not sent.is_set()
            got = 0
            while got < 1 << 22:
                await trio.lowlevel.wait_readable(peer)
                got += len(peer.recv(1 << 20))
        assert sent.is_set()
        stream.close()


async def test_closed_while_waiting(autojump_clock: MockClock) -> None:
    """A close wakes the receiver with ClosedResourceError, deadline or not, and takes the deadline away."""
    stream, peer = _pair()
    with peer:
        stream.expect_by(trio.current_time() + 10)
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await stream.receive()

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            stream.close()
    await trio.sleep(20)  # nothing rings for a closed socket
