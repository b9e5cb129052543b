"""How often an engine is started again, and how long it is waited before that."""

from __future__ import annotations

import pytest

from proxy.engine import restarts as restarts_module
from proxy.engine.restarts import RESTART_WINDOW_SECONDS, Restarts


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(restarts_module, "monotonic", lambda: now[0])
    return now


def test_wait_doubles_with_each_start_that_came_to_nothing_up_to_half_a_minute() -> None:
    restarts = Restarts(9)
    waits = [restarts.next(was_ready=False, was_started=True) for _ in range(8)]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_engine_that_had_been_ready_is_started_again_soon() -> None:
    restarts = Restarts(9)
    for was_ready, waits in ((True, [1, 1, 1, 1]), (False, [1, 2, 4]), (True, [1])):
        for wait in waits:
            assert restarts.next(was_ready=was_ready, was_started=True) == wait


def test_only_so_many_are_allowed_in_ten_minutes(clock: list[float]) -> None:
    restarts = Restarts(2)
    assert restarts.next(was_ready=True, was_started=True) is not None
    clock[0] += 60
    assert restarts.next(was_ready=True, was_started=True) is not None
    assert restarts.next(was_ready=True, was_started=True) is None
    assert restarts.spent == 2
    clock[0] += RESTART_WINDOW_SECONDS - 59
    assert restarts.next(was_ready=True, was_started=True) is not None


def test_engine_that_takes_long_to_fail_is_not_started_for_ever(clock: list[float]) -> None:
    restarts = Restarts(2)
    for _ in range(2):
        assert restarts.next(was_ready=False, was_started=True) is not None
        clock[0] += RESTART_WINDOW_SECONDS + 1
    assert restarts.next(was_ready=False, was_started=True) is None
    assert restarts.spent == 2


def test_engine_that_was_ready_in_between_starts_the_count_anew(clock: list[float]) -> None:
    restarts = Restarts(2)
    for was_ready in (False, False, True, False, False):
        assert restarts.next(was_ready=was_ready, was_started=True) is not None
        clock[0] += RESTART_WINDOW_SECONDS + 1
    assert restarts.next(was_ready=False, was_started=True) is None


def test_hub_that_is_slow_to_fail_is_asked_for_as_long_as_it_takes(clock: list[float]) -> None:
    restarts = Restarts(2)
    for _ in range(9):
        assert restarts.next(was_ready=False, was_started=False) is not None
        clock[0] += RESTART_WINDOW_SECONDS + 1


def test_none_may_be_allowed() -> None:
    restarts = Restarts(0)
    assert restarts.next(was_ready=True, was_started=True) is None
    assert restarts.spent == 0
