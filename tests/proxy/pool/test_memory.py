"""What is measured around the starts of models, on GPUs that are made up."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from proxy.engine.phase import Phase
from proxy.engine.state import EngineState
from proxy.machine.hardware import Gpu, Hardware
from proxy.models.preset_choice import load_settings
from proxy.pool import memory
from proxy.pool.memory import PoolMemory
from proxy.pool.plan import Action, ModelState, ModelView, next_step
from proxy.preflight.sizing import Sizing
from proxy.settings import Settings
from tests.proxy.machine.fake_nvml import GIB, FakeGpu, FakeNvml

A40 = Hardware((Gpu("NVIDIA A40", 48 * GIB),), "580.95")
FOREIGN = 1 * GIB


@dataclass
class FakeTenant:
    """A model whose engine takes and gives back memory of a made-up GPU when it is told to."""

    name: str
    settings: Settings
    gpu: FakeGpu
    kv_cache_bytes: int | None = None
    pid: int | None = None
    gpus: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        self.state = EngineState(self.name)
        self.look()

    def look(self) -> None:
        """As a new process of the sidecar does."""
        self.sizing: Sizing | None = Sizing(self.settings, self.name, A40)

    @property
    def is_loaded(self) -> bool:
        return self.state.snapshot.phase is Phase.READY

    @property
    def view(self) -> ModelView:
        states = {Phase.READY: ModelState.READY, Phase.ASLEEP: ModelState.ASLEEP}
        states[Phase.RESTARTING] = ModelState.LOADING
        state = states.get(self.state.snapshot.phase, ModelState.UNLOADED)
        return ModelView(self.name, state, 0.0, self.gpus, self.needed_bytes)

    async def sleep(self, pool: PoolMemory, given_back: int) -> None:
        self.state.enter(Phase.DRAINING)
        self.gpu.used_bytes -= given_back
        self.state.enter(Phase.ASLEEP)
        await pool.after_sleep(self)

    @property
    def asleep_bytes(self) -> int:
        assert self.sizing is not None
        return self.sizing.asleep_bytes

    @property
    def needed_bytes(self) -> int | None:
        assert self.sizing is not None
        return self.sizing.needed_bytes

    def flags(self) -> tuple[float | None, int | None]:
        """The share and the KV cache of its next start."""
        assert self.sizing is not None
        given = self.sizing.engine_memory
        return given.share, given.kv_cache_bytes

    async def start(self, pool: PoolMemory, taken: int, kv_cache: int | None) -> None:
        await pool.before_start(self)
        self.state.enter(Phase.LOADING)
        self.gpu.used_bytes += taken
        self.kv_cache_bytes = kv_cache
        self.state.enter(Phase.WARMING)
        self.state.enter(Phase.READY)
        await pool.after_start(self)

    async def stop(self, pool: PoolMemory, given_back: int) -> None:
        before = await pool.before_stop(self)
        self.state.enter(Phase.DRAINING)
        self.gpu.used_bytes -= given_back
        self.state.enter(Phase.STOPPED)
        await pool.after_stop(self, before)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu(used_bytes=FOREIGN)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(gpu))
    monkeypatch.setattr(memory, "RELEASE_SECONDS", 0.05)
    monkeypatch.setattr(memory, "_POLL_SECONDS", 0.01)
    return gpu


def tenants(gpu: FakeGpu, home: Path, names: str, **environ: str) -> list[FakeTenant]:
    given = {"MODEL_NAME": names, "HF_HOME": str(home / "hf"), **environ}
    return [FakeTenant(each.model_name or "", each, gpu) for each in load_settings(given).models]


def pool_of(*models: FakeTenant) -> PoolMemory:
    return PoolMemory(models, models[0].settings)


async def test_a_start_is_measured_and_the_next_one_gets_the_same_cache(
    gpu: FakeGpu, tmp_path: Path
) -> None:
    one, other = tenants(gpu, tmp_path, "a/one,a/other")
    pool = pool_of(one, other)
    await pool.look()
    assert (*one.flags(), one.needed_bytes) == (0.95, None, None)  # it has to be alone
    await one.start(pool, 20 * GIB, 12 * GIB)
    one.look()
    assert one.flags() == (0.25, 12 * GIB), "vLLM asks whether the cache alone is free"
    # Its largest batches fill the share that it was started with.
    assert one.needed_bytes == int(0.95 * 48 * GIB)
    assert other.flags() == (0.95, None)
    changed = tenants(gpu, tmp_path, "a/one,a/other", MAX_MODEL_LEN="4096")[0]
    assert changed.flags() == (0.95, None), "other arguments, another size"


async def test_a_model_without_a_cache_takes_what_it_took(gpu: FakeGpu, tmp_path: Path) -> None:
    one, other = tenants(gpu, tmp_path, "a/embed,a/other")
    await one.start(pool_of(one, other), 3 * GIB, 0)
    one.look()
    assert one.needed_bytes == 3 * GIB
    assert one.flags() == (0.001, None)


async def test_without_vllms_lines_it_sizes_its_cache_as_before(
    gpu: FakeGpu, tmp_path: Path
) -> None:
    one, _ = models = tenants(gpu, tmp_path, "a/one,a/other")
    await one.start(pool_of(*models), 20 * GIB, None)
    assert one.needed_bytes == int(0.95 * 48 * GIB)
    assert one.flags() == (0.95, None)


async def test_a_start_is_not_measured_beside_which_another_engine_ends(
    gpu: FakeGpu, tmp_path: Path
) -> None:
    """The difference would be of both."""
    one, other = models = tenants(gpu, tmp_path, "a/one,a/other")
    pool = pool_of(*models)
    await other.start(pool, 5 * GIB, 1 * GIB)
    await pool.before_start(one)
    one.state.enter(Phase.LOADING)
    gpu.used_bytes += 20 * GIB
    other.state.enter(Phase.RESTARTING)
    one.state.enter(Phase.WARMING)
    one.state.enter(Phase.READY)
    await pool.after_start(one)
    one.look()
    assert one.needed_bytes is None


async def test_one_model_keeps_its_arguments_though_it_is_measured(
    gpu: FakeGpu, tmp_path: Path
) -> None:
    (one,) = tenants(gpu, tmp_path, "a/one")
    await one.start(pool_of(one), 45 * GIB, 30 * GIB)
    one.look()
    assert one.flags() == (0.95, None)
    assert one.needed_bytes == int(0.95 * 48 * GIB)


async def test_the_budget_is_what_others_leave_or_what_is_declared(
    gpu: FakeGpu, tmp_path: Path
) -> None:
    one, other = models = tenants(gpu, tmp_path, "a/one,a/other")
    pool = pool_of(*models)
    await pool.look()
    assert pool.budget().memory_bytes == {0: 47 * GIB}
    gpu.used_bytes += 2 * GIB  # somebody else's, come meanwhile
    await one.start(pool, 20 * GIB, 1 * GIB)
    assert pool.budget().memory_bytes == {0: 45 * GIB}
    await other.start(pool, 5 * GIB, 1 * GIB)
    assert pool.budget().memory_bytes == {0: 45 * GIB}, "what is ours is not others'"
    declared = tenants(gpu, tmp_path, "a/one,a/other", MEMORY_BUDGET_GIB="12")
    assert declared[0].flags() == (0.25, None)
    pool = pool_of(*declared)
    await pool.look()
    assert pool.budget().memory_bytes == pool.budget().capacity_bytes == {0: 12 * GIB}


async def test_a_measured_model_is_loaded_again_though_its_gpu_was_not_free_at_the_start(
    gpu: FakeGpu, tmp_path: Path
) -> None:
    """As after a restart of the container, whose memory comes back a moment later."""
    (one,) = tenants(gpu, tmp_path, "a/one")
    await one.start(pool_of(one), 45 * GIB, 30 * GIB)
    (again,) = tenants(gpu, tmp_path, "a/one")
    again.look()
    pool = pool_of(again)
    await pool.look()  # 45 GiB are still held
    assert again.needed_bytes == int(0.95 * 48 * GIB)
    view = replace(again.view, waiting=1, oldest_wait_since=0.0, memory_bytes=again.needed_bytes)
    step = next_step((view,), pool.budget(), 1.0).step
    assert step is not None
    assert step.action is Action.LOAD


async def test_memory_that_does_not_come_back_is_waited_for_and_told(
    gpu: FakeGpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, _ = models = tenants(gpu, tmp_path, "a/one,a/other")
    pool = pool_of(*models)
    await one.start(pool, 20 * GIB, 1 * GIB)
    caplog.clear()
    await one.stop(pool, 19 * GIB)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
    gpu.used_bytes -= 1 * GIB
    one.state.enter(Phase.LOADING)
    one.state.enter(Phase.WARMING)
    one.state.enter(Phase.READY)
    gpu.used_bytes += 20 * GIB
    await one.stop(pool, 5 * GIB)
    assert "GPU 0 still holds memory" in caplog.text
    assert "the end of a/one: 16.0 GiB is used" in caplog.text


async def test_an_engine_that_holds_nothing_any_more_is_not_waited_for(
    gpu: FakeGpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has died, and gives way to another model before it is started again."""
    one, _ = models = tenants(gpu, tmp_path, "a/one,a/other")
    pool = pool_of(*models)
    await one.start(pool, 20 * GIB, 1 * GIB)
    caplog.clear()
    gpu.used_bytes -= 20 * GIB
    one.state.enter(Phase.RESTARTING)
    await one.stop(pool, 0)
    assert "still holds" not in caplog.text


