"""The child's state machine: what may follow what, who waits, who is told."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing

from kiwi_id.state import ChildState, ChildStatus

S = ChildState
ENDINGS = {S.STOPPING, S.FAILED}
LEGAL = {
    S.STOPPED: {S.STARTING} | ENDINGS,
    S.STARTING: {S.STARTING, S.READY, S.BACKOFF} | ENDINGS,
    S.READY: {S.UNHEALTHY, S.RESTARTING, S.STARTING, S.BACKOFF} | ENDINGS,
    S.UNHEALTHY: {S.READY, S.RESTARTING, S.STARTING, S.BACKOFF} | ENDINGS,
    S.RESTARTING: {S.READY, S.STARTING, S.BACKOFF, S.RESTARTING} | ENDINGS,
    S.BACKOFF: {S.STARTING} | ENDINGS,
    S.STOPPING: {S.STOPPED},
    S.FAILED: {S.STOPPING, S.STOPPED},
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(S, S)), ids=lambda state: state.value)
def test_transitions(old: ChildState, new: ChildState) -> None:
    """Every pair of states: the legal move is made and told, the illegal one raises and changes nothing."""
    status = ChildStatus()
    status.state = old
    told: list[ChildState] = []
    status.on_change.append(lambda: told.append(status.state))
    if new in LEGAL[old]:
        status.transition(new, "test")
        assert (status.state, told) == (new, [new])
    else:
        with pytest.raises(RuntimeError, match=f"from {old.value} to {new.value}: test"):
            status.transition(new, "test")
        assert (status.state, told) == (old, [])


def test_only_ready_and_unhealthy_serve() -> None:
    """An unhealthy child may be slow only: it is still asked."""
    status = ChildStatus()
    serving = set()
    for status.state in S:
        if status.serving:
            serving.add(status.state)
    assert serving == {S.READY, S.UNHEALTHY}


async def test_waiters_are_woken_by_readiness_each_time(autojump_clock: object) -> None:
    """Who waits for a serving child returns at readiness, at once while it serves, and waits again after its end."""
    status = ChildStatus()
    woken: list[float] = []

    async def wait() -> None:
        await status.wait_serving()
        woken.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        status.transition(S.STARTING, "test")
        await trio.sleep(1)
        assert woken == []
        status.transition(S.READY, "test")
        await trio.testing.wait_all_tasks_blocked()
        assert woken == [1]
        status.transition(S.UNHEALTHY, "test")
        await wait()
        status.transition(S.BACKOFF, "test")
        nursery.start_soon(wait)
        await trio.sleep(1)
        assert woken == [1, 1]
        status.transition(S.STARTING, "test")
        status.transition(S.READY, "test")
    assert woken == [1, 1, 2]


def test_the_end_of_a_life_is_told() -> None:
    """Who holds connections to the child hears of its end, and its pid is forgotten."""
    status = ChildStatus()
    status.pid = 7
    told: list[object] = []
    status.on_exit.append(lambda: told.append(status.pid))
    status.ended()
    assert told == [None]
