"""The engine's own gauges: read off its page now and then, and left out where they cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import respx

from proxy.engine.phase import Phase
from proxy.engine.state import EngineState
from proxy.vllm import engine_meter
from proxy.vllm.engine_meter import EngineMeter
from proxy.vllm.probe import Probe
from proxy.vllm.reading import EngineReading, read_engine_page
from tests.patience import PATIENCE

URL = "http://127.0.0.1:8001"
PAGE = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="demo"} 3.0
vllm:num_requests_waiting{engine="0",model_name="demo"} 7.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="demo",reason="capacity"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="demo"} 2.5e-05
"""
SECOND_CORE = b"""\
vllm:num_requests_running{engine="1",model_name="demo"} 1.0
vllm:num_requests_waiting{engine="1",model_name="demo"} 0.0
vllm:kv_cache_usage_perc{engine="1",model_name="demo"} 0.75
"""


def test_the_gauges_are_vllms() -> None:
    assert read_engine_page(PAGE) == EngineReading(3, 7, 2.5e-05)


def test_requests_of_all_cores_are_added_and_the_fullest_cache_counts() -> None:
    assert read_engine_page(PAGE + SECOND_CORE) == EngineReading(4, 7, 0.75)


@pytest.mark.parametrize(
    "page", [b"", b"<html>", b"vllm:num_requests_running{} many\n", b"other_metric 3.0\n"]
)
def test_what_a_page_does_not_say_is_not_made_up(page: bytes) -> None:
    assert read_engine_page(page) == EngineReading()


class Metered:
    """A meter at work and the engine's state."""

    def __init__(self, probe: Probe) -> None:
        self.state = EngineState()
        self.meter = EngineMeter(probe, self.state, every_seconds=0.005)

    async def until(self, expected: EngineReading) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.meter.reading() != expected:  # noqa: ASYNC110
                await asyncio.sleep(0.002)


@asynccontextmanager
async def metered() -> AsyncIterator[Metered]:
    probe = Probe(URL)
    there = Metered(probe)
    task = asyncio.create_task(there.meter.run())
    try:
        yield there
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await probe.close()


@respx.mock(base_url=URL, assert_all_called=False)
async def test_it_is_read_only_while_the_engine_is_up(respx_mock: respx.MockRouter) -> None:
    page = respx_mock.get("/metrics").respond(200, content=PAGE)
    async with metered() as there:
        await asyncio.sleep(0.03)
        assert not page.called
        there.state.enter(Phase.LOADING)
        there.state.enter(Phase.WARMING)
        await there.until(EngineReading(3, 7, 2.5e-05))
        there.state.enter(Phase.RESTARTING)
        assert there.meter.reading() == EngineReading(), "at once"
        await asyncio.sleep(0.02)
        asked = page.call_count
        await asyncio.sleep(0.03)
        assert page.call_count == asked


@respx.mock(base_url=URL)
async def test_a_restarted_engine_does_not_show_the_old_ones_values(
    respx_mock: respx.MockRouter,
) -> None:
    page = respx_mock.get("/metrics").respond(200, content=PAGE)
    async with metered() as there:
        there.state.enter(Phase.READY)
        await there.until(EngineReading(3, 7, 2.5e-05))
        there.state.enter(Phase.RESTARTING)
        await asyncio.sleep(0.02)
        page.mock(side_effect=httpx.ConnectError("not yet"))
        there.state.enter(Phase.WARMING)
        await asyncio.sleep(0.02)
        assert there.meter.reading() == EngineReading()


@respx.mock(base_url=URL)
async def test_a_page_that_does_not_come_leaves_the_old_values_until_they_are_stale(
    respx_mock: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = respx_mock.get("/metrics").respond(200, content=PAGE)
    async with metered() as there:
        there.state.enter(Phase.READY)
        await there.until(EngineReading(3, 7, 2.5e-05))
        page.mock(side_effect=httpx.ReadTimeout("slow"))
        await asyncio.sleep(0.03)
        assert there.meter.reading() != EngineReading()
        page.respond(500, content=b"")
        monkeypatch.setattr(engine_meter, "STALE_SECONDS", 0.01)
        await there.until(EngineReading())
