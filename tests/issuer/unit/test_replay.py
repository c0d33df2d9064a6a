"""issuer/replay.py: what is remembered, for how long, and how much of it."""

from __future__ import annotations

import pytest
import trio

from kiwi_id.issuer import replay
from kiwi_id.issuer.replay import Memory, UsedCode


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A monotonic clock that stands still until a test moves it."""
    now = [1000.0]
    monkeypatch.setattr("kiwi_id.issuer.replay.time.monotonic", lambda: now[0])
    return now


def test_a_code_is_free_once(clock: list[float]) -> None:
    """The second to send it gets the record of the first; after its life it is forgotten."""
    memory = Memory()
    first, record = memory.join_code("c", lifetime=60)
    assert first
    assert memory.join_code("c", lifetime=60) == (False, record)
    record.used = UsedCode("mail", "secret", "inner")
    assert "secret" not in repr(record)
    assert "inner" not in repr(record)
    clock[0] += 61
    assert memory.join_code("c", lifetime=60)[0]


def test_a_code_whose_exchange_failed_is_free_again(clock: list[float]) -> None:
    """A wrong secret does not use the code up."""
    memory = Memory()
    memory.join_code("c", lifetime=60)
    memory.free_code("c")
    assert memory.join_code("c", lifetime=60)[0]


def test_codes_are_forgotten_in_their_own_time(clock: list[float]) -> None:
    """Claims of different moments go in their order; what a forgotten code gave goes with it."""
    memory = Memory()
    for at in range(3):
        memory.join_code(f"c{at}", lifetime=60)[1].used = UsedCode("mail", None, "x")
        clock[0] += 25
    assert memory.join_code("c0", lifetime=60)[0]
    assert not memory.join_code("c1", lifetime=60)[0]
    assert len(memory._codes) == 3


def test_both_memories_are_bounded(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of codes and refreshes pushes out the oldest; it does not grow."""
    monkeypatch.setattr(replay, "_MOST", 50)
    memory = Memory()
    for number in range(500):
        memory.join_code(f"c{number}", lifetime=60)
        memory.join_refresh(f"r{number}", "who", window=10)
    assert max(len(memory._codes), len(memory._refreshes)) <= 52
    assert not memory.join_code("c499", lifetime=60)[0]


def test_refreshes_are_shared_within_the_window_and_by_the_same_client_only(clock: list[float]) -> None:
    """Token and credentials are the key; later, or after a failure, it is a new one."""
    memory = Memory()
    first, record = memory.join_refresh("t", "mail", window=10)
    assert first
    assert memory.join_refresh("t", "mail", window=10) == (False, record)
    assert memory.join_refresh("t", "thief", window=10)[0]
    assert memory.join_refresh("t\0mail", "", window=10)[0]
    memory.drop_refresh("t", "mail")
    assert memory.join_refresh("t", "mail", window=10)[0]
    clock[0] += 11
    assert memory.join_refresh("t", "mail", window=10)[0]


def test_no_token_is_kept_as_such() -> None:
    """Keys are digests; odd text is a key, too."""
    memory = Memory()
    memory.join_code("the-code\ud800", lifetime=60)
    memory.join_refresh("the-token", "the-secret", window=10)
    kept = repr([memory._codes, memory._refreshes])
    assert not any(word in kept for word in ("the-code", "the-token", "the-secret"))


async def test_of_many_at_once_one_is_first(autojump_clock: trio.testing.MockClock) -> None:
    """A hundred tasks with the same code and the same refresh token: one wins each, all others share the refresh's answer."""
    memory = Memory()
    won, answers = [], []

    async def race() -> None:
        won.append(memory.join_code("c", lifetime=60)[0])
        first, record = memory.join_refresh("t", "mail", window=10)
        if first:
            await trio.sleep(1)
            record.answer = {"access_token": "x"}
            record.done.set()
        await record.done.wait()
        answers.append(record.answer)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(race)
    assert won.count(True) == 1
    assert answers == [{"access_token": "x"}] * 100
