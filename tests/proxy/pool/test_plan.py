"""The plan at single moments that a simulation reaches rarely."""

from __future__ import annotations

from proxy.pool.plan import Action, Budget, ModelState, ModelView, next_step

BUDGET = Budget({0: 10}, max_wait_seconds=60)


def test_no_younger_wish_takes_the_room_that_is_kept_free_for_an_overdue_model() -> None:
    leaving = ModelView(
        "leaving", ModelState.READY, 0, (0,), 5, 10, is_closing=True, in_flight=1, last_used=99
    )
    head = ModelView("head", ModelState.UNLOADED, 0, (0,), 10, 10, waiting=1, oldest_wait_since=20)
    small = ModelView("small", ModelState.UNLOADED, 0, (0,), 4, 10, waiting=1, oldest_wait_since=30)
    assert next_step((leaving, head, small), BUDGET, 100).step is None
    # Before that moment the room is for whoever fits.
    early = next_step((leaving, head, small), BUDGET, 79).step
    assert early is not None
    assert (early.action, early.model.name) in ((Action.LOAD, "small"), (Action.REOPEN, "leaving"))


def test_a_model_does_not_close_before_the_requests_it_was_loaded_for_are_in_flight() -> None:
    """llmux 210b1b0, at the very moment: they are released, and not yet in flight."""
    ready = ModelView(
        "ready", ModelState.READY, 100, (0,), 10, 0, waiting=3, oldest_wait_since=10, last_used=5
    )
    other = ModelView("other", ModelState.UNLOADED, 0, (0,), 10, 0, waiting=1, oldest_wait_since=20)
    assert next_step((ready, other), BUDGET, 100).step is None
