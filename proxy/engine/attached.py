"""An engine that someone else runs (`UPSTREAM_URL`): watched, warmed, never started."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from proxy.engine.phase import Phase
from proxy.engine.state import EngineState
from proxy.engine.wedge import WedgeWatch, Work
from proxy.settings import Settings
from proxy.vllm.probe import ModelsUnknown, Probe, WarmUpFailed

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
        self._work = work
        self._name = ""
        self._symptom: str | None = None
        """What shows that it is stuck, until it has generated a token again."""
        self._watch = self._new_watch()

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
            self._symptom = symptom
            self._state.enter(Phase.DEGRADED, reason=f"the engine is stuck: {symptom}")

    async def _welcome(self) -> None:
        """Ready is what has generated a token; until then, why not and what to do."""
        if self._state.snapshot.phase is Phase.LOADING:
            self._state.enter(Phase.WARMING)
        must_generate = self._settings.warmup or self._symptom is not None
        try:
            self._name = await self._model_name(must_generate)
            if must_generate:
                await self._generate()
        except (ModelsUnknown, WarmUpFailed) as failure:
            self._explain(failure)
            return
        self._symptom = None
        self._watch.close()
        self._watch = self._new_watch()
        self._state.enter(Phase.READY)

    async def _model_name(self, must_generate: bool) -> str:
        """Raises ModelsUnknown where a name is needed, and nobody knows one."""
        given = self._settings.served_model_names
        try:
            models = await self._probe.served_models()
        except ModelsUnknown as failure:
            if must_generate and not given:
                raise
            _log.warning("the engine does not tell its models: %s", failure)
            models = ()
        names = given or models
        self._state.update(served_names=names)
        return next(iter(models or names), "")

    async def _generate(self) -> None:
        """One token. Raises WarmUpFailed."""
        if await self._probe.warm_up(self._name) is not None:
            return
        if self._symptom is not None:
            raise WarmUpFailed("it has no route by which it could show that it works")
        _log.warning("the model has no route that could be warmed")

    def _explain(self, failure: ModelsUnknown | WarmUpFailed) -> None:
        """Say why the engine is not ready; in the log where that has changed."""
        what = (
            "does not tell its models"
            if isinstance(failure, ModelsUnknown)
            else "does not generate"
        )
        reason = f"the engine {what}: {failure}"
        if self._symptom is not None:
            reason = f"the engine is stuck: {self._symptom}; now it {what}: {failure}"
        remedy = remedy_for(failure)
        if reason != self._state.snapshot.reason:
            _log.warning("%s. %s", reason, remedy)
        self._state.update(reason=reason, remedy=remedy)

    def _new_watch(self) -> WedgeWatch:
        return WedgeWatch(self._settings.wedge_seconds, self._work, self._probe, self._generates)

    async def _generates(self) -> bool:
        return await self._probe.warm_up(self._name) is not None

    async def _wind_down(self) -> None:
        self._state.enter(Phase.DRAINING)
        await self._drained(self._settings.drain_seconds)
        self._state.enter(Phase.STOPPED)


def remedy_for(failure: ModelsUnknown | WarmUpFailed) -> str:
    """What to do about an engine of someone else's that does not generate, or tell its models."""
    if failure.status in (401, 403):
        return (
            "The engine wants a key, and the sidecar has none to give it. Start the engine without"
            " --api-key and VLLM_API_KEY where only the sidecar reaches it; API_KEYS has clients"
            " asked for keys."
        )
    if isinstance(failure, ModelsUnknown):
        return (
            "Check that UPSTREAM_URL is vLLM's own address, and see its log. SERVED_MODEL_NAME is"
            " believed where the engine tells no name."
        )
    return "See the engine's own log."
