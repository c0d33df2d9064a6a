"""The minimum rate with a grace, in Trio's own time: who is served for ever, who is ended, and when."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from kiwi_id.proxy.pace import Pace, TooSlow

GRACE, RATE = 30.0, 256


class Line:
    """A client in the place of a stream: it moves ``size`` bytes each ``period`` seconds, in either direction."""

    def __init__(self, size: int, period: float) -> None:
        self.size, self.period = size, period
        self.began = trio.current_time()
        self.taken = 0

    async def receive(self) -> bytes:
        """Receive the next bytes."""
        await trio.sleep(self.period)
        return b"x" * self.size

    async def send_some(self, data: memoryview) -> memoryview:
        """Our kernel takes nothing until all that it has is gone: as with a real one, that is long."""
        await trio.sleep_until(self.began + len(data) * self.period / max(self.size, 1e-9))
        self.taken += len(data)
        return data[len(data) :]

    def acknowledged(self) -> int:
        """What the client has taken."""
        return 1 + int((trio.current_time() - self.began) / self.period) * self.size


async def ended_after(pace: Pace, line: Line, seconds: float) -> float | None:
    """Receive for so long; return when it was ended, if it was."""
    began = trio.current_time()
    try:
        while trio.current_time() - began < seconds:
            await pace.receive(line)  # type: ignore[arg-type]
    except TooSlow:
        return trio.current_time() - began
    return None


@pytest.mark.parametrize(("size", "period"), [(256, 1.0), (1, 1 / 256), (7000, 27.0), (100_000, 29.9), (300, 1.0)])
async def test_whoever_keeps_the_rate_is_served_for_ever(autojump_clock: trio.testing.MockClock, size: int, period: float) -> None:
    """In small pieces or large ones, for an hour."""
    assert await ended_after(Pace(GRACE, RATE), Line(size, period), 3600 if period > 0.1 else 100) is None


@pytest.mark.parametrize(
    ("size", "period", "when"),
    [(1, 1e9, 30), (1, 29.0, 30.004), (128, 1.0, 59), (64, 1.0, 40)],
    ids=["stands still", "a byte each 29 s", "half the rate", "a quarter"],
)
async def test_whoever_is_slower_is_ended(autojump_clock: trio.testing.MockClock, size: int, period: float, when: float) -> None:
    """The slower, the sooner: at half the rate after twice the grace, with nothing at all after the grace."""
    ended = await ended_after(Pace(GRACE, RATE), Line(size, period), 86400)
    assert ended == pytest.approx(when, abs=1.5)


async def test_speed_cannot_be_saved_up(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever has sent a gigabyte at once has the same patience as others after that."""
    pace = Pace(GRACE, RATE)
    assert await ended_after(pace, Line(1 << 20, 0.001), 1) is None
    assert await ended_after(pace, Line(1, 1e9), 86400) == pytest.approx(30)


async def test_without_a_rate_any_progress_will_do(autojump_clock: trio.testing.MockClock) -> None:
    """min_rate = 0: only standing still counts."""
    assert await ended_after(Pace(GRACE, 0), Line(1, 29.0), 86400) is None
    assert await ended_after(Pace(GRACE, 0), Line(1, 1e9), 86400) == pytest.approx(30)


async def test_an_answer_is_judged_by_what_has_arrived(autojump_clock: trio.testing.MockClock) -> None:
    """While our kernel takes nothing for minutes, a client that takes bytes at the rate goes on, and a slower one does not."""
    await Pace(GRACE, RATE).send(Line(300, 1.0), memoryview(b"x" * 65536))  # type: ignore[arg-type]
    assert autojump_clock.current_time() > 5 * GRACE
    with pytest.raises(TooSlow):
        await Pace(GRACE, RATE).send(Line(100, 1.0), memoryview(b"x" * 65536))  # type: ignore[arg-type]
    with pytest.raises(TooSlow):
        await Pace(GRACE, RATE).send(Line(0, 1.0), memoryview(b"x" * 65536))  # type: ignore[arg-type]
