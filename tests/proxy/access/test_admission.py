"""Who is let in, who waits, who is turned away, and when the house is empty."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from proxy.access.admission import Admission
from proxy.access.waiting_room import Watch
from proxy.errors import (
    ClientClosed,
    Draining,
    EngineFailed,
    EngineUnavailable,
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


async def entering(door: Admission, watch: Watch | None = None) -> asyncio.Task[float]:
    """A request that has come as far as it gets at once."""
    task = asyncio.create_task(door.enter(watch=watch))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


async def test_a_ready_engine_lets_in_at_once() -> None:
    door = admission(Engine(ready=True))
    await door.enter()
    await door.enter()
    assert door.in_flight == 2


async def test_without_holding_a_request_is_refused_at_once_with_the_reason() -> None:
    door = admission(Engine(ready=False))
    with pytest.raises(EngineUnavailable, match="loading"):
        await door.enter()
    assert door.in_flight == 0


async def test_a_held_request_goes_in_as_soon_as_the_engine_is_ready() -> None:
    engine = Engine(ready=False)
    door = admission(engine, HOLD_SECONDS)
    held = await entering(door)
    assert not held.done()
    assert door.in_flight == 0, "what waits is not in flight: a drain need not wait for it"
    engine.become_ready()
    await asyncio.wait_for(held, PATIENCE)
    assert door.in_flight == 1


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

    door = Admission(engine.refusal, too_late, 0.01)
    await asyncio.wait_for(door.enter(), PATIENCE)
    assert door.in_flight == 1


async def test_a_closed_door_turns_away_with_advice_to_ask_again() -> None:
    door = admission(Engine(ready=True))
    await door.enter()
    door.close()
    with pytest.raises(Draining) as refused:
        await door.enter()
    assert refused.value.retry_after_seconds == 1
    assert door.in_flight == 1


async def test_a_closed_door_says_so_and_not_that_the_engine_is_loading() -> None:
    door = admission(Engine(ready=False), HOLD_SECONDS)
    door.close()
    with pytest.raises(Draining):
        await asyncio.wait_for(door.enter(), PATIENCE)


async def test_closing_turns_away_those_that_are_held() -> None:
    door = admission(Engine(ready=False), HOLD_SECONDS)
    held = [await entering(door) for _ in range(3)]
    door.close()
    results = await asyncio.wait_for(asyncio.gather(*held, return_exceptions=True), PATIENCE)
    assert [type(result) for result in results] == [Draining] * 3
    assert door.in_flight == 0


async def test_a_client_that_leaves_is_held_no_longer() -> None:
    told: list[Callable[[RequestFailure], None] | None] = []
    engine = Engine(ready=False)
    door = admission(engine, HOLD_SECONDS)
    held = await entering(door, told.append)
    (leave,) = told
    assert leave is not None
    leave(ClientClosed("gone"))
    with pytest.raises(ClientClosed):
        await asyncio.wait_for(held, PATIENCE)
    assert told[-1] is None, "its watch has ended"
    engine.become_ready()
    await door.enter()
    assert door.in_flight == 1


async def test_a_client_that_has_left_before_it_is_held_is_not_held() -> None:
    def gone(leave: Callable[[RequestFailure], None] | None) -> None:
        if leave is not None:
            leave(ClientClosed("gone"))

    held = await entering(admission(Engine(ready=False), HOLD_SECONDS), gone)
    with pytest.raises(ClientClosed):
        await asyncio.wait_for(held, PATIENCE)


async def test_a_client_that_leaves_while_held_leaves_nothing_behind() -> None:
    engine = Engine(ready=False)
    door = admission(engine, HOLD_SECONDS)
    held = await entering(door)
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    door.close()
    assert await door.emptied(PATIENCE)


async def test_a_request_that_finds_no_engine_is_held_until_the_next_one_is_ready() -> None:
    """The engine died a moment ago, and its state does not say so yet."""
    engine = Engine(ready=True)
    door = admission(engine, HOLD_SECONDS)
    await door.enter()
    held = asyncio.ensure_future(door.hold_again())
    await asyncio.sleep(0.05)
    assert not held.done()
    engine.become_unready()
    await asyncio.sleep(0.05)
    assert not held.done()
    engine.become_ready()
    assert await asyncio.wait_for(held, PATIENCE) > 0
    assert door.in_flight == 1


def test_without_holding_a_request_that_finds_no_engine_is_not_held() -> None:
    assert not admission(Engine(ready=True)).holds
    assert admission(Engine(ready=True), HOLD_SECONDS).holds


async def test_the_house_is_empty_when_the_last_one_has_left() -> None:
    door = admission(Engine(ready=True))
    assert await door.emptied(PATIENCE)
    await door.enter()
    await door.enter()
    emptied = asyncio.create_task(door.emptied(PATIENCE))
    door.leave()
    await asyncio.sleep(0)
    assert not emptied.done()
    door.leave()
    assert await emptied
    assert door.in_flight == 0


async def test_nobody_is_held_for_an_engine_that_was_given_up() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    door = Admission(lambda: EngineFailed("The engine cannot start."), never, hold_seconds=120)
    with pytest.raises(EngineFailed):
        await asyncio.wait_for(door.enter(), PATIENCE)


async def test_who_is_still_inside_after_the_drain_is_counted_as_cut() -> None:
    door = admission(Engine(ready=True))
    for _ in range(4):
        await door.enter()
    door.leave()
    door.count_anew()
    door.leave()
    door.close()
    assert await door.emptied(0.01) is False
    for _ in range(2):
        door.leave()
    assert door.drained == (1, 2)


async def test_in_a_hurry_nobody_is_waited_for() -> None:
    door = admission(Engine(ready=True))
    await door.enter()
    door.close()
    emptied = asyncio.create_task(door.emptied(120))
    await asyncio.sleep(0)
    door.hurry()
    assert await asyncio.wait_for(emptied, PATIENCE) is False
    assert await door.emptied(120) is False, "nor later"
    door.leave()
    assert door.drained == (0, 1)
