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
    waits = [restarts.next(was_ready=False) for _ in range(8)]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_engine_that_had_been_ready_is_started_again_soon() -> None:
    restarts = Restarts(9)
    assert [restarts.next(was_ready=True) for _ in range(4)] == [1, 1, 1, 1]
    assert [restarts.next(was_ready=False) for _ in range(3)] == [1, 2, 4]
    assert restarts.next(was_ready=True) == 1


def test_only_so_many_are_allowed_in_ten_minutes(clock: list[float]) -> None:
    restarts = Restarts(2)
    assert restarts.next(was_ready=True) is not None
    clock[0] += 60
    assert restarts.next(was_ready=True) is not None
    assert restarts.next(was_ready=True) is None
    assert restarts.recent == 2
    clock[0] += RESTART_WINDOW_SECONDS - 59
    assert restarts.next(was_ready=True) is not None


def test_none_may_be_allowed() -> None:
    restarts = Restarts(0)
    assert restarts.next(was_ready=True) is None
    assert restarts.recent == 0
