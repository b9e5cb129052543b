"""The life of one engine process: prepared, started, warmed, watched, restarted, stopped."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from proxy.engine.phase import Phase
from proxy.engine.process import Process
from proxy.engine.restarts import Restarts
from proxy.engine.server import Server, WarmUpFailed, WarmUpTimeout
from proxy.engine.state import EngineState
from proxy.engine.supervisor import Drained, Supervisor, Turn
from proxy.engine.wedge import WedgeWatch, Work
from proxy.errors import Cause, EngineFailure
from proxy.settings import Settings
from proxy.tasks import spawn

_log = logging.getLogger("proxy.engine")

_HEALTH_POLL_SECONDS = 0.25
_WARM_UP_ATTEMPTS = 3
_WARM_UP_PAUSE_SECONDS = 1.0
# An idle vLLM ends 0.4 s after SIGTERM; one with work left may never.
_STOP_GRACE_SECONDS = 5.0


class Engine(Supervisor):
    """Runs one server process at a time, for as long as it is not stopped."""

    def __init__(
        self,
        settings: Settings,
        state: EngineState,
        server: Server,
        drained: Drained,
        work: Work,
        turn: Turn,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._state = state
        self._server = server
        self._drained = drained
        self._work = work
        self._turn = turn
        self._model: str | None = None
        """What the server is asked for; None until it is prepared."""
        self._process: Process | None = None
        self._output = server.new_output()
        self._restarts = Restarts(settings.max_restarts)
        self._has_worked = False

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def _run(self) -> None:
        self._restarts = Restarts(self._settings.max_restarts)
        while True:
            try:
                if self._model is None:
                    self._model = await self._server.prepare()
                if self._fetches_only:
                    self._state.enter(Phase.STOPPED)
                    return
                await self._turn()
                failure = await self._live_once(self._model)
            except EngineFailure as error:
                failure = error
            except Exception as error:
                # A fault of ours must not leave an engine unwatched.
                _log.exception("the sidecar failed to run the engine")
                text = f"The sidecar failed to run the engine: {error}"
                failure = EngineFailure(Cause.UNKNOWN, text, permanent=False)
            was_started = self._process is not None
            if self._process is not None:
                await self._process.stop(0)
                self._process = None
            wait = self._after(failure, was_started=was_started)
            if wait is None:
                return
            await asyncio.sleep(wait)

    async def _live_once(self, model: str) -> EngineFailure:
        """From a start to ready to death, and why it died. Raises EngineFailure before a start."""
        command = self._server.command()
        self._output = self._server.new_output()
        self._state.enter(Phase.LOADING, arguments=command.shown)
        self._process = await Process.start(command.argv, command.environ)
        death = spawn(self._follow(self._process), name="engine output")
        watch = spawn(self._watch(model), name="engine watch")
        try:
            await asyncio.wait({death, watch}, return_when=asyncio.FIRST_COMPLETED)
            failure: EngineFailure = await (watch if watch.done() else death)
            return failure
        finally:
            watch.cancel()

    async def _follow(self, process: Process) -> EngineFailure:
        """Read the output to its end, and say why the process ended."""
        progress = self._output.progress
        async for raw in process.lines():
            self._output.take(raw)
            before, progress = progress, self._output.progress
            phase = self._state.snapshot.phase
            # Only a generated token, never a line, ends the start.
            if progress is not before and phase in (Phase.LOADING, Phase.COMPILING):
                if progress.phase is Phase.COMPILING and phase is Phase.LOADING:
                    self._state.enter(Phase.COMPILING)
                self._state.update(progress=progress.fraction)
        self._output.close()
        was_ready = self._state.snapshot.model_loaded
        return self._output.diagnose(await process.wait(), was_ready=was_ready)

    async def _watch(self, model: str) -> EngineFailure:
        """Wait for health, have a token generated, then see that the engine goes on working."""
        probe = self._server.probe
        while not await probe.healthy():  # noqa: ASYNC110 (another process's state)
            await asyncio.sleep(_HEALTH_POLL_SECONDS)
        self._state.enter(Phase.WARMING)
        if self._settings.warmup and (problem := await self._warm_up(model)) is not None:
            # A process that dies of its first request takes seconds to go: its output counts.
            failure = self._output.diagnose(None, was_ready=True)
            if failure.cause is not Cause.WEDGED:
                return failure
            text = f"The engine started but failed to generate a token: {problem}."
            return EngineFailure(Cause.CRASHED, text, permanent=False)
        self._state.enter(Phase.READY)
        self._has_worked = True
        watch = WedgeWatch(self._settings.wedge_seconds, self._work, probe, model)
        try:
            symptom = await watch.until_wedged(self._on_health)
        finally:
            watch.close()
        failure = self._output.diagnose(None, was_ready=True)
        text = f"{failure.message.rstrip('.')} ({symptom})."
        # Not ready from this moment on: it takes seconds to end the process.
        eta_seconds = self._state.snapshot.start_seconds or None
        self._state.enter(Phase.DEGRADED, reason=text, cause=failure.cause, eta_seconds=eta_seconds)
        return EngineFailure(failure.cause, text, remedy=failure.remedy, permanent=False)

    def _on_health(self, healthy: bool) -> None:
        phase = self._state.snapshot.phase
        if not healthy and phase is Phase.READY:
            self._state.enter(Phase.DEGRADED, reason="the engine's own health check fails")
        elif healthy and phase is Phase.DEGRADED:
            self._state.enter(Phase.READY)

    async def _warm_up(self, model: str) -> WarmUpFailed | None:
        """None where the engine generates, or has no route that could be asked."""
        problem = None
        for attempt in range(1, _WARM_UP_ATTEMPTS + 1):
            try:
                if await self._server.probe.warm_up(model) is None:
                    _log.warning("the model has no route that could be warmed")
                return None
            except WarmUpFailed as failure:
                problem = failure
            reason = f"the engine is up but does not generate: {problem}"
            self._state.update(reason=reason)
            _log.warning("%s (attempt %d)", reason, attempt)
            if isinstance(problem, WarmUpTimeout):
                break
            await asyncio.sleep(_WARM_UP_PAUSE_SECONDS)
        return problem

    def _after(self, failure: EngineFailure, *, was_started: bool) -> float | None:
        """Seconds until the next start; None where there will be none."""
        changes: dict[str, Any] = {
            "cause": failure.cause,
            "reason": failure.message,
            "remedy": failure.remedy,
        }
        # What has worked is not wrong for good: the engine that died may still hold its memory.
        if failure.permanent and not self._has_worked:
            self._state.enter(Phase.FAILED, **changes)
            return None
        before = self._state.snapshot
        was_ready = before.phase in (Phase.READY, Phase.DEGRADED)
        wait = self._restarts.next(was_ready=was_ready, was_started=was_started)
        if wait is None:
            if self._restarts.spent:
                changes["reason"] += f" (gave up after {self._restarts.spent} restarts)"
            self._state.enter(Phase.FAILED, **changes)
            return None
        self._state.enter(
            Phase.RESTARTING,
            **changes,
            eta_seconds=wait + (before.expected_start_seconds or before.start_seconds),
            restarts=before.restarts + 1,
            last_restart_cause=failure.cause,
        )
        return wait

    async def _wind_down(self) -> None:
        """Let running requests finish, then end the process."""
        # A degraded engine may still be working on what it was sent.
        process, was_up = self._process, self._state.snapshot.model_loaded
        self._state.enter(Phase.DRAINING)
        finished = await self._drained(self._settings.drain_seconds if was_up else 0)
        if process is not None:
            # vLLM ignores SIGTERM while it loads, and mostly hangs on it while requests
            # run: then only SIGKILL ends it, and its clients get an error, not a cut.
            await process.stop(_STOP_GRACE_SECONDS if was_up and finished else 0)
            self._process = None
        self._state.enter(Phase.STOPPED)
