"""A set of several models, from outside its engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import httpx
import pytest
from starlette.applications import Starlette

from proxy.access.admission import Admission, WaitingRoom
from proxy.api.health import health_routes
from proxy.api.service import Service
from proxy.engine.phase import Phase
from proxy.engine.supervisor import Supervisor
from proxy.errors import EngineUnavailable, EngineUnreachable, ModelNotFound
from proxy.machine.hardware import Gpu, Hardware
from proxy.pool import model as model_module
from proxy.pool import pool as pool_module
from proxy.pool.memory import PoolMemory
from proxy.pool.model import ServedModel
from proxy.pool.plan import Budget
from proxy.pool.pool import ModelPool
from proxy.pool.scheduler import Scheduler
from proxy.preflight.finding import Finding, Result
from proxy.settings import Settings
from proxy.telemetry.metrics import Metrics
from tests.patience import PATIENCE

DRAIN_SECONDS = 3600.0
ENVIRON = {"UPSTREAM_URL": "http://127.0.0.1:9", "DRAIN_SECONDS": str(DRAIN_SECONDS)}

OWN_ENGINE = {"upstream_url": None}


def a_model(name: str) -> ServedModel:
    return ServedModel(Settings.load(ENVIRON), WaitingRoom(), (name,))


async def test_a_request_that_is_cut_is_not_waited_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = a_model("one"), a_model("other")
    pool = ModelPool([one, other], Admission())

    async def stop() -> None:  # as an engine winds down
        await one.admission.wait_idle(DRAIN_SECONDS)

    monkeypatch.setattr(one.engine, "stop", stop)
    for phase in (Phase.LOADING, Phase.WARMING, Phase.READY):
        one.state.enter(phase)
    await pool.admission.enter()
    await one.admission.enter()
    stopping = asyncio.ensure_future(pool.stop())
    await asyncio.sleep(0)
    pool.admission.cut_now()
    await asyncio.wait_for(stopping, PATIENCE)
    await pool.close_clients()


async def test_a_model_that_would_not_sleep_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its engine still runs where its weights do not fit the machine's memory."""
    model, ended = ServedModel(Settings.load({}), WaitingRoom(), ("one",)), []

    async def refuse() -> bool:
        return False

    async def stop() -> None:
        ended.append(model.name)

    monkeypatch.setattr(model.engine, "sleep", refuse)
    monkeypatch.setattr(model.engine, "stop", stop)
    assert not await model.sleep()
    assert ended == ["one"]


class FakeEngine(Supervisor):
    """The engine of one model: its files come at once, when they are told to, or never."""

    def __init__(self, model: ServedModel, *, has_files: bool = True, hangs: bool = False) -> None:
        super().__init__()
        self._model = model
        self._has_files = has_files
        self.files_come = asyncio.Event()
        if not hangs:
            self.files_come.set()

    async def _run(self) -> None:
        state = self._model.state
        if not self._has_files:
            state.enter(Phase.RESTARTING, reason="the hub does not answer")
            await asyncio.Event().wait()
        if not self._model.is_here:
            if state.snapshot.phase is not Phase.CHECKING:
                state.enter(Phase.CHECKING)
            state.enter(Phase.DOWNLOADING)
            await self.files_come.wait()
            state.update(model_path="/model")
        if self._fetches_only or not await self._model.wait_for_turn():
            state.enter(Phase.STOPPED)
            return
        for phase in (Phase.LOADING, Phase.WARMING, Phase.READY):
            state.enter(phase)
        await asyncio.Event().wait()

    async def _wind_down(self) -> None:
        self._model.state.enter(Phase.DRAINING)
        self._model.state.enter(Phase.STOPPED)


@asynccontextmanager
async def running(pool: ModelPool) -> AsyncIterator[None]:
    pool.start()
    try:
        yield
    finally:
        pool.admission.cut_now()
        await pool.stop()
        await pool.close_clients()


@pytest.mark.parametrize("without_files", ["default", "second"])
async def test_a_model_whose_files_do_not_come_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, without_files: str
) -> None:
    models = [a_model(name) for name in ("default", "second", "third")]
    monkeypatch.setattr(ServedModel, "memory_bytes", 0)
    for model in models:
        engine = FakeEngine(model, has_files=model.name != without_files)
        monkeypatch.setattr(model, "engine", engine)
        monkeypatch.setattr(model.settings, "__dict__", model.settings.__dict__ | OWN_ENGINE)
    pool = ModelPool(models, Admission())
    async with running(pool):
        await asyncio.wait_for(models[2].state.wait_until_settled(), PATIENCE)
        assert models[2].state.snapshot.ready


