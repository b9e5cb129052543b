"""An engine that someone else runs (`UPSTREAM_URL`): watched, warmed, never started."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from proxy.engine.phase import Phase
from proxy.engine.probe import Probe, WarmUpFailed
from proxy.engine.state import EngineState
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
        drained: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._state = state
        self._probe = probe
        self._drained = drained

    async def run(self) -> None:
        """Follow it until cancelled; then let running requests finish."""
        self._state.enter(Phase.LOADING, reason=f"waiting for {self._settings.upstream_url}")
        try:
            while True:
                await self._step(healthy=await self._probe.healthy())
                await asyncio.sleep(_POLL_SECONDS)
        except asyncio.CancelledError:
            await self._wind_down()
            raise

    async def _step(self, *, healthy: bool) -> None:
        phase = self._state.snapshot.phase
        if healthy and phase is not Phase.READY:
            await self._welcome()
        elif not healthy and phase in (Phase.WARMING, Phase.READY):
            self._state.enter(Phase.DEGRADED, reason="the engine does not answer its health check")

    async def _welcome(self) -> None:
        models = await self._probe.served_models()
        self._state.update(served_names=self._settings.served_model_names or models)
        if self._state.snapshot.phase is not Phase.WARMING:
            self._state.enter(Phase.WARMING)
        try:
            if self._settings.warmup and models:
                await self._probe.warm_up(models[0])
        except WarmUpFailed as failure:
            self._state.update(reason=f"the engine does not generate: {failure}")
        else:
            self._state.enter(Phase.READY)

    async def _wind_down(self) -> None:
        self._state.enter(Phase.DRAINING)
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                await self._drained()
        except TimeoutError:
            _log.warning("requests were still running after DRAIN_SECONDS")
        self._state.enter(Phase.STOPPED)
