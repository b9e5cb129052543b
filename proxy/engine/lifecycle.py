"""The engine's life: fetched, started, warmed, watched, restarted, stopped.

One task (`Engine.run`) owns the state and the child process. To stop it, cancel it:
it lets running requests finish, then ends the engine.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from proxy.engine.phase import Phase
from proxy.engine.process import Process
from proxy.engine.restarts import Restarts
from proxy.engine.state import EngineState
from proxy.engine.wedge import WedgeWatch, Work
from proxy.errors import Cause, EngineFailure, SettingsError
from proxy.machine.checks import check_executable, check_port
from proxy.machine.hardware import Hardware
from proxy.models.fetch import Model
from proxy.preflight.preparation import Preparation
from proxy.settings import Settings
from proxy.tasks import spawn
from proxy.vllm.command import Command, engine_command, masked
from proxy.vllm.diagnosis import diagnose
from proxy.vllm.flags import known_flags
from proxy.vllm.output import Output
from proxy.vllm.probe import Probe, WarmUpFailed, WarmUpSilence
from proxy.vllm.progress import Progress

_log = logging.getLogger("proxy.engine")

_WATCH_SECONDS = 1.0
_WARM_UP_ATTEMPTS = 3
# An idle vLLM ends 0.4 s after SIGTERM; one with work left may never.
_STOP_GRACE_SECONDS = 5.0

# Waits for running requests, at most so many seconds; false where some still run.
Drained = Callable[[float], Awaitable[bool]]


class Engine:
    """Runs one `vllm serve` for as long as it lives itself."""

    def __init__(
        self, settings: Settings, state: EngineState, probe: Probe, drained: Drained, work: Work
    ) -> None:
        self._settings = settings
        self._state = state
        self._probe = probe
        self._drained = drained
        self._work = work
        self._preparation = Preparation(settings, state)
        self._model: Model | None = None
        self._process: Process | None = None
        self._output = Output()
        self._restarts = Restarts(settings.max_restarts)
        self._has_worked = False

    @property
    def hardware(self) -> Hardware:
        return self._preparation.hardware

    async def run(self) -> None:
        """Keep the engine up; returns only when no start is of any use any more."""
        try:
            while True:
                try:
                    await self._live_once()
                except EngineFailure as failure:
                    known = failure
                except Exception as error:
                    # A fault of ours must not leave an engine that nobody watches.
                    _log.exception("the sidecar failed to run the engine")
                    text = f"The sidecar failed to run the engine: {error}"
                    known = EngineFailure(Cause.UNKNOWN, text, permanent=False)
                was_started = await self._end_process()
                if not await self._recover(known, was_started=was_started):
                    return
        except asyncio.CancelledError:
            await self._wind_down()
            raise

    async def _live_once(self) -> None:
        """From nothing to ready to death. Always ends in an EngineFailure."""
        if self._model is None:
            self._model = await self._preparation.run()
        command = self._command(self._model)
        check_port(self._settings.upstream_port)
        self._output = Output(self._settings.hf_token)
        self._state.enter(Phase.LOADING, arguments=tuple(masked(command.argv)))
        self._process = await Process.start(command.argv, command.environ)
        death = spawn(self._follow(self._process), name="engine output")
        watch = spawn(self._watch(self._model), name="engine watch")
        try:
            await asyncio.wait({death, watch}, return_when=asyncio.FIRST_COMPLETED)
            failure = watch.result() if watch.done() else await death
        finally:
            watch.cancel()
        raise failure

    async def _end_process(self) -> bool:
        """Whether there was one."""
        if self._process is None:
            return False
        await self._process.stop(0)
        self._process = None
        return True

    def _command(self, model: Model) -> Command:
        try:
            command = engine_command(
                self._settings,
                model_path=model.path,
                served_names=model.served_names,
                has_gpu=self.hardware.has_gpu,
                demo=model.demo,
                revision=model.revision if model.fetched_by_engine else None,
            )
        except SettingsError as error:
            raise EngineFailure(Cause.BAD_FLAG, str(error), permanent=True) from None
        if shutil.which(command.argv[0]) is not None:
            return command
        # Not on the PATH but beside this Python, as are the tools that it calls itself.
        executable = check_executable(command.argv[0])
        path = f"{Path(executable).parent}:{command.environ.get('PATH', os.defpath)}"
        return Command((executable, *command.argv[1:]), {**command.environ, "PATH": path})

    async def _follow(self, process: Process) -> EngineFailure:
        """Read the engine's output to its end, and say why it ended."""
        progress = Progress(Phase.LOADING)
        async for raw in process.lines():
            for line in self._output.take(raw):
                progress = self._advance(progress, line)
        self._output.tell_dropped()
        was_ready = self._state.snapshot.model_loaded
        code = await process.wait()
        return diagnose(self._output.lines, code, was_ready=was_ready, known_flags=known_flags())

    def _advance(self, progress: Progress, line: str) -> Progress:
        after = progress.after(line)
        if after is not progress and self._state.snapshot.phase in (Phase.LOADING, Phase.COMPILING):
            # Only a generated token, never a line, ends the start.
            if after.phase is Phase.COMPILING is not self._state.snapshot.phase:
                self._state.enter(Phase.COMPILING)
            self._state.update(progress=after.fraction)
        return after

    async def _watch(self, model: Model) -> EngineFailure:
        """Wait for health, generate a token, then see that the engine goes on working."""
        await self._probe.until_healthy()
        self._state.enter(Phase.WARMING)
        if self._settings.warmup and (problem := await self._warm_up(model)) is not None:
            return self._useless(problem)
        self._state.enter(Phase.READY)
        self._has_worked = True
        return self._wedged(await self._until_wedged(model.served_names[0]))

    async def _until_wedged(self, name: str) -> str:
        async def generates() -> bool:
            return await self._probe.warm_up(name) is not None

        watch = WedgeWatch(self._settings.wedge_seconds, self._work, self._probe, generates)
        try:
            return await watch.until_wedged(self._look)
        finally:
            watch.close()

    def _wedged(self, symptom: str) -> EngineFailure:
        """Not ready from this moment on: it takes seconds to end the engine."""
        said = diagnose(self._output.lines, None, was_ready=True, known_flags=known_flags())
        text = f"{said.message.rstrip('.')} ({symptom})."
        eta_seconds = self._state.snapshot.start_seconds
        self._state.enter(
            Phase.DEGRADED, reason=text, cause=said.cause, eta_seconds=eta_seconds or None
        )
        return EngineFailure(said.cause, text, remedy=said.remedy, permanent=False)

    def _look(self, healthy: bool) -> None:
        phase = self._state.snapshot.phase
        if not healthy and phase is Phase.READY:
            self._state.enter(Phase.DEGRADED, reason="the engine's own health check fails")
        elif healthy and phase is Phase.DEGRADED:
            self._state.enter(Phase.READY)

    async def _warm_up(self, model: Model) -> WarmUpFailed | None:
        """None where the engine generates, or has nothing that could be asked of it."""
        problem = None
        for attempt in range(1, _WARM_UP_ATTEMPTS + 1):
            try:
                route = await self._probe.warm_up(model.served_names[0])
            except WarmUpFailed as failure:
                problem = failure
                reason = f"the engine is up but does not generate: {failure}"
                self._state.update(reason=reason)
                _log.warning("%s (attempt %d)", reason, attempt)
                if isinstance(failure, WarmUpSilence):
                    return problem
                await asyncio.sleep(_WATCH_SECONDS)
            else:
                if route is None:
                    _log.warning("the model has no route that could be warmed")
                return None
        return problem

    def _useless(self, problem: WarmUpFailed) -> EngineFailure:
        """An engine that dies of its first request takes seconds to go: what it said counts."""
        said = diagnose(self._output.lines, None, was_ready=True, known_flags=known_flags())
        if said.cause is not Cause.WEDGED:
            return said
        text = f"The engine started but failed to generate a token: {problem}."
        return EngineFailure(Cause.CRASHED, text, permanent=False)

    async def _recover(self, failure: EngineFailure, *, was_started: bool) -> bool:
        """Wait until the next start is due; False where there will be none."""
        known: dict[str, Any] = {
            "cause": failure.cause,
            "reason": failure.message,
            "remedy": failure.remedy,
        }
        # What has worked is not wrong for good: the engine that died may still hold its memory.
        if failure.permanent and not self._has_worked:
            self._state.enter(Phase.FAILED, **known)
            return False
        was_ready = self._state.snapshot.phase in (Phase.READY, Phase.DEGRADED)
        wait = self._restarts.next(was_ready=was_ready, was_started=was_started)
        if wait is None:
            if self._restarts.spent:
                known["reason"] += f" (gave up after {self._restarts.spent} restarts)"
            self._state.enter(Phase.FAILED, **known)
            return False
        restarts = self._state.snapshot.restarts + 1
        self._state.enter(
            Phase.RESTARTING,
            **known,
            eta_seconds=wait + self._state.snapshot.start_seconds,
            restarts=restarts,
            last_restart_cause=failure.cause,
        )
        await asyncio.sleep(wait)
        return True

    async def _wind_down(self) -> None:
        """Let running requests finish, then end the engine."""
        # A degraded engine may still be working on what it was sent.
        process, was_up = self._process, self._state.snapshot.model_loaded
        self._state.enter(Phase.DRAINING)
        finished = await self._drained(self._settings.drain_seconds if was_up else 0)
        if process is not None:
            # vLLM ignores SIGTERM while it loads, and mostly hangs on it while requests
            # run: then only SIGKILL ends it, and its clients get an error, not a cut.
            await process.stop(_STOP_GRACE_SECONDS if was_up and finished else 0)
        self._state.enter(Phase.STOPPED)