def with_engine(monkeypatch: pytest.MonkeyPatch, name: str, *, hangs: bool = False) -> ServedModel:
    """A model with an engine of its own, whose files never come if it `hangs`."""
    model = a_model(name)
    monkeypatch.setattr(model.settings, "__dict__", model.settings.__dict__ | OWN_ENGINE)
    model.engine = FakeEngine(model, hangs=hangs)
    return model


@pytest.mark.parametrize("ticks", [0, 1])
async def test_a_default_that_is_exchanged_while_it_is_fetched_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, ticks: int
) -> None:
    monkeypatch.setattr(ServedModel, "memory_bytes", 0)
    models = [with_engine(monkeypatch, name, hangs=name == "default") for name in ("default", "b")]
    pool = ModelPool(models, Admission())
    async with running(pool):
        for _ in range(ticks):  # its files may not even be asked for yet
            await asyncio.sleep(0)
        new = with_engine(monkeypatch, "new")
        models[0].is_removed = True
        pool.retire(models[0])
        pool.add(new)
        pool.arrange(["new", "b"])
        for model in (new, models[1]):
            await asyncio.wait_for(model.state.wait_until_settled(), PATIENCE)
            assert model.state.snapshot.ready


async def test_a_default_that_is_not_to_be_loaded_holds_up_no_files_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ServedModel, "memory_bytes", 0)
    models = [with_engine(monkeypatch, name) for name in ("default", "other")]
    pool = ModelPool(models, Admission())
    async with running(pool):
        assert pool.scheduler is not None
        pool.scheduler.order_unload("default")
        await asyncio.wait_for(models[1].state.wait_until_settled(), PATIENCE)
        assert not models[0].state.snapshot.ready


