"""The page of a sidecar that swaps two models; its metrics are real, its models are not."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import generate_latest

from proxy.pool.metrics import TransitionMetrics, memory_of
from proxy.pool.plan import Action, ModelState, ModelView, Reason, Step
from proxy.pool.scheduler import Outcome, Transition
from proxy.telemetry import catalogue
from proxy.telemetry.metrics import Metrics
from tests.monitoring.exporter import GIB


def _model(name: str, state: ModelState) -> ModelView:
    return ModelView(name, state, since=0, gpus=(0,), memory_bytes=30 * GIB)


class SwappingPod:
    """`page` is what it answers, `swap` what happens to it."""

    def __init__(self) -> None:
        self.metrics = Metrics(engines=["one", "two"])
        self.one = _model("one", ModelState.READY)
        self.two = _model("two", ModelState.UNLOADED)
        self._count = TransitionMetrics(self.metrics.families)
        for model in (self.one, self.two):
            self._count.add_model(model.name)
        gauges = self.metrics.gauges
        gauges.models = lambda: [(each.name, each.state) for each in (self.one, self.two)]
        gauges.model_memory = lambda: memory_of([self.one, self.two])
        gauges.waiting = lambda: [("", 0), ("one", 0), ("two", 1)]

    def page(self) -> bytes:
        return generate_latest(self.metrics.registry)

    def swap(self, until_scraped: Callable[[], None]) -> None:
        """The first gives way to the second, for which a request waits."""
        until_scraped()
        self._end(Action.UNLOAD, self.one, Reason.MAKE_ROOM, 0.4)
        self.one = _model("one", ModelState.UNLOADED)
        self.two = _model("two", ModelState.LOADING)
        until_scraped()
        self._end(Action.LOAD, self.two, Reason.REQUESTED, 12.5)
        self.metrics.families[catalogue.MODEL_WAIT].child("two").observe(13.0)
        self.two = _model("two", ModelState.READY)
        until_scraped()

    def _end(self, action: Action, model: ModelView, reason: Reason, seconds: float) -> None:
        self._count(Transition(Step(action, model, reason), Outcome.OK, seconds))
