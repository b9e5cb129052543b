"""What the sidecar's own endpoints may look at: snapshots and settings, nothing to act on."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic

from proxy.engine.phase import Phase
from proxy.engine.state import EngineState, Snapshot
from proxy.pool.model import ServedModel
from proxy.pool.pool import ModelPool
from proxy.settings import Settings
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.recent import Recent

# An engine that someone else runs has not told its model's name yet.
_UNNAMED = "default"
_OVER = (Phase.FAILED, Phase.STOPPED)


@dataclass
class Service:
    """The running sidecar, as its endpoints see it."""

    settings: Settings
    models: ModelPool
    metrics: Metrics
    recent: Recent = field(default_factory=Recent)
    started: float = field(default_factory=monotonic)
    stopping: bool = False

    @property
    def state(self) -> EngineState:
        """That of the default model's engine."""
        return self.models.default.state

    @property
    def snapshot(self) -> Snapshot:
        return self.state.snapshot

    @property
    def phase(self) -> Phase:
        """The engine's phase; a stop that was announced counts before the engine knows of it."""
        phase = self.snapshot.phase
        return Phase.DRAINING if self.stopping and phase not in _OVER else phase

    @property
    def ready(self) -> bool:
        """Requests that come now are served, if need be after a load: that makes no pod bad."""
        return self.phase is Phase.READY or self.is_between_loads

    @property
    def is_between_loads(self) -> bool:
        """The default model is not loaded now, but was, and the next request for it loads it."""
        return not self.stopping and self.models.default.is_between_loads

    @property
    def model(self) -> str | None:
        """The name that stands in answers; None until it is known."""
        return next(iter(self.snapshot.served_names), None)

    def names_of(self, model: ServedModel) -> tuple[str, ...]:
        """The names of a model, those of its requests first; never empty."""
        settings = model.settings
        # Those of a single model are the engine's to tell.
        names = model.names or model.state.snapshot.served_names or settings.served_model_names
        return tuple(dict.fromkeys((*names, settings.short_name or _UNNAMED)))

    @property
    def uptime_seconds(self) -> float:
        return monotonic() - self.started
