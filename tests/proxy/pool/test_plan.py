"""The plan at single moments that a simulation reaches rarely."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxy.pool.plan import (
    Action,
    Budget,
    ModelState,
    ModelView,
    Orders,
    Reason,
    next_step,
    obstacle,
)

BUDGET = Budget({0: 10}, {0: 10}, max_wait_seconds=60)
NO_ORDERS = Orders()


def due(
    *models: ModelView, budget: Budget = BUDGET, orders: Orders = NO_ORDERS, at: float = 100
) -> Any:
    step = next_step(models, budget, at, orders).step
    return None if step is None else (step.action, step.model.name, step.reason)


def test_no_younger_wish_takes_the_room_that_is_kept_free_for_an_overdue_model() -> None:
    leaving = ModelView(
        "leaving", ModelState.READY, 0, (0,), 5, 10, is_closing=True, in_flight=1, last_used=99
    )
    head = ModelView("head", ModelState.UNLOADED, 0, (0,), 10, 10, waiting=1, oldest_wait_since=20)
    small = ModelView("small", ModelState.UNLOADED, 0, (0,), 4, 10, waiting=1, oldest_wait_since=30)
    assert due(leaving, head, small) is None
    # Before that moment the room is for whoever fits.
    early = due(leaving, head, small, at=79)
    assert early[:2] in ((Action.LOAD, "small"), (Action.REOPEN, "leaving"))


def test_a_model_that_would_be_alone_is_tried_whatever_others_hold_of_its_gpu() -> None:
    """They may have given it back since it was looked at: the memory of a container before this one
    comes back late."""
    crowded = Budget({0: 1}, {0: 10}, max_wait_seconds=60)
    asked = ModelView("asked", ModelState.UNLOADED, 0, (0,), 9, 10, waiting=1, oldest_wait_since=20)
    assert due(asked, budget=crowded) == (Action.LOAD, "asked", Reason.REQUESTED)
    assert obstacle(asked, (asked,), crowded) is None
    assert obstacle(replace(asked, memory_bytes=11), (asked,), crowded) is not None
    pinned = ModelView("pinned", ModelState.READY, 0, (0,), 1, 10, pinned=True)
    assert obstacle(asked, (asked, pinned), crowded) is not None, "beside another by what is free"


def test_a_model_does_not_close_before_the_requests_it_was_loaded_for_are_in_flight() -> None:
    """llmux 210b1b0, at the very moment: they are released, and not yet in flight."""
    ready = ModelView(
        "ready", ModelState.READY, 100, (0,), 10, 0, waiting=3, oldest_wait_since=10, last_used=5
    )
    other = ModelView("other", ModelState.UNLOADED, 0, (0,), 10, 0, waiting=1, oldest_wait_since=20)
    assert due(ready, other) is None


def test_a_model_whose_engine_fails_again_and_again_gives_way_to_one_that_is_waited_for() -> None:
    failing = ModelView(
        "failing",
        ModelState.LOADING,
        0,
        load_seconds=10,
        waiting=3,
        oldest_wait_since=1,
        is_failing=True,
    )
    other = ModelView("other", ModelState.UNLOADED, 0, waiting=1, oldest_wait_since=50)
    one_at_a_time = Budget(None, max_loaded=1)
    assert due(failing, other, budget=one_at_a_time)[:2] == (Action.UNLOAD, "failing")
    assert due(failing, budget=one_at_a_time) is None


def test_a_model_whose_files_are_not_here_is_not_loaded() -> None:
    absent = ModelView(
        "absent", ModelState.UNLOADED, 0, waiting=1, oldest_wait_since=1, is_here=False
    )
    assert due(absent, budget=Budget(None)) is None


def test_the_end_of_the_last_request_brings_no_plan_where_no_step_could_follow() -> None:
    ready = ModelView("ready", ModelState.READY, 0, (0,), 5, 10, last_used=99)
    resting = ModelView("resting", ModelState.UNLOADED, 0, (0,), 10, 10)
    assert not next_step((ready, resting), BUDGET, 100).awaits_unused
    wanted = replace(resting, waiting=1, oldest_wait_since=99)
    busy = replace(ready, in_flight=1)
    for models in (
        (busy, wanted),
        (replace(busy, is_closing=True), resting),
        (replace(busy, idle_unload_seconds=60), resting),
        (busy, replace(resting, pinned=True)),
    ):
        assert next_step(models, BUDGET, 100).awaits_unused
    assert next_step((busy,), BUDGET, 100, Orders(unload={"ready"})).awaits_unused


def test_a_model_that_leaves_finishes_what_runs_and_is_not_loaded_again() -> None:
    ready = ModelView(
        "ready", ModelState.READY, 0, pinned=True, in_flight=1, is_closing=True, is_leaving=True
    )
    assert due(ready, budget=Budget(None)) is None
    assert due(replace(ready, in_flight=0, waiting=3), budget=Budget(None))[0] is Action.UNLOAD
    unloaded = replace(
        ready, state=ModelState.UNLOADED, in_flight=0, waiting=1, oldest_wait_since=1
    )
    orders = Orders(load={"ready": 1.0}, preload=["ready"])
    assert due(unloaded, budget=Budget(None), orders=orders) is None


def sleepy(state: ModelState, asleep_bytes: int = 1, **changes: Any) -> ModelView:
    view = ModelView("sleepy", state, 0, (0,), 6, 10, may_sleep=True, asleep_bytes=asleep_bytes)
    return replace(view, **changes)


def wanted(memory_bytes: int | None) -> ModelView:
    return ModelView(
        "wanted", ModelState.UNLOADED, 0, (0,), memory_bytes, 10, waiting=1, oldest_wait_since=90
    )


def test_a_model_that_may_sleep_sleeps_where_that_makes_room() -> None:
    sleeps = (Action.SLEEP, "sleepy", Reason.MAKE_ROOM)
    assert due(sleepy(ModelState.READY), wanted(9)) == sleeps
    assert due(sleepy(ModelState.ASLEEP), wanted(9)) == (Action.LOAD, "wanted", Reason.REQUESTED)
    one_at_a_time = Budget(None, max_loaded=1)
    assert due(sleepy(ModelState.READY), wanted(9), budget=one_at_a_time) == sleeps
    loads = due(sleepy(ModelState.ASLEEP), wanted(9), budget=one_at_a_time)
    assert loads == (Action.LOAD, "wanted", Reason.REQUESTED)


@pytest.mark.parametrize("state", [ModelState.READY, ModelState.ASLEEP])
def test_a_model_ends_whose_sleep_would_not_make_room_enough(state: ModelState) -> None:
    ends = (Action.UNLOAD, "sleepy", Reason.MAKE_ROOM)
    assert due(sleepy(state, asleep_bytes=2), wanted(9)) == ends
    assert due(sleepy(state), wanted(None)) == ends, "a first load is alone"


def test_a_model_in_its_sleep_stays_where_another_one_makes_the_room() -> None:
    awake = replace(sleepy(ModelState.READY, 0), name="awake", may_sleep=False)
    models = (sleepy(ModelState.ASLEEP), awake, wanted(9))
    assert due(*models) == (Action.UNLOAD, "awake", Reason.MAKE_ROOM)
    # And where requests wait for it, it is woken first.
    asked = sleepy(ModelState.ASLEEP, 2, waiting=1, oldest_wait_since=95)
    assert due(asked, wanted(9)) == (Action.LOAD, "sleepy", Reason.REQUESTED)


def test_a_model_that_is_idle_sleeps_and_one_that_is_ordered_to_end_ends() -> None:
    idle = sleepy(ModelState.READY, idle_unload_seconds=20)
    assert due(idle) == (Action.SLEEP, "sleepy", Reason.IDLE)
    assert due(replace(idle, may_sleep=False)) == (Action.UNLOAD, "sleepy", Reason.IDLE)
    order = Orders(unload={"sleepy"})
    for state in (ModelState.READY, ModelState.ASLEEP):
        ends = (Action.UNLOAD, "sleepy", Reason.ORDERED)
        assert due(sleepy(state), orders=order) == ends
    assert due(sleepy(ModelState.ASLEEP, idle_unload_seconds=20)) is None


def test_a_pinned_model_in_its_sleep_is_woken_and_counts_as_if_it_were() -> None:
    pinned = sleepy(ModelState.ASLEEP, pinned=True)
    assert due(pinned) == (Action.LOAD, "sleepy", Reason.PINNED)
    assert obstacle(wanted(9), [pinned], BUDGET) is not None


def test_the_model_of_a_set_of_one_is_called_so_where_it_does_not_fit() -> None:
    only = replace(wanted(11), name="")
    text = obstacle(only, [only], BUDGET)
    assert text is not None
    assert text.startswith("the model takes ")
