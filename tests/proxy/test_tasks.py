"""Background tasks live until they end, and do not fail in silence."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref

import pytest

from proxy.tasks import spawn


async def test_a_task_that_nobody_holds_lives_until_it_ends_and_no_longer() -> None:
    async def work() -> None:
        # A cycle that could be collected: only the task holds what it waits for.
        await asyncio.get_running_loop().create_future()

    task = weakref.ref(spawn(work(), name="work"))
    await asyncio.sleep(0)
    gc.collect()
    living = task()
    assert living is not None
    living.cancel()
    await asyncio.wait({living})
    del living
    await asyncio.sleep(0)
    gc.collect()
    assert task() is None


async def test_a_task_that_fails_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("oops")

    with caplog.at_level(logging.ERROR, "proxy.tasks"):
        await asyncio.wait({spawn(fail(), name="uplink")})
        await asyncio.sleep(0)
    (record,) = caplog.records
    assert record.getMessage() == "background task uplink failed"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


async def test_a_task_that_is_cancelled_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    task = spawn(asyncio.sleep(60), name="watch")
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert not caplog.records
