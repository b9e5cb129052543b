"""The models of one sidecar. One name is a set of one: the same code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import monotonic

from proxy.access.admission import Admission
from proxy.engine.phase import Phase
from proxy.pool.model import ServedModel

_SETTLED = (Phase.READY, Phase.DEGRADED, Phase.FAILED)


class ModelPool:
    """The first model is the default: it answers the requests that name none."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = tuple(models)
        self.default = self._models[0]
        self.only: ServedModel | None = self.default if len(self._models) == 1 else None
        """The model of a set of one: a request is for it, whatever it names."""
        self.admission: Admission = self.default.admission
        """Lets requests into the sidecar, and counts them until they are over."""

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def find(self, name: str | None) -> ServedModel:
        """The model that a request names."""
        return self.default

    def idle_seconds(self) -> float:
        """How long there has been no request, 0 while an engine starts."""
        idle_since = self.admission.idle_since()
        snapshots = [model.state.snapshot for model in self]
        if idle_since is None or any(each.phase not in _SETTLED for each in snapshots):
            return 0.0
        return monotonic() - max(idle_since, *(each.since for each in snapshots))
