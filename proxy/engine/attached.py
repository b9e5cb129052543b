"""An engine that someone else runs (`UPSTREAM_URL`): watched, warmed, never started."""

from __future__ import annotations

import asyncio
import logging

from proxy.engine.phase import Phase
from proxy.engine.server import ModelsUnknown, ProbeFailed, ServerProbe, WarmUpFailed
from proxy.engine.state import EngineState
from proxy.engine.supervisor import Drained, Supervisor
from proxy.engine.wedge import WedgeWatch, Work
from proxy.settings import Settings

_log = logging.getLogger("proxy.engine")

_POLL_SECONDS = 1.0


class AttachedEngine(Supervisor):
    """Follows the health of an engine whose life is not ours."""

    def __init__(
        self,
        settings: Settings,
        state: EngineState,
        probe: ServerProbe,
        drained: Drained,
        work: Work,
    ) -> None:
        super().__init__(state.model)
        self._settings = settings
        self._state = state
        self._probe = probe
        self._drained = drained
        self._work = work
        self._symptom: str | None = None
        """What shows that it is stuck, until it has generated a token again."""
        self._watch: WedgeWatch | None = None
        """Of an engine that is ready."""

    async def _run(self) -> None:
        self._state.enter(Phase.LOADING, reason=f"waiting for {self._settings.upstream_url}")
        while True:
            try:
                healthy = await self._probe.healthy()
                if not healthy:
                    self._mark_unhealthy("the engine does not answer its health check")
                elif self._state.snapshot.phase is not Phase.READY:
                    await self._on_healthy()
                if self._state.snapshot.phase is Phase.READY and self._watch is not None:
                    self._symptom = await self._watch.look(healthy=healthy)
                    if self._symptom is not None:
                        # It is not ours to restart: it gets no requests until it generates again.
                        reason = f"the engine is stuck: {self._symptom}"
                        self._state.enter(Phase.DEGRADED, reason=reason)
            except Exception as error:
                # A fault of ours must not leave an engine unwatched.
                _log.exception("the sidecar failed to follow the engine")
                self._mark_unhealthy(f"the sidecar failed to follow it: {error}")
            await asyncio.sleep(_POLL_SECONDS)

    def _mark_unhealthy(self, reason: str) -> None:
        if self._state.snapshot.phase in (Phase.WARMING, Phase.READY):
            self._state.enter(Phase.DEGRADED, reason=reason)

    async def _on_healthy(self) -> None:
        """Ready is what has generated a token; until then, why not and what to do."""
        if self._state.snapshot.phase is Phase.LOADING:
            self._state.enter(Phase.WARMING)
        must_generate = self._settings.warmup or self._symptom is not None
        try:
            model = await self._model_name(must_generate)
            if must_generate and await self._probe.warm_up(model) is None:
                if self._symptom is not None:
                    raise WarmUpFailed("it has no route by which it could show that it works")
                _log.warning("the model has no route that could be warmed")
        except ProbeFailed as failure:
            unlisted = isinstance(failure, ModelsUnknown)
            what = "does not list its models" if unlisted else "does not generate"
            reason = f"the engine {what}: {failure}"
            if self._symptom is not None:
                reason = f"the engine is stuck: {self._symptom}; now it {what}: {failure}"
            if reason != self._state.snapshot.reason:
                _log.warning("%s. %s", reason, failure.remedy)
            self._state.update(reason=reason, remedy=failure.remedy)
            return
        self._symptom = None
        self._close_watch()
        limit_seconds = self._settings.wedge_seconds
        self._watch = WedgeWatch(limit_seconds, self._work, self._probe, model)
        self._state.enter(Phase.READY)

    async def _model_name(self, must_generate: bool) -> str:
        """Raises ModelsUnknown where a name is needed and neither side gives one."""
        configured = self._settings.served_model_names
        try:
            listed = await self._probe.served_models()
        except ModelsUnknown as failure:
            if must_generate and not configured:
                raise
            _log.warning("the engine does not list its models: %s", failure)
            listed = ()
        self._state.update(served_names=configured or listed)
        return next(iter(listed or configured), "")

    def _close_watch(self) -> None:
        if self._watch is not None:
            self._watch.close()

    async def _wind_down(self) -> None:
        self._close_watch()
        self._state.enter(Phase.DRAINING)
        await self._drained(self._settings.drain_seconds)
        self._state.enter(Phase.STOPPED)
