"""Who is let in, who waits, who is turned away, and when the house is empty."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from proxy.access.admission import Admission, Watch
from proxy.errors import (
    ClientClosed,
    Draining,
    EngineFailed,
    EngineUnavailable,
    RateLimited,
    RequestFailure,
)
from tests.patience import PATIENCE

HOLD_SECONDS = 120.0


class Engine:
    """Ready or not, as a test says."""

    def __init__(self, *, ready: bool) -> None:
        self._ready = asyncio.Event()
        self.reason = "loading"
        if ready:
            self._ready.set()

    def become_ready(self) -> None:
        self._ready.set()

    def become_unready(self) -> None:
        self._ready.clear()

    def refusal(self) -> EngineUnavailable | None:
        return None if self._ready.is_set() else EngineUnavailable(self.reason)

    async def wait_until_ready(self) -> None:
        await self._ready.wait()


def admission(engine: Engine, hold_seconds: float = 0) -> Admission:
    return Admission(engine.refusal, engine.wait_until_ready, hold_seconds)


async def entering(gate: Admission, watch: Watch | None = None) -> asyncio.Task[float]:
    """A request that has come as far as it gets at once."""
    task = asyncio.create_task(gate.enter(watch=watch))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


async def test_without_holding_a_request_is_refused_at_once_with_the_reason() -> None:
    gate = admission(Engine(ready=False))
    with pytest.raises(EngineUnavailable, match="loading"):
        await gate.enter()
    assert gate.in_flight == 0


async def test_a_held_request_goes_in_as_soon_as_the_engine_is_ready() -> None:
    engine = Engine(ready=False)
    gate = admission(engine, HOLD_SECONDS)
    held = await entering(gate)
    assert not held.done()
    assert gate.in_flight == 0, "what waits is not in flight: a drain need not wait for it"
    engine.become_ready()
    await asyncio.wait_for(held, PATIENCE)
    assert gate.in_flight == 1


async def test_no_more_requests_are_held_than_may_be() -> None:
    engine = Engine(ready=False)
    gate = Admission(engine.refusal, engine.wait_until_ready, HOLD_SECONDS, max_held=2)
    held = [await entering(gate) for _ in range(2)]
    with pytest.raises(EngineUnavailable, match="loading"):
        await gate.enter()
    engine.become_ready()
    await asyncio.gather(*held)
    await gate.enter()
    assert gate.in_flight == 3


@pytest.mark.parametrize("hold_seconds", [0, HOLD_SECONDS])
async def test_a_request_that_may_not_bring_a_load_about_does_not_wait(hold_seconds: float) -> None:
    engine, keys = Engine(ready=False), list[str | None]()

    def on_hold(key: str | None) -> None:
        keys.append(key)
        raise RateLimited("alice has used all of 2 loads of models an hour")

    gate = Admission(engine.refusal, engine.wait_until_ready, hold_seconds, on_hold=on_hold)
    with pytest.raises(RateLimited):
        await asyncio.wait_for(gate.enter("alice"), PATIENCE)
    with pytest.raises(RateLimited):
        await asyncio.wait_for(gate.wait_for_engine("bob", None), PATIENCE)
    assert (gate.waiting, gate.in_flight, keys) == (0, 0, ["alice", "bob"])
    engine.become_ready()
    await gate.enter("alice")
    assert keys == ["alice", "bob"], "a loaded model costs nothing"


async def test_a_request_is_held_no_longer_than_allowed_and_told_the_newest_reason() -> None:
    engine = Engine(ready=False)
    held = await entering(admission(engine, 0.02))
    engine.reason = "cannot start"
    with pytest.raises(EngineUnavailable, match="cannot start"):
        await asyncio.wait_for(held, PATIENCE)


async def test_a_request_whose_time_is_up_when_the_engine_is_ready_goes_in() -> None:
    engine = Engine(ready=False)

    async def too_late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            engine.become_ready()

    gate = Admission(engine.refusal, too_late, 0.01)
    await asyncio.wait_for(gate.enter(), PATIENCE)
    assert gate.in_flight == 1


async def test_a_closed_door_turns_away_with_advice_to_ask_again() -> None:
    gate = admission(Engine(ready=True))
    await gate.enter()
    gate.close()
    with pytest.raises(Draining) as refused:
        await gate.enter()
    assert refused.value.retry_after_seconds == 1
    assert gate.in_flight == 1


async def test_a_closed_door_says_so_and_not_that_the_engine_is_loading() -> None:
    gate = admission(Engine(ready=False), HOLD_SECONDS)
    gate.close()
    with pytest.raises(Draining):
        await asyncio.wait_for(gate.enter(), PATIENCE)


async def test_closing_turns_away_those_that_are_held() -> None:
    gate = admission(Engine(ready=False), HOLD_SECONDS)
    held = [await entering(gate) for _ in range(3)]
    gate.close()
    results = await asyncio.wait_for(asyncio.gather(*held, return_exceptions=True), PATIENCE)
    assert [type(result) for result in results] == [Draining] * 3
    assert gate.in_flight == 0


async def test_a_client_that_leaves_is_held_no_longer() -> None:
    told: list[Callable[[RequestFailure], None] | None] = []
    engine = Engine(ready=False)
    gate = admission(engine, HOLD_SECONDS)
    held = await entering(gate, told.append)
    (leave,) = told
    assert leave is not None
    leave(ClientClosed("gone"))
    with pytest.raises(ClientClosed):
        await asyncio.wait_for(held, PATIENCE)
    assert told[-1] is None, "its watch has ended"
    engine.become_ready()
    await gate.enter()
    assert gate.in_flight == 1


async def test_a_client_that_has_left_before_it_is_held_is_not_held() -> None:
    def gone(leave: Callable[[RequestFailure], None] | None) -> None:
        if leave is not None:
            leave(ClientClosed("gone"))

    held = await entering(admission(Engine(ready=False), HOLD_SECONDS), gone)
    with pytest.raises(ClientClosed):
        await asyncio.wait_for(held, PATIENCE)


async def test_a_client_that_leaves_while_held_leaves_nothing_behind() -> None:
    engine = Engine(ready=False)
    gate = admission(engine, HOLD_SECONDS)
    held = await entering(gate)
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    gate.close()
    assert await gate.wait_idle(PATIENCE)


async def test_a_request_that_finds_no_engine_is_held_until_the_next_one_is_ready() -> None:
    """The engine died a moment ago, and its state does not say so yet."""
    engine = Engine(ready=True)
    gate = admission(engine, HOLD_SECONDS)
    await gate.enter()
    held = asyncio.ensure_future(gate.hold_again())
    await asyncio.sleep(0.05)
    assert not held.done()
    engine.become_unready()
    await asyncio.sleep(0.05)
    assert not held.done()
    engine.become_ready()
    assert await asyncio.wait_for(held, PATIENCE) > 0
    assert gate.in_flight == 1


def test_without_holding_a_request_that_finds_no_engine_is_not_held() -> None:
    assert not admission(Engine(ready=True)).holds
    assert admission(Engine(ready=True), HOLD_SECONDS).holds


async def test_the_house_is_empty_when_the_last_one_has_left() -> None:
    gate = admission(Engine(ready=True))
    assert await gate.wait_idle(PATIENCE)
    await gate.enter()
    await gate.enter()
    idle = asyncio.create_task(gate.wait_idle(PATIENCE))
    gate.leave()
    await asyncio.sleep(0)
    assert not idle.done()
    gate.leave()
    assert await idle
    assert gate.in_flight == 0


async def test_nobody_is_held_for_an_engine_that_was_given_up() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    gate = Admission(lambda: EngineFailed("The engine cannot start."), never, hold_seconds=120)
    with pytest.raises(EngineFailed):
        await asyncio.wait_for(gate.enter(), PATIENCE)


async def test_a_held_request_is_refused_as_soon_as_the_engine_is_given_up() -> None:
    given_up = asyncio.Event()

    async def settled() -> None:
        await given_up.wait()

    def refusal() -> EngineUnavailable:
        return EngineFailed("never") if given_up.is_set() else EngineUnavailable("loading")

    gate = Admission(refusal, settled, HOLD_SECONDS)
    held = await entering(gate)
    given_up.set()
    with pytest.raises(EngineFailed):
        await asyncio.wait_for(held, PATIENCE)
    assert not gate.in_flight


async def test_who_is_still_inside_after_the_drain_is_counted_as_cut() -> None:
    gate = admission(Engine(ready=True))
    for _ in range(4):
        await gate.enter()
    gate.leave()
    gate.reset_drain_counters()
    gate.leave()
    gate.close()
    assert await gate.wait_idle(0.01) is False
    for _ in range(2):
        gate.leave()
    assert gate.drained == (1, 2)


async def test_who_was_cut_by_a_reload_is_not_counted_at_the_end() -> None:
    gate = admission(Engine(ready=True))
    for _ in range(2):
        await gate.enter()
    assert await gate.wait_idle(0) is False
    for _ in range(2):
        gate.leave()
    gate.reset_drain_counters()
    assert gate.drained == (0, 0)


async def test_in_a_hurry_nobody_is_waited_for() -> None:
    gate = admission(Engine(ready=True))
    await gate.enter()
    gate.close()
    idle = asyncio.create_task(gate.wait_idle(120))
    await asyncio.sleep(0)
    gate.cut_now()
    assert await asyncio.wait_for(idle, PATIENCE) is False
    assert await gate.wait_idle(120) is False, "nor later"
    gate.leave()
    assert gate.drained == (0, 1)