@pytest.mark.parametrize("ends", [Phase.RESTARTING, Phase.FAILED])
@pytest.mark.parametrize("next_one", ["a/one", "a/other"])
async def test_what_a_dead_engine_still_holds_is_neither_others_nor_missing_in_the_next_ones(
    gpu: FakeGpu, tmp_path: Path, ends: Phase, next_one: str
) -> None:
    one, other = models = tenants(gpu, tmp_path, "a/one,a/other")
    pool = pool_of(*models)
    await pool.look()
    await one.start(pool, 20 * GIB, 0)
    assert one.sizing is not None
    one.sizing.forget()
    one.state.enter(ends)
    after = one if next_one == one.name else other
    if ends is Phase.RESTARTING and after is other:
        await one.stop(pool, 0)
    await pool.before_start(after)
    assert pool.budget().memory_bytes == {0: 47 * GIB}
    gpu.used_bytes -= 20 * GIB  # the driver has taken it back
    for phase in (Phase.LOADING, Phase.WARMING, Phase.READY):
        after.state.enter(phase)
    gpu.used_bytes += 30 * GIB
    after.kv_cache_bytes = 0
    await pool.after_start(after)
    assert after.needed_bytes == 30 * GIB
    await after.stop(pool, 30 * GIB)
    gpu.used_bytes += 2 * GIB  # somebody else's
    await pool.before_start(after)
    assert pool.budget().memory_bytes == {0: 45 * GIB}


