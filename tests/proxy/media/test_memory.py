"""One budget of memory for the media of all requests."""

from __future__ import annotations

import asyncio
import random

import pytest

from proxy.media.memory import MediaMemory, Share

MOST = 100


def share(memory: MediaMemory) -> Share:
    return memory.share(10**9)


async def waits(take: asyncio.Task[bool]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return not take.done()


def taking(one: Share, size: int) -> asyncio.Task[bool]:
    return asyncio.ensure_future(one.take(size, 1))


async def test_the_oldest_request_never_waits() -> None:
    memory = MediaMemory(3 * MOST, MOST)
    oldest, second, third = share(memory), share(memory), share(memory)
    assert await second.take(MOST, 1)
    assert await third.take(MOST, 1)
    assert await asyncio.wait_for(oldest.take(MOST, 1), 60)
    assert memory.held == 3 * MOST


async def test_others_wait_until_one_has_given_back_its_share() -> None:
    memory = MediaMemory(2 * MOST, MOST)
    oldest, second, third = share(memory), share(memory), share(memory)
    assert await second.take(MOST, 1)
    take = taking(third, 1)
    assert await waits(take)
    second.close()
    assert await take
    assert await oldest.take(MOST, 1)


async def test_the_next_one_goes_on_when_the_oldest_has_gone() -> None:
    memory = MediaMemory(MOST, MOST)
    oldest, second, third = share(memory), share(memory), share(memory)
    takes = [taking(second, 60), taking(third, 60)]
    assert await waits(takes[0])
    oldest.close()
    assert await takes[0]
    assert await waits(takes[1])
    assert await second.take(40, 1)
    second.close()
    assert await takes[1]


async def test_requests_that_hold_parts_and_wait_for_more_do_not_wait_for_one_another() -> None:
    """Also where the turns to fetch are few: they are given in the order of the requests."""
    memory, turns = MediaMemory(2 * MOST, MOST), asyncio.Semaphore(3)

    async def file(one: Share) -> None:
        async with turns:
            for _ in range(10):
                await one.take(5, 1)
                await asyncio.sleep(0)

    async def request() -> None:
        one = share(memory)
        await asyncio.gather(file(one), file(one))
        one.close()

    async with asyncio.timeout(60):
        await asyncio.gather(*(request() for _ in range(20)))
    assert memory.held == 0


@pytest.mark.parametrize("seed", range(20))
async def test_all_together_never_hold_more_than_there_is_and_all_get_what_they_need(
    seed: int,
) -> None:
    chance = random.Random(seed)
    size = MOST * chance.choice((1, 2, 3, 5))
    memory, most_held, served = MediaMemory(size, MOST), 0, 0

    async def request() -> None:
        nonlocal most_held, served
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
        one = share(memory)
        left = chance.randint(1, MOST)
        try:
            while left:
                piece = chance.randint(1, left)
                await one.take(piece, 1)
                left -= piece
                most_held = max(most_held, memory.held)
                await asyncio.sleep(0)
                if chance.random() < 0.1:
                    return  # it fails
            served += 1
        finally:
            one.close()

    async with asyncio.timeout(60):
        await asyncio.gather(*(request() for _ in range(50)))
    assert most_held <= size
    assert served > 10
    assert memory.held == 0


async def test_what_makes_a_body_too_large_is_not_waited_for() -> None:
    memory = MediaMemory(MOST, MOST)
    oldest, one = share(memory), memory.share(50)
    assert await oldest.take(MOST, 1)
    assert not await one.take(30, 2)
