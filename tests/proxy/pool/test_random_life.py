"""What holds whatever happens to the models of a sidecar: a seed draws them, and what happens.

`test_promises.py` plays with the scheduler alone. Here pool, models and engines are real, in
simulated time; files, processes and the memory of two GPUs are not. Whatever happens:

- Each request gets an answer, or a refusal that has a name, in bounded time.
- A model has one engine at a time. No other starts beside its start, and its memory is there.
- No model is given its place before its files are here.
- Once it is quiet nobody waits, no model is on its way to anywhere, and each is loaded by an order
  or tried at least. Only engines that run hold memory; all the rest is known to be free.
- A stop, whenever it comes, ends in bounded time and leaves nothing.
- The log tells of no undeclared transition, and of no fault of ours.

A failure shows its seed, and in the log all that has happened.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from unittest.mock import Mock

import pytest

from proxy.access.admission import Admission, WaitingRoom
from proxy.access.routes import Route
from proxy.errors import EngineDied, EngineUnreachable, ModelConflict
from proxy.pool.model import ServedModel
from proxy.pool.plan import ModelState
from proxy.pool.pool import ModelPool
from proxy.pool.reload import Reload
from proxy.pool.steering import order
from proxy.relay.lifecycle import RequestLifecycle
from proxy.settings import Settings
from proxy.tasks import spawn
from proxy.telemetry.record import Record
from tests.proxy.pool.fake_machine import GPU_BYTES, GPUS, FakeMachine, FakeProcess
from tests.proxy.pool.simulated import now, simulate

_log = logging.getLogger("proxy.life")

_SEEDS = 60
_QUIET_SECONDS = 4000.0
"""By then all downloads, restarts and turns of others are over."""
_STOP_SECONDS = 15.0
_HAPPENINGS = {"ask": 50, "kill": 14, "load": 8, "unload": 6, "pin": 4, "unpin": 3}
_HAPPENINGS |= {"change": 4, "add": 2, "remove": 2}
_ENVIRON = {"DRAIN_SECONDS": "5", "HOLD_SECONDS": "1e6", "REQUEST_TIMEOUT": "0", "WARMUP": "0"}


class Life:
    """Of a sidecar: its models, its requests, and what else happens."""

    def __init__(self, machine: FakeMachine) -> None:
        self._draw, self._machine = machine.draw, machine
        self._is_set = self._draw.random() < 0.8
        self._names = (f"m{number}" for number in range(100))
        count = self._draw.randint(2, 4)
        names = [next(self._names) for _ in range(count)] if self._is_set else [""]
        self._settings = {name: self._new_settings(name) for name in names}
        models = [self._new_model(each) for each in self._settings.values()]
        self._pool = ModelPool(models, Admission() if self._is_set else None)
        assert self._pool.scheduler is not None
        self._scheduler = self._pool.scheduler
        self._requests = RequestLifecycle(self._pool)
        self._reload = Reload(self._pool, Mock(), self._new_model, Mock(), Mock())
        self._clients: list[asyncio.Task[None]] = []

    def _new_settings(self, name: str) -> Settings:
        draw = self._draw
        drawn = {"TENSOR_PARALLEL_SIZE": draw.choice("12"), "MAX_RESTARTS": draw.choice("520")}
        drawn["IDLE_UNLOAD_SECONDS"] = draw.choice(["0", "0", "30"])
        drawn["MAX_LOADED_MODELS"] = draw.choice("4421")
        return Settings.load({**_ENVIRON, **drawn, "SERVED_MODEL_NAME": name})

    def _new_model(self, settings: Settings) -> ServedModel:
        name = settings.environ.get("SERVED_MODEL_NAME")
        room = WaitingRoom(self._draw.choice([None, 1, 2]), 100)
        return ServedModel(settings, room, (name,) if name else ())

    async def run(self) -> None:
        draw = self._draw
        self._pool.start()
        likely = [often * draw.choice([0, 1, 3]) for often in _HAPPENINGS.values()]
        for _ in range(draw.choice([1, 5, 20, 40, 80]) if any(likely) else 0):
            self._happen(draw.choices([*_HAPPENINGS], likely)[0])
            await asyncio.sleep(draw.choice([0, 0, 0.1, 3, 3, 10, 50]))
            await self._take_steps()
        if draw.random() < 0.5:
            await self._rest()
        for name in self._settings:
            self._happen("load", name)
        await self._take_steps()
        await self._stop()

    async def _take_steps(self) -> None:
        """Of what has just begun: what is next comes between two of them."""
        for _ in range(self._draw.randint(0, 2)):
            await asyncio.sleep(0)

    def _happen(self, what: str, name: str | None = None) -> None:
        if name is None:
            running = self._machine.processes if what == "kill" else {}
            name = self._draw.choice([*(running or self._settings)])
        _log.info("at %.2f: %s %s", now(), what, name)
        for view in self._scheduler.views():
            assert view.is_here or view.state is not ModelState.LOADING, f"{view} has no files"
        match what:
            case "ask":
                self._clients.append(spawn(self._ask(name), name="client"))
            case "kill":
                if (process := self._machine.processes.get(name)) is not None:
                    process.end()
            case "change" | "add" | "remove":
                if what == "add" and self._is_set:
                    name = next(self._names)
                self._settings[name] = self._new_settings(name)
                if what == "remove" and len(self._settings) > 1:
                    del self._settings[name]
                if self._draw.random() < 0.3:  # another one is the default
                    names = [*self._settings]
                    self._draw.shuffle(names)
                    self._settings = {each: self._settings[each] for each in names}
                self._reload._apply(self._settings, self._scheduler)  # as a file has them
            case _:
                with suppress(ModelConflict):
                    order(self._pool, self._pool.named(name), what, "ops")

    async def _ask(self, name: str) -> None:
        draw, record = self._draw, Record("POST", "/v1/chat/completions", Route.CHAT, model=name)
        upload_seconds, answer_seconds = draw.choice([0, 0, 3]), draw.choice([1, 20, 60])
        patience, is_deadly = draw.choice([5, 60, None, None]), draw.random() < 0.2

        def connected(model: str) -> FakeProcess:
            if (process := self._machine.processes.get(model)) is None:
                raise EngineUnreachable("There is no engine.", retry_after_seconds=1)
            return process

        async def work() -> None:
            model = self._pool.only or await self._requests.enter(record, Mock())
            await asyncio.sleep(upload_seconds)
            try:
                process = connected(model.name)
            except EngineUnreachable:
                await model.admission.hold_again()
                process = connected(model.name)
            record.sent = now()
            with suppress(TimeoutError):
                async with asyncio.timeout(answer_seconds):
                    await process.died.wait()
                    raise EngineDied("The engine has died.")
            if is_deadly:
                self._happen("kill", model.name)

        async def refuse(failure: Exception) -> None:
            _log.info("at %.2f: %s: %s: %s", now(), name, type(failure).__name__, failure)

        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._requests.run(record, work, refuse)

    async def _rest(self) -> None:
        for each in self._pool:
            self._happen("unpin", each.name)
        await asyncio.sleep(_QUIET_SECONDS)
        self._check_rest()
        for name in self._settings:  # each can be loaded, still
            ordered_at = now()
            self._happen("load", name)
            self._happen("ask", name)
            await asyncio.sleep(_QUIET_SECONDS / 4)
            self._check_rest()
            view = self._pool.named(name).view
            assert view.state is ModelState.READY or view.since > ordered_at, f"{view} is not tried"
        for name in [*self._settings]:  # also while a reload has its engine made anew
            what = self._draw.choice(["load", "unload", "pin"])
            self._happen("change", name)
            await asyncio.sleep(self._draw.choice([0, 0.1, 0.5]))
            ordered_at = now()
            self._happen(what, name)
            await asyncio.sleep(_QUIET_SECONDS / 4)
            view = self._pool.named(name).view
            if what == "unload":
                assert view.state in (ModelState.UNLOADED, ModelState.FAILED), view
            elif what == "load" or view.pinned:
                assert view.state is ModelState.READY or view.since > ordered_at, view
            self._happen("unpin", name)
        self._check_rest()

    def _check_rest(self) -> None:
        views = self._scheduler.views()
        assert all(client.done() for client in self._clients), f"a request waits: {views}"
        for model in self._pool:
            assert model.status not in (ModelState.LOADING, ModelState.UNLOADING), model.view
        for view in views:
            assert view.state not in (ModelState.LOADING, ModelState.UNLOADING), view
            assert not view.is_leaving, view
        assert {view.name for view in views if view.holds_memory} == {*self._machine.processes}
        assert self._pool.budget().memory_bytes == dict.fromkeys(GPUS, GPU_BYTES)
        assert self._pool.idle_seconds() > 0, views

    async def _stop(self) -> None:
        _log.info("at %.2f: stop", now())
        hurry = self._draw.choice([0, 1, 30])
        asyncio.get_running_loop().call_later(hurry, self._pool.admission.cut_now)
        self._pool.admission.close()
        async with asyncio.timeout(_STOP_SECONDS):
            await self._pool.stop()
        self._pool.stop_meters()
        await self._pool.close_clients()
        await asyncio.sleep(_STOP_SECONDS)
        assert not self._machine.holders
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left


@pytest.mark.parametrize("seed", range(_SEEDS))
def test_whatever_happens(
    seed: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine = FakeMachine(random.Random(seed))
    machine.install(monkeypatch)
    caplog.set_level(logging.INFO, "proxy")

    async def live() -> None:
        await Life(machine).run()

    simulate(live())
    errors = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    assert not [each for each in errors if "-> failed after" not in each]
