"""Engines that give their memory back and take it again, with a server that is not vLLM."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass, field

import pytest

from proxy.engine import lifecycle
from proxy.engine.phase import Phase
from proxy.engine.process import Process
from proxy.engine.server import Sleeper, SleepFailed, WakeFailed
from proxy.errors import Cause
from tests.patience import PATIENCE
from tests.proxy.engine.test_supervisor import Managed, Script, is_running, until

STARTED = [Phase.LOADING, Phase.WARMING, Phase.READY]


@dataclass
class Naps(Sleeper):
    """Does what it is told, unless a failure is set. A sleep takes until `may_sleep`."""

    why_not: str | None = None
    sleep_failure: SleepFailed | None = None
    wake_failure: WakeFailed | None = None
    may_sleep: asyncio.Event = field(default_factory=asyncio.Event)
    prepared: int = 0

    def __post_init__(self) -> None:
        self.may_sleep.set()

    def obstacle(self) -> str | None:
        return self.why_not

    async def prepare(self, model: str) -> None:
        self.prepared += 1

    async def sleep(self) -> None:
        await self.may_sleep.wait()
        if self.sleep_failure is not None:
            raise self.sleep_failure

    async def wake(self, model: str) -> None:
        if self.wake_failure is not None:
            raise self.wake_failure


async def asleep(naps: Naps, **environ: str) -> Managed:
    managed = await ready(naps, **environ)
    assert await managed.engine.sleep()
    assert managed.state.snapshot.phase is Phase.ASLEEP
    return managed


async def on_the_way(phase: Phase) -> tuple[Managed, asyncio.Task[bool]]:
    """One that falls asleep, or sleeps."""
    naps = Naps()
    managed = await ready(naps)
    if phase is Phase.DRAINING:
        naps.may_sleep.clear()
    sleep = asyncio.create_task(managed.engine.sleep())
    await managed.until(phase)
    return managed, sleep


async def ready(naps: Naps | None, **environ: str) -> Managed:
    managed = Managed(Script(naps=naps), None, **environ)
    managed.engine.start()
    await managed.until(Phase.READY)
    return managed


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_HEALTH_POLL_SECONDS", 0.01)


async def test_an_engine_sleeps_and_wakes_in_one_process() -> None:
    naps = Naps()
    managed = await asleep(naps)
    pid = managed.server.pid
    for _ in range(2):
        managed.engine.wake()
        await managed.until(Phase.READY)
        assert await managed.engine.sleep()
    managed.engine.wake()
    await managed.until(Phase.READY)
    assert (managed.server.pid, managed.server.asked, naps.prepared) == (pid, 1, 1)
    nap = [Phase.DRAINING, Phase.ASLEEP, Phase.WAKING, Phase.READY]
    assert managed.phases == STARTED + nap * 3
    assert managed.state.snapshot.restarts == 0
    await managed.engine.stop()
    assert not is_running(pid)


@pytest.mark.parametrize("naps", [None, Naps(why_not="it would not fit")])
async def test_one_that_may_not_sleep_runs_on(naps: Naps | None) -> None:
    managed = await ready(naps)
    assert not await managed.engine.sleep()
    assert managed.phases == STARTED
    await managed.engine.stop()


async def test_a_sleep_that_fails_ends_the_process() -> None:
    managed = await ready(Naps(sleep_failure=SleepFailed("It says that it does not.")))
    pid = managed.server.pid
    assert not await managed.engine.sleep()
    await managed.engine.stop()
    assert managed.state.snapshot.phase is Phase.STOPPED
    assert not is_running(pid)
    managed.engine.start()
    await managed.until(Phase.READY)
    await managed.engine.stop()


async def test_a_sleep_that_fails_needs_no_stop() -> None:
    managed = await ready(Naps(sleep_failure=SleepFailed("It says that it does not.")))
    assert not await managed.engine.sleep()
    await managed.until(Phase.STOPPED)
    assert managed.phases == [*STARTED, Phase.DRAINING, Phase.STOPPED]


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.ASLEEP])
async def test_one_that_dies_in_its_sleep_is_not_started_again(phase: Phase) -> None:
    managed, sleep = await on_the_way(phase)
    os.kill(managed.server.pid, signal.SIGKILL)
    await managed.until(Phase.STOPPED)
    assert await sleep is (phase is Phase.ASLEEP)
    assert Phase.RESTARTING not in managed.phases
    managed.engine.start()
    await managed.until(Phase.READY)
    await managed.engine.stop()


async def test_a_wake_that_fails_is_a_new_start_and_counted() -> None:
    naps = Naps(wake_failure=WakeFailed("It says other things than before."))
    managed = await asleep(naps)
    pid = managed.server.pid
    managed.engine.wake()
    await managed.until(Phase.READY)
    assert managed.phases[-5:] == [Phase.WAKING, Phase.RESTARTING, *STARTED]
    now = managed.state.snapshot
    assert (now.restarts, now.last_restart_cause) == (1, Cause.WAKE_FAILED)
    assert not is_running(pid)
    assert naps.prepared == 2, "a new process has to be known anew"
    await managed.engine.stop()


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.ASLEEP])
async def test_it_is_stopped_in_its_sleep(phase: Phase) -> None:
    managed, sleep = await on_the_way(phase)
    pid = managed.server.pid
    async with asyncio.timeout(PATIENCE):
        await managed.engine.stop()
    assert await sleep is (phase is Phase.ASLEEP)
    assert managed.phases[-1] is Phase.STOPPED
    assert not is_running(pid)


async def test_one_that_dies_before_it_sleeps_is_restarted_and_does_not_sleep() -> None:
    managed = await ready(Naps())
    os.kill(managed.server.pid, signal.SIGKILL)
    await managed.until(Phase.RESTARTING)
    assert not await managed.engine.sleep()
    await managed.until(Phase.READY)
    await managed.engine.stop()


async def test_no_health_is_asked_for_while_it_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    async def healthy(self: Script) -> bool:
        nonlocal asked
        asked += 1
        return bool(self.outputs[-1].lines)

    monkeypatch.setattr(Script, "healthy", healthy)
    managed = await asleep(Naps(), WEDGE_SECONDS="0.03")  # looks every 5 ms
    before = asked
    await asyncio.sleep(0.1)
    assert asked == before
    managed.engine.wake()
    await until(lambda: asked > before)
    await managed.engine.stop()


async def test_an_order_that_comes_while_a_dead_engine_is_cleared_away_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its last request ends before its death is told, and so its place may be given away."""
    managed = await ready(Naps())
    stop = Process.stop
    orders = []

    async def clear_away(process: Process, grace_seconds: float) -> int:
        orders.append(asyncio.ensure_future(managed.engine.sleep()))
        await asyncio.sleep(0)
        return await stop(process, grace_seconds)

    monkeypatch.setattr(Process, "stop", clear_away)
    os.kill(managed.server.pid, signal.SIGKILL)
    await until(lambda: bool(orders))
    assert not await asyncio.wait_for(orders[0], PATIENCE)
    await managed.engine.stop()
