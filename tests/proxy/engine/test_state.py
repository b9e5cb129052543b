"""One writer, many readers: what the engine's state promises to those who look at it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from proxy.engine.phase import Phase
from proxy.engine.state import EngineState, Snapshot
from proxy.errors import Cause
from tests.patience import PATIENCE
from tests.proxy.engine.conftest import Clock


def test_it_begins_by_checking() -> None:
    assert EngineState().snapshot.phase is Phase.CHECKING
    assert EngineState().refusal() is not None


def test_a_restart_begins_the_count_of_seconds_anew_and_keeps_the_last(clock: Clock) -> None:
    state = EngineState()
    for phase, seconds in ((Phase.LOADING, 20), (Phase.WARMING, 3), (Phase.READY, 100)):
        state.enter(phase)
        clock.now += seconds
    state.enter(Phase.RESTARTING)
    clock.now += 1
    state.enter(Phase.LOADING)
    now = state.snapshot
    assert now.phase_seconds == {Phase.RESTARTING: 1}
    assert now.last_phase_seconds is not None
    assert now.last_phase_seconds[Phase.LOADING] == 20
    assert now.last_phase_seconds[Phase.READY] == 100


def test_what_belonged_to_a_phase_is_gone_with_it_and_the_rest_stays() -> None:
    state = EngineState()
    state.enter(
        Phase.DOWNLOADING,
        progress=0.5,
        eta_seconds=9.0,
        reason="slow",
        remedy="wait",
        cause=Cause.UNKNOWN,
    )
    state.update(served_names=("m",), restarts=2, last_restart_cause=Cause.KILLED)
    state.enter(Phase.LOADING)
    now = state.snapshot
    assert (now.progress, now.eta_seconds, now.reason, now.remedy, now.cause) == (None,) * 5
    assert (now.served_names, now.restarts, now.last_restart_cause) == (("m",), 2, Cause.KILLED)


def test_an_update_changes_no_phase() -> None:
    state = EngineState()
    state.enter(Phase.LOADING)
    before = state.snapshot
    state.update(progress=0.25)
    after = state.snapshot
    assert (after.phase, after.since, after.progress) == (before.phase, before.since, 0.25)
    assert before.progress is None, "a snapshot that was read never changes"


def test_listeners_see_every_change_as_before_and_after() -> None:
    state = EngineState()
    seen: list[tuple[Snapshot, Snapshot]] = []
    state.listen(lambda before, after: seen.append((before, after)))
    state.enter(Phase.LOADING)
    state.update(progress=0.5)
    state.enter(Phase.READY)
    phases = [(before.phase, after.phase) for before, after in seen]
    assert phases == [
        (Phase.CHECKING, Phase.LOADING),
        (Phase.LOADING, Phase.LOADING),
        (Phase.LOADING, Phase.READY),
    ]
    assert seen[0][1] is seen[1][0]


@pytest.mark.parametrize("phase", Phase)
def test_only_a_ready_engine_takes_requests(phase: Phase) -> None:
    state = EngineState()
    state.enter(phase, reason="because")
    assert (state.refusal() is None) == (phase is Phase.READY) == state.snapshot.ready


@pytest.mark.parametrize(
    ("phase", "known", "words", "seconds"),
    [
        (Phase.CHECKING, {}, "The engine is starting, phase checking.", 25),
        (Phase.DOWNLOADING, {}, "phase downloading.", 30),
        (Phase.DOWNLOADING, {"progress": 0.256}, "phase downloading (26%).", 30),
        (Phase.LOADING, {"eta_seconds": 41.6}, "phase loading.", 52),
        (Phase.WARMING, {"eta_seconds": 0.2}, "phase warming.", 3),
        (Phase.DOWNLOADING, {"eta_seconds": 3600.0}, "phase downloading.", 59),
        (Phase.RESTARTING, {"reason": "it died", "eta_seconds": 4.0}, "restarting: it died", 7),
        (Phase.DEGRADED, {"reason": "no answer"}, "degraded: no answer", 25),
        (Phase.FAILED, {"reason": "no such model"}, "cannot start: no such model", None),
        (Phase.DRAINING, {}, "shutting down", 10),
        (Phase.STOPPED, {}, "not loaded", 10),
    ],
)
def test_a_refusal_says_why_and_when_to_ask_again(
    phase: Phase, known: dict[str, Any], words: str, seconds: int | None
) -> None:
    state = EngineState()
    state.enter(phase, **known)
    refusal = state.refusal()
    assert refusal is not None
    assert words in refusal.message
    assert refusal.message.endswith(" See GET /health.")
    assert refusal.retry_after_seconds == seconds


WAITING_HELPS = [phase for phase in Phase if phase not in (Phase.READY, Phase.FAILED)]


@pytest.mark.parametrize("phase", WAITING_HELPS)
@pytest.mark.parametrize("eta_seconds", [None, 0.0, 0.1, 50.0, 1e6])
def test_every_refusal_says_when_to_ask_again(phase: Phase, eta_seconds: float | None) -> None:
    state = EngineState()
    state.enter(phase, eta_seconds=eta_seconds)
    refusal = state.refusal()
    assert refusal is not None
    assert refusal.retry_after_seconds is not None
    assert 1 <= refusal.retry_after_seconds <= 59
    assert eta_seconds != 50 or refusal.retry_after_seconds >= 50


async def test_waiting_ends_when_the_engine_is_ready_and_not_before() -> None:
    state = EngineState()
    waiting = asyncio.ensure_future(state.wait_until_settled())
    state.enter(Phase.WARMING)
    await asyncio.sleep(0)
    assert not waiting.done()
    state.enter(Phase.READY)
    await asyncio.wait_for(waiting, PATIENCE)
    state.enter(Phase.DEGRADED)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(state.wait_until_settled(), 0.01)


def test_each_transition_is_one_line_with_reason_and_seconds(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "proxy.engine")
    state = EngineState()
    state.enter(Phase.LOADING)
    caplog.clear()
    clock.now += 2.5
    state.update(progress=0.5)
    state.enter(
        Phase.FAILED, cause=Cause.DISK_FULL, reason="The disk is full.", remedy="Free some space."
    )
    (line,) = caplog.records
    assert line.levelname == "ERROR"
    text = "loading -> failed after 2.5 s: The disk is full. Free some space."
    assert line.getMessage() == text
    assert line.__dict__["fields"] == {
        "phase": "failed",
        "phase_before": "loading",
        "seconds": 2.5,
        "cause": "disk_full",
    }


async def test_who_waits_for_an_engine_that_is_given_up_learns_it() -> None:
    state = EngineState()
    waiting = asyncio.ensure_future(state.wait_until_settled())
    state.enter(Phase.FAILED, reason="no memory")
    await asyncio.wait_for(waiting, PATIENCE)
