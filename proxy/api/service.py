"""What the sidecar's own endpoints may look at: snapshots and settings, nothing to act on."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic

from proxy.engine.phase import Phase
from proxy.engine.state import EngineState, Snapshot
from proxy.pool.pool import ModelPool
from proxy.settings import Settings
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.recent import Recent

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
        return self.phase is Phase.READY

    @property
    def model(self) -> str | None:
        """The name that stands in answers; None until it is known."""
        return next(iter(self.snapshot.served_names), None)

    @property
    def uptime_seconds(self) -> float:
        return monotonic() - self.started
