"""An engine that someone else runs (`UPSTREAM_URL`): watched, warmed, never started."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from proxy.engine.phase import Phase
from proxy.engine.probe import Probe, WarmUpFailed
from proxy.engine.state import EngineState
from proxy.engine.wedge import WedgeWatch, Work
from proxy.settings import Settings

_log = logging.getLogger("proxy.engine")

_POLL_SECONDS = 1.0


class AttachedEngine:
    """Follows the health of an engine whose life is not ours."""

    def __init__(
        self,
        settings: Settings,
        state: EngineState,
        probe: Probe,
        drained: Callable[[float], Awaitable[bool]],
        work: Work,
    ) -> None:
        self._settings = settings
        self._state = state
        self._probe = probe
        self._drained = drained
        self._stuck = False
        self._watch = WedgeWatch(settings.wedge_seconds, work, probe, self._generates)

    async def run(self) -> None:
        """Follow it until cancelled; then let running requests finish."""
        self._state.enter(Phase.LOADING, reason=f"waiting for {self._settings.upstream_url}")
        try:
            while True:
                try:
                    await self._look()
                except Exception as error:
                    # A fault of ours must not leave an engine that nobody watches.
                    _log.exception("the sidecar failed to follow the engine")
                    self._lose_sight(f"the sidecar failed to follow it: {error}")
                await asyncio.sleep(_POLL_SECONDS)
        except asyncio.CancelledError:
            self._watch.close()
            await self._wind_down()
            raise

    async def _look(self) -> None:
        healthy = await self._probe.healthy()
        if healthy and self._state.snapshot.phase is not Phase.READY:
            await self._welcome()
        elif not healthy:
            self._lose_sight("the engine does not answer its health check")
        if self._state.snapshot.phase is Phase.READY:
            self._tell(await self._watch.look(healthy=healthy))

    def _lose_sight(self, reason: str) -> None:
        if self._state.snapshot.phase in (Phase.WARMING, Phase.READY):
            self._state.enter(Phase.DEGRADED, reason=reason)

    def _tell(self, symptom: str | None) -> None:
        """It is not ours to restart: it gets no requests until it generates again."""
        if symptom is not None:
            self._stuck = True
            self._state.enter(Phase.DEGRADED, reason=f"the engine is stuck: {symptom}")

    async def _generates(self) -> bool:
        """One token. Raises WarmUpFailed."""
        names = await self._probe.served_models()
        return bool(names) and await self._probe.warm_up(names[0]) is not None

    async def _welcome(self) -> None:
        models = await self._probe.served_models()
        self._state.update(served_names=self._settings.served_model_names or models)
        if self._state.snapshot.phase is Phase.LOADING:
            self._state.enter(Phase.WARMING)
        try:
            if models and (self._settings.warmup or self._stuck):
                await self._probe.warm_up(models[0])
        except WarmUpFailed as failure:
            self._state.update(reason=f"the engine does not generate: {failure}")
        else:
            self._stuck = False
            self._state.enter(Phase.READY)

    async def _wind_down(self) -> None:
        self._state.enter(Phase.DRAINING)
        await self._drained(self._settings.drain_seconds)
        self._state.enter(Phase.STOPPED)
