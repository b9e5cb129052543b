"""A machine that is not there: two GPUs, the engines on them, and the files of their models.

For pools, models and engines that are real, on the loop of `simulated.py`. It checks at each start
and wake that there is room, and that nothing else starts there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from unittest.mock import AsyncMock

import pytest

from proxy.engine.history import Footprint
from proxy.engine.phase import Phase
from proxy.engine.server import Command, Progress, SleepFailed, WakeFailed
from proxy.engine.state import EngineState
from proxy.errors import Cause, EngineFailure
from proxy.machine.hardware import Gpu, Hardware
from proxy.machine.memory import DeviceMemory
from proxy.pool.scheduler import Scheduler
from proxy.settings import Settings
from tests.proxy.pool.simulated import fatal, now

GPUS = (0, 1)
GPU_BYTES = 10


class FakeMachine:
    """`draw` decides what is left to chance: what each model is like, and when it fails."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.servers: dict[str, FakeServer] = {}
        self.processes: dict[str, FakeProcess] = {}
        self.holders: list[FakeProcess] = []
        """Whose memory is not given back yet."""

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put it and the simulated clock in the place of the real ones."""

        async def to_thread(function: Callable[..., object], *arguments: object) -> object:
            return function(*arguments)

        async def start(argv: tuple[str, ...], environ: object) -> FakeProcess:
            return FakeProcess(self.servers[argv[0]])

        replaced = {
            "pool.memory.gpu_memory": self.read_memory,
            "pool.model.VllmServer": partial(FakeServer, self),
            "pool.pool.Scheduler": partial(Scheduler, clock=now),
            "pool.pool.check_disk_for_all": AsyncMock(return_value=None),
            "engine.lifecycle.Process.start": start,
            "engine.wedge._LOOK_SECONDS": 60.0,
            "vllm.probe.Probe.model_entries": AsyncMock(return_value={"entry": b""}),
            "vllm.engine_meter.EngineMeter.run": AsyncMock(),
        }
        for name in ("pool.memory", "pool.model", "pool.pool", "access.admission"):
            replaced[f"{name}.monotonic"] = now
        for name in ("restarts", "state", "wedge"):
            replaced[f"engine.{name}.monotonic"] = now
        for name, value in replaced.items():
            monkeypatch.setattr(f"proxy.{name}", value)
        monkeypatch.setattr(asyncio, "to_thread", to_thread)

    def read_memory(self, gpus: Iterable[int] | None) -> dict[int, DeviceMemory]:
        def used(gpu: int) -> int:
            return sum(each.taken for each in self.holders if gpu in each.server.gpus)

        return {gpu: DeviceMemory(used(gpu), GPU_BYTES) for gpu in gpus or GPUS}


class FakeProcess:
    """An engine; it holds its memory from its start to a moment after its end."""

    def __init__(self, server: FakeServer) -> None:
        self.server, self.machine, self.pid = server, server.machine, id(self)
        self.ready_at = now() + server.load_seconds
        self.is_awake, self.died = True, asyncio.Event()
        with fatal():
            assert server.process is None, f"{server.name} has two engines"
        self.take_memory()
        self.machine.processes[server.name] = self
        self.machine.holders.append(self)
        if self.machine.draw.random() < server.start_fails:
            asyncio.get_running_loop().call_later(server.load_seconds / 2, self.end)

    def take_memory(self) -> None:
        """As it starts, or wakes."""
        server = self.server
        for gpu in server.gpus:
            others = [each for each in self.machine.holders if gpu in each.server.gpus]
            others = [each for each in others if each is not self]
            if server.footprint is None:  # never measured, it takes what there is
                left = max(0, GPU_BYTES - sum(each.taken for each in others))
                server.bytes = min(server.bytes, left)
                server.asleep_bytes = min(server.asleep_bytes, left)
            running = [each for each in others if not each.died.is_set()]
            taken = server.bytes + sum(each.taken for each in running)
            with fatal():
                assert taken <= GPU_BYTES, f"{server.name} has no room"
                assert all(each.ready_at <= now() for each in running), "two start on one GPU"

    @property
    def taken(self) -> int:
        return self.server.bytes if self.is_awake else self.server.asleep_bytes

    async def lines(self) -> AsyncIterator[bytes]:
        yield b"a line"
        await self.died.wait()

    async def wait(self) -> int:
        await self.died.wait()
        return -9

    async def stop(self, grace_seconds: float) -> None:
        await asyncio.sleep(0.3 if grace_seconds else 0.05)
        self.end()

    def end(self) -> None:
        if not self.died.is_set():
            self.died.set()
            del self.machine.processes[self.server.name]
            asyncio.get_running_loop().call_later(0.2, self.machine.holders.remove, self)


class FakeServer:
    """What a model has of its server, its probe, its output and its sizing: all in one."""

    sizing: FakeServer | None = None
    kv_cache_bytes, share, progress = 0, None, Progress(Phase.LOADING)

    def __init__(
        self, machine: FakeMachine, settings: Settings, state: EngineState, *_: object
    ) -> None:
        draw = machine.draw
        self.machine, self.state, self.name = machine, state, state.model or ""
        self.hardware, self.probe = Hardware(), self
        self.sleeper = draw.choice([FakeSleeper(self), FakeSleeper(self), None])
        self.gpus = GPUS if settings.tensor_parallel_size > 1 else (draw.choice(GPUS),)
        self.bytes, self.asleep_bytes = draw.choice([3, 5, 6, 9, 10]), draw.choice([1, 2])
        self.footprint = draw.choice([None, Footprint(self.bytes)])
        self.load_seconds, self.fetch_seconds = draw.choice([2, 10, 40]), draw.choice([0.1, 5, 60])
        self.hub_fails, self.start_fails = draw.choice([0, 0.5]), draw.choice([0, 0, 0.3])
        """How often."""
        machine.servers[self.name] = self

    async def prepare(self) -> str:
        if self.state.snapshot.phase is not Phase.CHECKING:
            self.state.enter(Phase.CHECKING)
        await asyncio.sleep(0.1)
        self.hardware = Hardware(tuple(Gpu("GPU", GPU_BYTES, index) for index in self.gpus))
        if self.machine.draw.random() < self.hub_fails:
            raise EngineFailure(Cause.UNKNOWN, "The hub fails.", permanent=False)
        self.sizing = self
        self.state.enter(Phase.DOWNLOADING)
        await asyncio.sleep(self.fetch_seconds)
        self.state.update(model_path="/model")
        return self.name

    def command(self) -> Command:
        return Command((self.name,), {})

    def new_output(self) -> FakeServer:
        return self

    def diagnose(self, *_: object, **__: object) -> EngineFailure:
        return EngineFailure(Cause.CRASHED, "It has died.", permanent=False)

    def ignore(self, *_: object) -> None: ...

    take = flush = expect_end = close = keep_asleep = ignore

    async def healthy(self) -> bool:
        return self.process is not None and now() >= self.process.ready_at

    @property
    def process(self) -> FakeProcess | None:
        return self.machine.processes.get(self.name)

    @property
    def needed_bytes(self) -> int | None:
        return None if self.footprint is None else self.footprint.device_bytes

    def keep(self, device_bytes: int, _: int | None) -> None:
        with fatal():
            assert device_bytes == self.bytes, f"{self.name} is measured wrongly"
        self.footprint = Footprint(device_bytes)


class FakeSleeper:
    may_sleep = False

    def __init__(self, server: FakeServer) -> None:
        self.server = server

    def obstacle(self) -> None: ...

    async def prepare(self, _: str) -> None:
        self.may_sleep = True

    async def sleep(self) -> None:
        await asyncio.sleep(0.5)
        process = self.server.process
        if process is None or self.server.machine.draw.random() < 0.1:
            raise SleepFailed("It does not sleep.")
        process.is_awake = False

    async def wake(self, _: str) -> None:
        process = self.server.process
        if process is None or self.server.machine.draw.random() < 0.1:
            self.may_sleep = False
            raise WakeFailed("It says something else.")
        process.take_memory()
        process.is_awake = True
        await asyncio.sleep(1)
