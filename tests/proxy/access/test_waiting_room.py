"""The waiting room: nobody too many, nobody forgotten, and each key in its turn."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.access import keys
from proxy.access.access_control import AccessControl
from proxy.access.admission import WaitingRoom
from proxy.errors import ClientClosed, Draining, Overloaded, RateLimited, RequestFailure
from proxy.settings import Settings
from tests.patience import PATIENCE

Tell = Callable[[RequestFailure], None]


async def waiting(room: WaitingRoom, key: str | None = None) -> asyncio.Task[None]:
    """One more that waits."""
    assert not room.admit(key)
    task = asyncio.create_task(room.wait(key))
    await asyncio.sleep(0)
    return task


async def served(*tasks: asyncio.Task[None]) -> list[bool]:
    """Which of them have a place by now."""
    for _ in range(3):
        await asyncio.sleep(0)
    return [task.done() and task.exception() is None for task in tasks]


def only(**limits: int) -> Callable[[str | None], int | None]:
    return lambda key: limits.get(key or "")


async def test_without_limits_everybody_has_a_place() -> None:
    room = WaitingRoom()
    assert all(room.admit(key) for key in ("alice", None, "bob") for _ in range(1000))


async def test_nobody_waits_longer_than_told() -> None:
    room = WaitingRoom(1, 3, only(bob=1), max_seconds=0.05)
    assert room.admit("alice")
    carol, dan = await waiting(room, "carol"), await waiting(room, "dan")
    with pytest.raises(Overloaded, match="WAITING_TIMEOUT") as refused:
        await asyncio.wait_for(carol, PATIENCE)
    assert refused.value.retry_after_seconds
    with pytest.raises(Overloaded):
        await asyncio.wait_for(dan, PATIENCE)
    assert room.waiting == 0
    room.leave("alice")
    assert room.admit("alice"), "the place was given to nobody who has left"


@pytest.mark.parametrize(("waiting", "whole", "seconds"), [(9, 5, 5), (5, 9, 5), (60, None, 60)])
def test_nobody_waits_longer_than_a_whole_request_may_take(
    tmp_path: Path, waiting: float, whole: float | None, seconds: float
) -> None:
    environ = {"WAITING_TIMEOUT": str(waiting), "REQUEST_TIMEOUT": str(whole or "")}
    access = AccessControl(Settings.load(environ), tmp_path / "used", lambda labels: None)
    assert access.make_waiting_room().max_seconds == seconds


async def test_who_waited_for_the_own_limit_is_told_of_that_one() -> None:
    room = WaitingRoom(2, 3, only(bob=1), max_seconds=0.05)
    assert room.admit("bob")
    with pytest.raises(RateLimited, match="bob has 1 requests running"):
        await asyncio.wait_for(await waiting(room, "bob"), PATIENCE)
    assert room.admit("alice")


async def test_a_place_that_comes_with_the_end_of_the_time_is_not_lost() -> None:
    room = WaitingRoom(1, 1, max_seconds=0.001)
    for _ in range(50):
        assert room.admit(None)
        waits = await waiting(room)
        await asyncio.sleep(0.001)
        room.leave(None)
        with suppress(Overloaded):
            await asyncio.wait_for(waits, PATIENCE)
            room.leave(None)
        assert room.waiting == 0


async def test_keys_take_turns_however_many_wait_of_one() -> None:
    room = WaitingRoom(1, 100)
    assert room.admit("alice")
    alices = [await waiting(room, "alice") for _ in range(5)]
    bobs = [await waiting(room, "bob") for _ in range(2)]
    carol = await waiting(room, "carol")
    order = []
    left = {f"alice {n}": task for n, task in enumerate(alices)}
    left |= {f"bob {n}": task for n, task in enumerate(bobs)} | {"carol": carol}
    leaving = "alice"
    while left:
        room.leave(leaving)
        await served()
        (name,) = [name for name, task in left.items() if task.done()]
        del left[name]
        order.append(name)
        leaving = name.split()[0]
    assert order == [
        *("alice 0", "bob 0", "carol", "alice 1", "bob 1", "alice 2", "alice 3", "alice 4")
    ]


async def test_a_key_has_no_more_places_than_its_limit_and_keeps_nobody_else_waiting() -> None:
    room = WaitingRoom(3, 10, only(alice=1))
    assert room.admit("alice")
    again = await waiting(room, "alice")
    assert room.admit("bob")
    assert room.admit("bob")
    bob = await waiting(room, "bob")
    room.leave("bob")
    assert await served(again, bob) == [False, True]
    room.leave("alice")
    assert await served(again) == [True]


async def test_a_full_room_says_when_to_come_again() -> None:
    room = WaitingRoom(2, 4)
    assert room.admit(None)
    assert room.admit(None)
    tasks = [await waiting(room) for _ in range(4)]
    with pytest.raises(Overloaded, match="MAX_IN_FLIGHT") as refused:
        await room.wait(None)
    assert refused.value.retry_after_seconds == 3
    room.close(Draining("Bye."))
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_where_nobody_may_wait_a_key_at_its_limit_is_told_so() -> None:
    room = WaitingRoom(None, 0, only(alice=2))
    assert room.admit("alice")
    assert room.admit("alice")
    with pytest.raises(RateLimited, match="alice has 2 requests running"):
        await room.wait("alice")
    assert room.admit("bob")


async def test_one_key_cannot_fill_the_room_for_all() -> None:
    room = WaitingRoom(1, 4)
    assert room.admit("alice")
    alices = [await waiting(room, "alice") for _ in range(4)]
    bob = await waiting(room, "bob")
    await served()
    assert [task.done() for task in alices] == [False, False, False, True], "the newest gives way"
    with pytest.raises(Overloaded):
        await alices[3]
    again = await waiting(room, "bob")
    await served()
    assert alices[2].done()
    with pytest.raises(Overloaded):
        await room.wait("bob")
    with pytest.raises(Overloaded):
        await room.wait("alice")
    assert room.waiting == 4
    for key in ("alice", "alice", "bob", "alice", "bob"):
        room.leave(key)
        await served()
    assert await served(*alices[:2], bob, again) == [True] * 4
    assert isinstance(alices[2].exception(), Overloaded)


async def test_who_leaves_is_dropped_and_costs_no_place() -> None:
    room = WaitingRoom(1, 2)
    assert room.admit(None)
    told: list[Tell | None] = []
    leaver = asyncio.create_task(room.wait(None, told.append))
    await asyncio.sleep(0)
    stayer = await waiting(room)
    (tell,) = told
    assert tell is not None
    tell(ClientClosed("Gone."))
    with pytest.raises(ClientClosed):
        await leaver
    assert told == [tell, None], "the watch has ended"
    assert room.waiting == 1
    room.leave(None)
    assert await served(stayer) == [True]
    room.leave(None)
    assert room.admit(None)


async def test_who_leaves_in_the_moment_of_getting_a_place_gives_it_back() -> None:
    room = WaitingRoom(1, 2)
    assert room.admit(None)
    first, second = await waiting(room), await waiting(room)
    room.leave(None)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await served(second) == [True]


async def test_closing_sends_all_away_and_keeps_the_places() -> None:
    room = WaitingRoom(1, 10)
    assert room.admit("a")
    tasks = [await waiting(room, key) for key in ("a", "b", "b")]
    room.close(Draining("Bye."))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [Draining] * 3
    assert room.waiting == 0
    room.leave("a")
    assert room.admit("b")


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_no_place_is_lost_and_none_given_twice(seed: int) -> None:
    """Hundreds come, wait, leave and are cut off in any order."""
    chance = random.Random(seed)
    places, limits = chance.randint(1, 4), {"alice": 1, "bob": 3}
    room = WaitingRoom(places, chance.randint(0, 6), only(**limits))
    inside: dict[str, int] = {}

    async def one(key: str) -> None:
        if not room.admit(key):
            await room.wait(key)
        inside[key] = inside.get(key, 0) + 1
        assert sum(inside.values()) <= places
        assert inside[key] <= limits.get(key, places)
        try:
            await asyncio.sleep(chance.random() / 1000)
        finally:
            inside[key] -= 1
            room.leave(key)

    tasks = []
    for _ in range(200):
        tasks.append(asyncio.create_task(one(chance.choice(("alice", "bob", "carol")))))
        if chance.random() < 0.3:
            chance.choice(tasks).cancel()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    allowed = (Overloaded, RateLimited, asyncio.CancelledError)
    assert [each for each in results if each is not None and not isinstance(each, allowed)] == []
    assert room.waiting == sum(inside.values()) == 0
    assert all(room.admit("carol") for _ in range(places))
    assert not room.admit("carol")


async def test_more_places_are_given_to_who_waits_and_fewer_send_nobody_away() -> None:
    room = WaitingRoom(1, 3)
    assert room.admit("alice")
    waiting = [asyncio.ensure_future(room.wait("bob")) for _ in range(2)]
    await asyncio.sleep(0)
    room.resize(2)
    await asyncio.sleep(0)
    assert [each.done() for each in waiting] == [True, False]
    room.resize(1)
    room.leave("alice")
    await asyncio.sleep(0)
    assert not waiting[1].done()
    room.resize(None)
    await asyncio.wait_for(waiting[1], PATIENCE)


async def test_who_waits_for_its_keys_limit_has_a_place_once_the_file_of_keys_raises_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "REREAD_SECONDS", 0.01)
    file = tmp_path / "keys"
    file.write_text("alice:sk-1 in_flight=1")
    settings = Settings.load({"API_KEYS_FILE": str(file), "MAX_WAITING": "2"})
    access = AccessControl(settings, tmp_path / "used", lambda labels: None)
    room = access.make_waiting_room()
    assert room.admit("alice")
    first, second = [await waiting(room, "alice") for _ in range(2)]
    access.start()
    file.write_text("alice:sk-1 in_flight=2 ")
    await asyncio.wait_for(first, PATIENCE)
    assert await served(second) == [False]
    file.write_text("alice:sk-1")
    await asyncio.wait_for(second, PATIENCE)
    await access.stop()
