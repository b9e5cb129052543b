"""Which request is to blame when the engine dies again and again, and which is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.access import poison as poison_module
from proxy.access.poison import (
    REFUSED_SECONDS,
    TRIAL_SECONDS,
    WINDOW_SECONDS,
    Fingerprint,
    PoisonGuard,
)
from proxy.errors import EngineUnavailable, PoisonedRequest

BAD = (100, b"bad")
GOOD = (100, b"good")
OTHER = (100, b"other")
SHORT = (5, b"short")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(poison_module, "monotonic", clock)
    return clock


@pytest.fixture
def guard(clock: Clock) -> PoisonGuard:
    return PoisonGuard(enabled=True)


def ask(guard: PoisonGuard, known: Fingerprint) -> Fingerprint | None:
    return guard.check(known[0], lambda: known)


def answer(guard: PoisonGuard, known: Fingerprint) -> None:
    """Let it in, and answer it to its end."""
    assert ask(guard, known) == known
    guard.request_ended(known, answered=True)


def test_one_death_arms_it_and_refuses_nobody(guard: PoisonGuard) -> None:
    assert not PoisonGuard(enabled=True).active
    assert guard.died([BAD, GOOD]) == set()
    assert guard.active
    assert ask(guard, BAD) == BAD
    assert ask(guard, GOOD) == GOOD


def test_what_was_in_flight_at_two_deaths_is_refused_for_ten_minutes(
    guard: PoisonGuard, clock: Clock
) -> None:
    guard.died([BAD])
    clock.now += 60
    assert guard.died([BAD, GOOD]) == {BAD}
    with pytest.raises(PoisonedRequest, match=r"died 2 times .* in 10 min"):
        ask(guard, BAD)
    assert ask(guard, GOOD) == GOOD
    clock.now += REFUSED_SECONDS - 60
    with pytest.raises(PoisonedRequest, match="in 1 min"):
        ask(guard, BAD)
    clock.now += 61
    assert ask(guard, BAD) is None
    assert not guard.active


def test_two_deaths_far_apart_are_no_pattern(guard: PoisonGuard, clock: Clock) -> None:
    guard.died([BAD])
    clock.now += WINDOW_SECONDS + 1
    assert guard.died([BAD]) == set()


def test_one_that_was_answered_in_between_is_cleared(guard: PoisonGuard) -> None:
    guard.died([BAD, GOOD])
    answer(guard, GOOD)
    assert guard.died([BAD, GOOD]) == {BAD}
    assert ask(guard, GOOD) == GOOD


def test_one_that_failed_or_whose_client_left_is_not_cleared(guard: PoisonGuard) -> None:
    guard.died([BAD])
    assert ask(guard, BAD) == BAD
    guard.request_ended(BAD, answered=False)
    assert guard.died([BAD]) == {BAD}


def test_the_same_request_several_times_in_flight_counts_once(guard: PoisonGuard) -> None:
    assert guard.died([BAD, BAD, BAD]) == set()


def test_where_several_may_be_to_blame_none_is_refused_and_they_go_one_at_a_time(
    guard: PoisonGuard,
) -> None:
    guard.died([BAD, GOOD, OTHER])
    assert guard.died([BAD, GOOD, OTHER]) == set()
    assert ask(guard, GOOD) == GOOD
    for waiting in (BAD, OTHER, GOOD):
        with pytest.raises(EngineUnavailable) as later:
            ask(guard, waiting)
        assert later.value.retry_after_seconds == 2
    guard.request_ended(GOOD, answered=True)
    assert ask(guard, GOOD) is None, "cleared"
    answer(guard, OTHER)
    assert ask(guard, BAD) == BAD
    assert guard.died([BAD, GOOD]) == {BAD}
    assert ask(guard, GOOD) == GOOD


def test_the_guilty_one_of_several_is_found_at_the_next_death(guard: PoisonGuard) -> None:
    crowd = [BAD, *((50, b"%d" % number) for number in range(40))]
    guard.died(crowd)
    guard.died(crowd)
    assert ask(guard, BAD) == BAD
    assert guard.died([BAD, (7, b"new")]) == {BAD}


def test_a_trial_does_not_keep_the_others_waiting_for_long(
    guard: PoisonGuard, clock: Clock
) -> None:
    for _ in range(2):
        guard.died([GOOD, OTHER])
    assert ask(guard, GOOD) == GOOD
    clock.now += TRIAL_SECONDS
    assert ask(guard, OTHER) == OTHER


def test_the_next_one_is_tried_once_it_is_known_that_the_engine_lives(
    guard: PoisonGuard, clock: Clock
) -> None:
    for _ in range(2):
        guard.died([GOOD, OTHER])
    assert ask(guard, GOOD) == GOOD
    guard.request_ended(GOOD, answered=False)
    with pytest.raises(EngineUnavailable):
        ask(guard, OTHER)
    clock.now += 1
    assert ask(guard, OTHER) == OTHER


def test_only_bodies_of_a_suspects_length_are_looked_at(guard: PoisonGuard) -> None:
    def computed() -> Fingerprint:
        raise AssertionError("nobody asked for it")

    guard.died([BAD])
    assert guard.check(99, computed) is None
    assert guard.check(5, computed) is None
    guard.died([SHORT])
    assert guard.check(5, lambda: SHORT) == SHORT


def test_another_body_of_the_same_length_is_another_request(guard: PoisonGuard) -> None:
    guard.died([BAD])
    guard.died([BAD])
    assert ask(guard, GOOD) is None


def test_a_thousand_are_remembered_and_no_more(guard: PoisonGuard) -> None:
    guard.died((number, b"") for number in range(5000))
    count: Callable[[int], Fingerprint | None] = lambda number: ask(guard, (number, b""))  # noqa: E731
    assert count(999) is not None
    assert count(1000) is None


def test_turned_off_it_never_arms(clock: Clock) -> None:
    guard = PoisonGuard(enabled=False)
    for _ in range(3):
        assert guard.died([BAD]) == set()
    assert not guard.active