async def test_what_a_dead_engine_holds_of_its_other_gpu_is_not_others_either(
    gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine has been started on one of its GPUs meanwhile."""
    there = FakeGpu(used_bytes=FOREIGN)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(gpu, there))
    dead, here, other = models = tenants(gpu, tmp_path, "a/dead,a/here,a/other")
    dead.gpus, other.gpus, other.gpu = (0, 1), (1,), there
    pool = pool_of(*models)
    await pool.look()
    await dead.start(pool, 20 * GIB, 0)
    there.used_bytes += 20 * GIB
    dead.state.enter(Phase.FAILED)
    await here.start(pool, 5 * GIB - 20 * GIB, 0)
    await other.start(pool, 5 * GIB - 20 * GIB, 0)
    assert pool.budget().memory_bytes == {0: 47 * GIB, 1: 47 * GIB}
    assert (here.needed_bytes, other.needed_bytes) == (5 * GIB, 5 * GIB)


async def test_beside_an_engine_that_runs_no_restart_is_measured(
    gpu: FakeGpu, tmp_path: Path
) -> None:
    """How much of the memory there the one before still holds cannot be told."""
    one, other = models = tenants(gpu, tmp_path, "a/one,a/other", GPU_MEMORY_UTIL="0.4")
    pool = pool_of(*models)
    await pool.look()
    await other.start(pool, 5 * GIB, 0)
    await pool.before_start(one)
    gpu.used_bytes += 8 * GIB
    for phase in (Phase.LOADING, Phase.RESTARTING):
        one.state.enter(phase)
    await one.start(pool, 10 * GIB - 8 * GIB, 0)
    assert one.sizing is not None
    assert one.sizing.footprint is None
    one.state.enter(Phase.FAILED)  # and holds its memory for a moment yet
    await other.stop(pool, 5 * GIB)
    await pool.before_start(other)
    assert pool.budget().memory_bytes == {0: 47 * GIB}


async def test_a_model_that_fills_the_card_is_told_of_once_with_the_remedy(
    gpu: FakeGpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = models = tenants(gpu, tmp_path, "a/one,a/other")
    pool = pool_of(*models)
    for model in (one, other):
        await model.start(pool, 45 * GIB, 30 * GIB)
        await model.stop(pool, 45 * GIB)
    assert caplog.text.count("set MAX_LOADED_MODELS=2, or GPU_MEMORY_UTIL") == 1


async def test_a_size_that_has_failed_is_forgotten(gpu: FakeGpu, tmp_path: Path) -> None:
    one, _ = models = tenants(gpu, tmp_path, "a/one,a/other")
    await one.start(pool_of(*models), 20 * GIB, 1 * GIB)
    assert one.sizing is not None
    one.sizing.forget()
    one.look()
    assert one.flags() == (0.95, None)


PRESETS = {
    "MODELS_INLINE": json.dumps(
        {"one": {"repository": "a/one", "sleep": "level1"}, "other": {"repository": "a/other"}}
    )
}


async def test_what_a_model_holds_in_its_sleep_is_measured_once_for_each_process(
    gpu: FakeGpu, tmp_path: Path
) -> None:
    one, other = models = tenants(gpu, tmp_path, "one,other", **PRESETS)
    assert (one.asleep_bytes, one.flags()[0]) == (2 * GIB, 0.95), "expected of a GPU of its own"
    assert other.flags() == (0.908, None), "there is room for the one that sleeps"
    pool = pool_of(*models)
    await pool.look()
    await one.start(pool, 44 * GIB, 30 * GIB)
    await one.sleep(pool, 43 * GIB)
    assert one.asleep_bytes == GIB
    await other.start(pool, 40 * GIB, 30 * GIB)
    assert pool.budget().memory_bytes == {0: 47 * GIB}, "what sleeps is not others'"
    await other.stop(pool, 40 * GIB)
    one.state.enter(Phase.WAKING)
    one.state.enter(Phase.READY)
    await one.sleep(pool, 0)
    assert one.asleep_bytes == GIB, "others have come and gone since its start"
    one.look()
    assert one.asleep_bytes == GIB, "the file has it"
    await one.start(pool, 44 * GIB, 30 * GIB)
    one.look()
    assert one.asleep_bytes == GIB


async def test_nothing_is_measured_in_a_sleep_beside_which_another_engine_has_started(
    gpu: FakeGpu, tmp_path: Path
) -> None:
    one, other = models = tenants(gpu, tmp_path, "one,other", **PRESETS)
    pool = pool_of(*models)
    await one.start(pool, 20 * GIB, 1 * GIB)
    await other.start(pool, 5 * GIB, 1 * GIB)
    await one.sleep(pool, 19 * GIB)
    assert one.asleep_bytes == 2 * GIB


async def test_the_end_of_a_model_in_its_sleep_gives_back_too_little_to_wait_for(
    gpu: FakeGpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, _ = models = tenants(gpu, tmp_path, "one,other", **PRESETS)
    pool = pool_of(*models)
    await one.start(pool, 20 * GIB, 1 * GIB)
    await one.sleep(pool, 19 * GIB)
    await one.stop(pool, 1 * GIB)
    assert "still holds" not in caplog.text


async def test_what_an_engine_held_that_ended_in_its_sleep_is_not_others_and_is_measured(
    gpu: FakeGpu, tmp_path: Path
) -> None:
    """Its memory comes back while the next one starts."""
    one, other = models = tenants(gpu, tmp_path, "one,other", **PRESETS)
    pool = pool_of(*models)
    await pool.look()
    await one.start(pool, 20 * GIB, 1 * GIB)
    await one.sleep(pool, 19 * GIB)
    await one.stop(pool, 0)
    await other.start(pool, 5 * GIB - 1 * GIB, 0)
    assert pool.budget().memory_bytes == {0: 47 * GIB}
    assert other.needed_bytes == 5 * GIB
