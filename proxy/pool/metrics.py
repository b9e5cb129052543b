"""What the scheduler does, in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum

from proxy.pool.plan import Action, ModelState, ModelView, Reason
from proxy.pool.scheduler import Outcome, Transition
from proxy.telemetry import catalogue
from proxy.telemetry.family import Families


class LoadKind(StrEnum):
    COLD = "cold"
    WAKE = "wake"
    """From sleep."""


# Why a model may be unloaded.
EVICTIONS = (Reason.MAKE_ROOM, Reason.IDLE, Reason.ORDERED, Reason.ABANDONED)


def memory_of(views: Iterable[ModelView]) -> Iterator[tuple[tuple[str, str], float]]:
    """Bytes by model and GPU; on a CPU the GPU is an empty name."""
    for view in views:
        if view.memory_bytes is not None:
            taken = float((view.taken_bytes or 0) if view.holds_memory else 0)
            for gpu in view.gpus or ("",):
                yield (view.name, str(gpu)), taken


class TransitionMetrics:
    """An observer of the scheduler: it counts each transition that has ended."""

    def __init__(self, families: Families) -> None:
        self._families = families

    def add_model(self, name: str, kinds: Iterable[LoadKind] = (LoadKind.COLD,)) -> None:
        """All its series from now on: a rate needs the 0 before the 1. `kinds`: how it may be
        loaded."""
        for kind in kinds:
            self._families[catalogue.MODEL_LOAD_SECONDS].child(name, kind)
            for outcome in Outcome:
                self._families[catalogue.MODEL_LOADS].child(name, kind, outcome)
        for reason in EVICTIONS:
            self._families[catalogue.MODEL_EVICTIONS].child(name, reason)
        if name:  # with one model nothing tells that wait from any other
            self._families[catalogue.MODEL_WAIT].child(name)

    def __call__(self, transition: Transition) -> None:
        step, outcome = transition.step, transition.outcome
        name = step.model.name
        if step.action is not Action.LOAD:
            self._families[catalogue.MODEL_EVICTIONS].child(name, step.reason).value += 1
            return
        kind = LoadKind.WAKE if step.model.state is ModelState.ASLEEP else LoadKind.COLD
        self._families[catalogue.MODEL_LOADS].child(name, kind, outcome).value += 1
        if outcome is Outcome.OK:
            seconds = self._families[catalogue.MODEL_LOAD_SECONDS].child(name, kind)
            seconds.observe(transition.seconds)
