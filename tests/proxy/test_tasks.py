"""Background tasks live until they end, and do not fail in silence."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from proxy.tasks import running, spawn


async def test_a_task_that_nobody_holds_runs_to_its_end() -> None:
    done = asyncio.Event()

    async def work() -> None:
        # Nothing but the task itself holds what it waits for: a cycle that could be collected.
        for _ in range(3):
            await asyncio.sleep(0)
        done.set()

    before = running()
    spawn(work(), name="work")
    assert running() == before + 1
    gc.collect()
    await asyncio.wait_for(done.wait(), 1)
    await asyncio.sleep(0)
    assert running() == before


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
    before = running()
    task = spawn(asyncio.sleep(60), name="watch")
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert not caplog.records
    assert running() == before
