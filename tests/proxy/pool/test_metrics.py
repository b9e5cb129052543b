"""What the scheduler does is counted, by names and words that are known from the start."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxy.pool.metrics import EVICTIONS, LoadKind, TransitionMetrics, memory_of
from proxy.pool.plan import Action, ModelState, Reason, Step
from proxy.pool.scheduler import Outcome, Scheduler, Transition
from proxy.telemetry.gauges import STATES
from proxy.telemetry.metrics import Metrics
from tests.proxy.pool.simulated import FakeModel, Pod, now, simulated


class CountedPod(Pod):
    """A pod whose transitions are also counted."""

    def __init__(self, *models: FakeModel) -> None:
        super().__init__(*models)
        self.metrics = Metrics()
        count = TransitionMetrics(self.metrics.families)
        for model in models:
            count.add_model(model.name)
        self.scheduler = Scheduler(lambda: models, lambda: self.budget, [count], "a", now)
        for model in models:
            model.changed = self.scheduler.notify

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"sidecar_model_{name}", labels)


@simulated
async def test_a_swap_is_two_loads_and_an_eviction() -> None:
    a, b = FakeModel("a", load_seconds=15), FakeModel("b", load_seconds=30)
    async with CountedPod(a, b) as pod:
        await a.request(1)
        await asyncio.sleep(60)
        await b.request(1)
        for name, seconds in (("a", 15), ("b", 30)):
            loaded = {"model": name, "kind": "cold"}
            assert pod.value("loads_total", **loaded, outcome="ok") == 1
            assert pod.value("load_seconds_sum", **loaded) == pytest.approx(seconds)
        assert pod.value("evictions_total", model="a", reason="make_room") == 1
        assert pod.value("evictions_total", model="b", reason="make_room") == 0


@simulated
async def test_a_load_that_fails_is_counted_and_its_time_is_not_that_of_a_load() -> None:
    a = FakeModel("a", failures=1)
    async with CountedPod(a) as pod:
        await asyncio.sleep(20)
        assert pod.value("loads_total", model="a", kind="cold", outcome="failed") == 1
        assert pod.value("loads_total", model="a", kind="cold", outcome="ok") == 0
        assert pod.value("load_seconds_count", model="a", kind="cold") == 0


@simulated
async def test_a_load_that_gives_way_is_abandoned() -> None:
    a, b = FakeModel("a", load_seconds=100), FakeModel("b")
    async with CountedPod(a, b) as pod:
        await asyncio.sleep(1)
        pod.scheduler.order_unload("a")
        await b.request(1)
        assert pod.value("loads_total", model="a", kind="cold", outcome="abandoned") == 1
        assert pod.value("evictions_total", model="a", reason="ordered") == 1


def test_a_model_that_slept_is_woken() -> None:
    metrics = Metrics()
    view = replace(FakeModel("a").view, state=ModelState.ASLEEP)
    step = Step(Action.LOAD, view, Reason.REQUESTED)
    TransitionMetrics(metrics.families)(Transition(step, Outcome.OK, 2.0))
    name = "sidecar_model_load_seconds_sum"
    assert metrics.registry.get_sample_value(name, {"model": "a", "kind": "wake"}) == 2


def test_every_series_of_a_model_is_there_before_the_first_transition() -> None:
    metrics = Metrics()
    TransitionMetrics(metrics.families).add_model("a", LoadKind)

    def labelled(name: str, label: str) -> set[str]:
        families = metrics.registry.collect()
        samples = [each for family in families for each in family.samples if each.name == name]
        assert all(each.value == 0 for each in samples)
        assert {each.labels["model"] for each in samples} == {"a"}
        return {each.labels[label] for each in samples}

    assert labelled("sidecar_model_loads_total", "kind") == set(LoadKind)
    assert labelled("sidecar_model_loads_total", "outcome") == set(Outcome)
    assert labelled("sidecar_model_load_seconds_count", "kind") == set(LoadKind)
    assert labelled("sidecar_model_evictions_total", "reason") == set(EVICTIONS)
    assert labelled("sidecar_model_wait_seconds_count", "model") == {"a"}


def test_a_model_of_a_set_of_one_has_no_name() -> None:
    metrics = Metrics()
    TransitionMetrics(metrics.families).add_model("")
    labels = {"kind": "cold", "outcome": "ok"}
    assert metrics.registry.get_sample_value("sidecar_model_loads_total", labels) == 0


def test_memory_is_what_was_measured_of_those_that_are_loaded() -> None:
    ready = replace(FakeModel("a", gpus=(0, 1)).view, state=ModelState.READY)
    unloaded = FakeModel("b", gpus=(1,)).view
    never_measured = replace(ready, name="c", memory_bytes=None)
    on_a_cpu = replace(ready, name="d", gpus=())
    asleep = replace(unloaded, name="e", state=ModelState.ASLEEP, asleep_bytes=2)
    assert dict(memory_of([ready, unloaded, never_measured, on_a_cpu, asleep])) == {
        ("a", "0"): 10,
        ("a", "1"): 10,
        ("b", "1"): 0,
        ("d", ""): 10,
        ("e", "1"): 2,
    }


def test_the_states_are_those_of_the_plan() -> None:
    assert set(STATES) == set(ModelState)
