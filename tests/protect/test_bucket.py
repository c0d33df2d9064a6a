"""The buckets: never more than the limit in any window of time, never a refusal below it, and never more of them than allowed."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from kiwi_id.protect.bucket import Buckets
from kiwi_id.values import Rate

RATES = st.builds(Rate, st.integers(1, 50), st.sampled_from([1.0, 7.0, 60.0, 3600.0, 86400.0 * 30]))
# Steps between two tries, in shares of the period: bursts, trickles, and long rests.
STEPS = st.lists(st.one_of(st.just(0.0), st.floats(0, 0.1), st.floats(0, 3)), min_size=1, max_size=150)
STARTS = st.floats(0, 1e7)  # Trio's clock begins anywhere
# Moments are kept in nanoseconds and clocks tick in floats: a window is looked at with this much slack, seconds.
SLACK = 1e-6


def _tries(rate: Rate, start: float, steps: list[float]) -> list[float]:
    times, now = [], start
    for step in steps:
        now += step * rate.period
        times.append(now)
    return times


def _admitted(buckets: Buckets, times: list[float]) -> list[float]:
    passed = []
    for now in times:
        if not buckets.wait("key", now):
            buckets.spend("key", now)
            passed.append(now)
    return passed


@given(RATES, STARTS, STEPS)
def test_never_more_than_the_limit_in_any_window(rate: Rate, start: float, steps: list[float]) -> None:
    """Between any two moments no more get through than a full bucket and what was filled again meanwhile."""
    passed = _admitted(Buckets(rate), _tries(rate, start, steps))
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            seconds = passed[last] - passed[first] + SLACK
            assert last - first + 1 <= rate.count + math.floor(seconds * rate.count / rate.period)


@given(RATES, STARTS, STEPS)
def test_never_a_refusal_below_the_limit(rate: Rate, start: float, steps: list[float]) -> None:
    """Whoever is refused would have been refused by a token bucket in exact arithmetic that had a millionth less, too."""
    buckets, tokens, before = Buckets(rate), Fraction(rate.count), Fraction(start)
    for now in _tries(rate, start, steps):
        exact = Fraction(now)
        tokens = min(Fraction(rate.count), tokens + (exact - before) * rate.count / Fraction(rate.period))
        before = exact
        if buckets.wait("key", now):
            assert tokens < 1 + Fraction(1, 1_000_000) * rate.count
        else:
            buckets.spend("key", now)
            tokens -= 1


@given(RATES, STARTS, STEPS)
def test_after_the_time_it_says_there_is_a_token(rate: Rate, start: float, steps: list[float]) -> None:
    """Who comes back after the time that was told, in whole seconds, is let through; a second before the moment is too early."""
    buckets = Buckets(rate)
    for now in _tries(rate, start, steps):
        if wait := buckets.wait("key", now):
            assert 0 < wait <= rate.period
            assert buckets.wait("key", now + math.ceil(wait)) == 0.0
            assert buckets.wait("key", now + wait / 2) > 0 or wait < SLACK
        else:
            buckets.spend("key", now)


def test_the_whole_burst_at_one_moment() -> None:
    """All tokens of a full bucket can be had at once, also where a token is no whole number of nanoseconds."""
    for count in (1, 3, 7, 24, 300, 999_983):
        buckets = Buckets(Rate(count, 3600.0))
        for _ in range(min(count, 1000)):
            assert buckets.wait("key", 0.1) == 0.0
            buckets.spend("key", 0.1)
        if count < 1000:
            assert buckets.wait("key", 0.1) > 0.0


def test_shares_and_returns() -> None:
    """Twenty shares of a twentieth are one token, and a token that is given back is there again."""
    buckets = Buckets(Rate(2, 3600.0))
    for _ in range(20):
        assert not buckets.wait("key", 5.0)
        buckets.spend("key", 5.0, 0.05)
    assert not buckets.wait("key", 5.0)
    buckets.spend("key", 5.0)
    assert buckets.wait("key", 5.0)
    buckets.give_back("key")
    assert not buckets.wait("key", 5.0)
    buckets.give_back("nobody")
    assert len(buckets) == 1


def test_what_is_owed_ends() -> None:
    """However much is spent at once, a token is there again after one period more than the bucket takes to fill."""
    buckets = Buckets(Rate(10, 60.0))
    for _ in range(1000):
        buckets.spend("key", 0.0)
    assert 60.0 < buckets.wait("key", 0.0) <= 66.0
    assert not buckets.wait("key", 66.0)


@given(st.integers(1, 20), st.lists(st.integers(0, 60), max_size=200))
def test_a_fixed_number_of_them(most: int, keys: list[int]) -> None:
    """There are never more than allowed, and the ones that spent last are kept."""
    buckets = Buckets(Rate(1, 3600.0), most)
    for key in keys:
        buckets.spend(key, 0.0)
        assert len(buckets) <= most
    recent = list(dict.fromkeys(reversed(keys)))[:most]
    assert all(buckets.wait(key, 0.0) for key in recent)
    assert len(buckets) == len(recent)


def test_another_rate_keeps_what_was_spent() -> None:
    """A change neither forgives nor invents failures; no limit, and a limit again, begins anew."""
    buckets = Buckets(Rate(4, 40.0))
    for _ in range(4):
        buckets.spend("key", 100.0)
    buckets.spend("other", 0.0)
    buckets.change(Rate(6, 60.0), 100.0)
    assert len(buckets) == 1  # the other one was full again
    for _ in range(2):
        assert not buckets.wait("key", 100.0)
        buckets.spend("key", 100.0)
    assert buckets.wait("key", 100.0) == 10.0
    buckets.change(Rate(2, 60.0), 100.0)
    assert 60.0 <= buckets.wait("key", 100.0) <= 90.0
    buckets.change(None, 100.0)
    assert buckets.wait("key", 100.0) == 0.0
    buckets.spend("key", 100.0)
    buckets.change(Rate(1, 60.0), 100.0)
    assert (buckets.wait("key", 100.0), len(buckets)) == (0.0, 0)