async def test_the_files_of_a_failed_model_are_fetched_before_it_has_a_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else others would give way to it for the whole of a download."""
    monkeypatch.setattr(ServedModel, "memory_bytes", 0)
    engine = FakeEngine(model := with_engine(monkeypatch, "one"), hangs=True)
    model.engine = engine
    pool = ModelPool([with_engine(monkeypatch, "default"), model], Admission())
    model.wants_files = False
    model.state.enter(Phase.FAILED)
    async with running(pool):
        assert pool.scheduler is not None
        async with asyncio.timeout(PATIENCE):
            pool.scheduler.order_load("one")
            await asyncio.sleep(0)
            assert engine.is_running
            pool.scheduler.order_load("one")
            assert not model.wants_files, "they are fetched once"
            while model.state.snapshot.phase is not Phase.DOWNLOADING:
                await model.changed()
            await pool.default.state.wait_until_settled()
            assert pool.scheduler.transition("one") is None
            engine.files_come.set()
            await model.state.wait_until_settled()
        assert model.state.snapshot.ready


async def test_a_model_that_is_changed_waits_for_no_download_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ServedModel, "memory_bytes", 0)
    monkeypatch.setattr(ServedModel, "_make_engine", lambda model: FakeEngine(model))
    model = with_engine(monkeypatch, "served")
    pool = ModelPool([model], Admission())
    async with running(pool):
        await asyncio.wait_for(model.state.wait_until_settled(), PATIENCE)
        large = with_engine(monkeypatch, "large", hangs=True)
        pool.add(large)
        while large.state.snapshot.phase is not Phase.DOWNLOADING:
            await large.changed()
        model.adopt(model.settings)
        pool.retire(model)
        assert pool.scheduler is not None
        await asyncio.wait_for(pool.scheduler.until_gone("served"), PATIENCE)
        await asyncio.wait_for(model.state.wait_until_settled(), PATIENCE)
        assert model.state.snapshot.ready
        assert not large.is_here


async def test_the_name_of_a_default_that_a_key_may_not_use_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = a_model("secret")
    monkeypatch.setattr(secret, "may_be_used_by", lambda key: key == "alice")
    pool = ModelPool([secret, a_model("open")], Admission())
    with pytest.raises(ModelNotFound) as failure:
        pool.find(None, "bob")
    assert "secret" not in str(failure.value)
    assert "There is: open." in str(failure.value)
    await pool.close_clients()


@pytest.mark.parametrize(
    "modules", ["sql-lora=/a, chat-lora=/b", '[{"name": "sql-lora", "path": "/a"}]']
)
async def test_an_adapter_is_known_before_its_engine_is_ready(modules: str) -> None:
    settings = Settings.load({**ENVIRON, "LORA_MODULES": modules})
    models = [a_model("one"), ServedModel(settings, WaitingRoom(), ("two",))]
    pool = ModelPool(models, Admission())
    assert pool.find("sql-lora", None) is models[1]
    entry = json.loads(pool.listing(None))["data"][2]
    assert (entry["id"], entry["parent"]) == ("sql-lora", "two")
    with pytest.raises(ModelNotFound, match="There is: one, two, sql-lora"):
        pool.find("other", None)
    await pool.close_clients()


def is_running(model: ServedModel, phase: Phase) -> None:
    for each in dict.fromkeys((Phase.LOADING, Phase.WARMING, Phase.READY, phase)):
        model.state.enter(each)


async def test_an_engine_that_is_late_with_its_list_of_models_is_asked_for_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, lists, is_there = a_model("one"), [{}, {"one": b"{}"}], asyncio.Event()

    async def model_entries() -> dict[str, bytes]:
        entries = lists.pop(0)
        if not lists:
            is_there.set()
        return entries

    monkeypatch.setattr(model_module, "_ENTRIES_SECONDS", 0)
    monkeypatch.setattr(one.probe, "model_entries", model_entries)
    is_running(one, Phase.READY)
    await asyncio.wait_for(is_there.wait(), PATIENCE)
    assert list(one.entries) == ["one"]
    await ModelPool([one], Admission()).close_clients()


async def test_what_is_stored_is_asked_of_an_engine_that_is_degraded_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = models = [a_model("one"), a_model("two")]
    pool = ModelPool(models, Admission())
    is_running(one, Phase.READY)
    is_running(two, Phase.DEGRADED)
    answers: dict[str, bool | None] = {"one": False, "two": True}
    for model in models:

        async def has(path: str, name: str = model.name) -> bool | None:
            return answers[name]

        monkeypatch.setattr(model.probe, "has", has)
    assert await pool.find_stored("/v1/responses/resp_1/cancel", None) is two
    answers["two"] = None
    with pytest.raises(EngineUnreachable, match="two") as silent:
        await pool.find_stored("/v1/responses/resp_1", None)
    assert silent.value.retry_after_seconds
    answers["two"] = False
    with pytest.raises(ModelNotFound, match="gone when it ends"):
        await pool.find_stored("/v1/responses/resp_1", None)
    await pool.close_clients()


async def test_a_sidecar_lives_while_any_of_its_engines_can_be_started() -> None:
    models = [a_model("one"), a_model("two")]
    pool = ModelPool(models, Admission())
    service = Service(Settings.load(ENVIRON), pool, metrics=cast("Metrics", None))
    transport = httpx.ASGITransport(Starlette(routes=health_routes(service)))
    async with httpx.AsyncClient(transport=transport, base_url="http://sidecar") as client:
        for model, status in zip(models, (200, 503), strict=True):
            model.state.enter(Phase.FAILED)
            assert (await client.get("/health/live")).status_code == status
    await pool.close_clients()


async def test_who_is_sent_away_while_its_model_is_waited_for_has_not_finished() -> None:
    one = a_model("one")
    pool = ModelPool([one, a_model("two")], Admission())
    pool.reset_drain_counters()
    for _ in range(3):
        await pool.admission.enter()
    is_running(one, Phase.READY)
    await one.admission.enter()
    one.admission.leave()
    pool.admission.leave()
    pool.admission.leave()  # one that waited for the other model, and was told to come again
    assert not await pool.admission.wait_idle(0)
    await one.admission.enter()
    one.admission.leave()  # it was cut
    pool.admission.leave()
    assert pool.drained == (1, 1)
    await pool.close_clients()


async def test_a_load_is_counted_for_the_key_that_brings_it_about() -> None:
    asked, pinned, counted = a_model("asked"), a_model("pinned"), list[str | None]()
    scheduler = Scheduler(lambda: [asked, pinned], Budget)
    for model in (asked, pinned):
        model.scheduler, model.admit_load = scheduler, counted.append
    for key in ("alice", "alice", "bob"):
        with pytest.raises(EngineUnavailable):  # nothing is held
            await asked.admission.wait_for_engine(key, None)
    assert counted == ["alice"], "once for each load: the others find it ordered"
    pinned.pinned = True
    with pytest.raises(EngineUnavailable):
        await pinned.admission.wait_for_engine("carol", None)
    assert counted == ["alice"], "it is loaded whoever asks for it"
    for model in (asked, pinned):
        await model.clients.close()


async def test_the_memory_of_a_model_that_is_not_loaded_is_not_waited_for() -> None:
    """Where its engine has ended already, as at the end of the sidecar, none comes back."""

    class Memory:
        async def before_stop(self, model: ServedModel) -> None:
            raise AssertionError("there is nothing to read")

        async def after_stop(self, model: ServedModel, before: dict[int, object]) -> None:
            assert before == {}

    model = a_model("one")
    is_running(model, Phase.READY)
    model.state.enter(Phase.DRAINING)
    model.state.enter(Phase.STOPPED)
    model.memory = cast("PoolMemory", Memory())
    await model.unload()
    await model.clients.close()


async def test_a_request_that_waits_for_the_engine_again_keeps_no_model_from_giving_way() -> None:
    """Else each would wait for the other: the request for the next engine, its end for none."""
    model = ServedModel(Settings.load({**ENVIRON, "HOLD_SECONDS": "600"}), WaitingRoom(), ("one",))
    is_running(model, Phase.READY)
    await model.admission.enter()
    model.close()
    assert model.view.is_busy
    waiting = asyncio.ensure_future(model.admission.hold_again())
    await asyncio.sleep(0)
    assert (model.view.in_flight, model.view.waiting) == (0, 1)
    model.reopen()
    await asyncio.wait_for(waiting, PATIENCE)
    assert (model.view.in_flight, model.view.waiting) == (1, 0)
    await model.clients.close()


async def test_a_model_whose_first_start_has_failed_is_measured_at_the_next_one() -> None:
    """Beside one that was never measured no other model is loaded."""
    measured = asyncio.Event()

    class Memory:
        async def after_start(self, model: ServedModel) -> None:
            measured.set()

    model = a_model("one")
    model.memory = cast("PoolMemory", Memory())
    for phase in (Phase.LOADING, Phase.RESTARTING):
        model.state.enter(phase)
    is_running(model, Phase.READY)
    await asyncio.wait_for(measured.wait(), PATIENCE)
    await model.clients.close()


@pytest.mark.parametrize(("parallel", "gpus"), [("1", (3,)), ("2", (3, 1)), ("8", (3, 1, 0))])
async def test_a_model_is_planned_on_the_gpus_that_its_engine_takes(
    parallel: str, gpus: tuple[int, ...]
) -> None:
    settings = Settings.load({**ENVIRON, "TENSOR_PARALLEL_SIZE": parallel})
    model = ServedModel(settings, WaitingRoom(), ("one",))
    assert model.view.gpus == ()
    shown = tuple(Gpu("NVIDIA A40", 48, index) for index in (3, 1, 0))
    model.hardware = lambda: Hardware(shown)
    assert model.view.gpus == gpus, "as NVML has them, in the order in which CUDA shows them"
    await model.clients.close()


async def test_files_that_do_not_fit_are_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[int] = []

    async def check_disk_for_all(models: Sequence[Settings]) -> Finding:
        asked.append(len(models))
        return Finding("disk for all", Result.FAIL, "The files of all need 9 GB.", "Free some.")

    monkeypatch.setattr(pool_module, "check_disk_for_all", check_disk_for_all)
    models = [a_model(name) for name in ("one", "two")]
    for model in models:
        monkeypatch.setattr(model, "engine", FakeEngine(model, has_files=False))
        monkeypatch.setattr(model.settings, "__dict__", model.settings.__dict__ | OWN_ENGINE)
    pool = ModelPool(models, Admission())
    pool.start()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await pool.stop()
    assert asked == [2]
    assert caplog.messages.count("The files of all need 9 GB. Free some.") == 1
    await pool.close_clients()
