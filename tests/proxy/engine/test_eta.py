"""How long until ready: never negative, never made up."""

from __future__ import annotations

import pytest

from proxy.engine.phase import Phase
from proxy.engine.state import EngineState
from tests.proxy.engine.conftest import Clock

EXPECTED = {Phase.LOADING: 20.0, Phase.COMPILING: 30.0, Phase.WARMING: 2.0}


@pytest.fixture
def state(clock: Clock) -> EngineState:
    state = EngineState()
    state.enter(Phase.CHECKING)
    return state


def test_without_an_earlier_start_nothing_is_told(state: EngineState) -> None:
    for phase in (Phase.CHECKING, Phase.DOWNLOADING, Phase.LOADING, Phase.WARMING):
        state.enter(phase)
        assert state.snapshot.seconds_left is None


def test_what_is_left_is_the_phases_to_come_less_the_time_that_has_passed(
    state: EngineState, clock: Clock
) -> None:
    state.update(expected_seconds=EXPECTED)
    state.enter(Phase.LOADING)
    assert state.snapshot.seconds_left == 52
    clock.now += 5
    assert state.snapshot.seconds_left == 47
    clock.now += 100
    assert state.snapshot.seconds_left == 32, "the phases to come still take their time"
    state.enter(Phase.COMPILING)
    clock.now += 10
    assert state.snapshot.seconds_left == 22
    state.enter(Phase.WARMING)
    clock.now += 1.5
    assert state.snapshot.seconds_left == 0.5
    clock.now += 10
    assert state.snapshot.seconds_left is None, "overdue: nothing is known any more"


def test_a_phase_that_no_earlier_start_had_has_no_estimate(state: EngineState) -> None:
    state.update(expected_seconds={Phase.LOADING: 20.0, Phase.WARMING: 2.0})
    state.enter(Phase.LOADING)
    assert state.snapshot.seconds_left == 22
    state.enter(Phase.COMPILING)
    assert state.snapshot.seconds_left is None


def test_a_download_is_estimated_by_its_rate_and_what_comes_after_by_the_past(
    state: EngineState, clock: Clock
) -> None:
    state.enter(Phase.DOWNLOADING)
    state.update(eta_seconds=100.0)
    clock.now += 0.5
    assert state.snapshot.seconds_left == 100, "the rate itself is measured anew"
    state.update(expected_seconds=EXPECTED)
    assert state.snapshot.seconds_left == 152


def test_a_back_off_is_counted_down(state: EngineState, clock: Clock) -> None:
    state.enter(Phase.RESTARTING, eta_seconds=10.0)
    clock.now += 4
    assert state.snapshot.seconds_left == 6
    refusal = state.refusal()
    assert refusal is not None
    assert refusal.retry_after_seconds == 10
    clock.now += 100
    assert state.snapshot.seconds_left is None


def test_a_start_that_became_ready_is_what_the_next_one_is_measured_by(
    state: EngineState, clock: Clock
) -> None:
    state.update(expected_seconds=EXPECTED)
    for phase, seconds in ((Phase.LOADING, 7.0), (Phase.WARMING, 1.0)):
        state.enter(phase)
        clock.now += seconds
    state.enter(Phase.READY)
    assert state.snapshot.seconds_left is None
    state.enter(Phase.RESTARTING)
    state.enter(Phase.LOADING)
    assert state.snapshot.seconds_left == 8


def test_a_start_that_failed_measures_nothing(state: EngineState, clock: Clock) -> None:
    state.update(expected_seconds=EXPECTED)
    state.enter(Phase.LOADING)
    clock.now += 1
    state.enter(Phase.RESTARTING)
    state.enter(Phase.LOADING)
    assert state.snapshot.seconds_left == 52
