"""A bucket: never more than its capacity and its rate allow, whatever happens in which order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.access.account import Account
from proxy.access.bucket import PERIOD_SECONDS, Bucket
from proxy.settings.allowance import Allowance

CAPACITIES = st.integers(1, 10**9)
PAUSES = st.floats(0, 200, allow_nan=False)
AMOUNTS = st.integers(0, 10**6)


@given(capacity=CAPACITIES, pauses=st.lists(PAUSES, max_size=60))
def test_in_any_time_no_more_is_let_in_than_capacity_and_rate_allow(
    capacity: int, pauses: list[float]
) -> None:
    account = Account("a", "a", Allowance(rpm=capacity), 0, 0)
    now, let_in = 0.0, list[float]()
    for pause in pauses:
        now += pause
        if account.has_room(now, now):
            account.take_request(now, now)
            let_in.append(now)
    for first, begin in enumerate(let_in):
        for last, end in enumerate(let_in[first:], start=first):
            allowed = capacity + (end - begin) * capacity / PERIOD_SECONDS
            assert last - first + 1 <= allowed + 1e-6 * capacity


@given(
    capacity=CAPACITIES, takes=st.lists(st.tuples(PAUSES, AMOUNTS), max_size=40), level=CAPACITIES
)
def test_who_waits_as_long_as_told_gets_what_was_asked_for(
    capacity: int, takes: list[tuple[float, int]], level: int
) -> None:
    bucket, now = Bucket(capacity, 0), 0.0
    for pause, amount in takes:
        now += pause
        bucket.take(amount, now)
        assert bucket.level(now) <= capacity
    wait, target = bucket.seconds_until(level, now), min(level, capacity)
    if wait > 0.1:
        assert bucket.level(now + wait * 0.9) < target
    assert bucket.level(now + wait) >= target - 1e-6 * max(target, capacity, 1)
    assert bucket.level(now + bucket.seconds_until(1, now)) >= 1 - 1e-6 * capacity


@given(capacity=CAPACITIES, other=CAPACITIES, used=AMOUNTS, pause=PAUSES)
def test_another_limit_forgives_nothing(capacity: int, other: int, used: int, pause: float) -> None:
    bucket = Bucket(capacity, 0)
    bucket.take(used, 0)
    before = capacity - bucket.level(pause)
    bucket.resize(other, pause)
    assert other - bucket.level(pause) == pytest.approx(before)
    assert bucket.level(pause + 10**9) == other


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = Bucket(60, 100)
    bucket.take(60, 100)
    assert bucket.level(100) == 0
    assert bucket.level(50) < 0
    assert bucket.level(101) == pytest.approx(1)
