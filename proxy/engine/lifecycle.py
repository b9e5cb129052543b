"""The life of one engine process: prepared, started, warmed, watched, restarted, stopped."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from proxy.engine.phase import ENDS, Phase
from proxy.engine.process import Process
from proxy.engine.restarts import Restarts
from proxy.engine.server import (
    Server,
    Sleeper,
    SleepFailed,
    WakeFailed,
    WarmUpFailed,
    WarmUpTimeout,
)
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
        super().__init__(state.model)
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
        self._sleep_order: asyncio.Future[bool] | None = None
        """Its result is whether the engine sleeps."""
        self._sleep_ordered, self._wake_ordered = asyncio.Event(), asyncio.Event()

    async def sleep(self) -> bool:
        """Have the process give its memory back, and wait to be woken. No request runs on it.

        False where it does not sleep: it still runs as before, or is ending. Then it is to be
        stopped.
        """
        sleeper = self._server.sleeper
        if sleeper is None or self._state.snapshot.phase is not Phase.READY:
            return False
        if (obstacle := sleeper.obstacle()) is not None:
            _log.warning("the engine is stopped in place of sleeping: %s", obstacle)
            return False
        if self._sleep_order is None:
            self._sleep_order = asyncio.get_running_loop().create_future()
            self._sleep_ordered.set()
        return await asyncio.shield(self._sleep_order)

    def wake(self) -> None:
        """Have a process that sleeps take its memory back; its state tells the rest. One that does
        not come back as it was is ended, and started again."""
        self._wake_ordered.set()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def _run(self) -> None:
        self._restarts = Restarts(self._settings.max_restarts)
        if self._state.snapshot.phase in ENDS:
            self._state.enter(Phase.CHECKING)
        while True:
            try:
                if self._model is None:
                    self._model = await self._server.prepare()
                if self._fetches_only or not await self._turn():
                    self._state.enter(Phase.STOPPED)
                    return
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
            self._end_sleep_order(is_asleep=False)  # none is taken from here on: see `sleep`
            if self._state.snapshot.phase in (Phase.DRAINING, Phase.ASLEEP):
                # It was to give its memory back, and has.
                _log.warning("the engine was ended in place of sleeping: %s", failure)
                self._state.enter(Phase.STOPPED)
                return
            wait = self._plan_restart(failure, was_started=was_started)
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
        self._output.flush()
        was_ready = self._state.snapshot.phase not in (Phase.LOADING, Phase.COMPILING)
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
        if (sleeper := self._server.sleeper) is not None:
            await sleeper.prepare(model)
        self._state.enter(Phase.READY)
        self._has_worked = True
        while (symptom := await self._until_wedged(model)) is None:
            assert sleeper is not None, "only what can sleep is ordered to"
            if (failed := await self._sleep_until_woken(sleeper, model)) is not None:
                return failed
            self._state.enter(Phase.READY)
        failure = self._output.diagnose(None, was_ready=True)
        text = f"{failure.message.rstrip('.')} ({symptom})."
        # Not ready from this moment on: it takes seconds to end the process.
        eta_seconds = self._state.snapshot.start_seconds or None
        self._state.enter(Phase.DEGRADED, reason=text, cause=failure.cause, eta_seconds=eta_seconds)
        return EngineFailure(failure.cause, text, remedy=failure.remedy, permanent=False)

    async def _until_wedged(self, model: str) -> str | None:
        """What shows that it is wedged; None where it is ordered to sleep first."""
        limit, probe = self._settings.wedge_seconds, self._server.probe
        watch = WedgeWatch(limit, self._work, probe, model)
        wedged = spawn(watch.until_wedged(self._on_health), name="wedge watch")
        ordered = spawn(self._sleep_ordered.wait(), name="sleep order")
        try:
            await asyncio.wait({wedged, ordered}, return_when=asyncio.FIRST_COMPLETED)
            return await wedged if wedged.done() else None
        finally:
            wedged.cancel()
            ordered.cancel()
            watch.close()

    async def _sleep_until_woken(self, sleeper: Sleeper, model: str) -> EngineFailure | None:
        """None where it is as it was before, else why it has to be ended."""
        self._wake_ordered.clear()
        self._state.enter(Phase.DRAINING)
        try:
            await sleeper.sleep()
        except SleepFailed as failure:
            return EngineFailure(Cause.UNKNOWN, str(failure), permanent=False)
        self._state.enter(Phase.ASLEEP)
        self._end_sleep_order(is_asleep=True)
        await self._wake_ordered.wait()
        self._state.enter(Phase.WAKING, eta_seconds=self._state.snapshot.wake_seconds)
        try:
            await sleeper.wake(model)
        except WakeFailed as failure:
            return failure
        return None

    def _end_sleep_order(self, *, is_asleep: bool) -> None:
        self._sleep_ordered.clear()
        if self._sleep_order is not None:
            self._sleep_order.set_result(is_asleep)
            self._sleep_order = None

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

    def _plan_restart(self, failure: EngineFailure, *, was_started: bool) -> float | None:
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
        was_ready = before.phase in (Phase.READY, Phase.DEGRADED, Phase.WAKING)
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
        before = self._state.snapshot
        process, was_up = self._process, before.model_loaded
        if before.phase is not Phase.DRAINING:  # one that was about to sleep is
            self._state.enter(Phase.DRAINING)
        self._end_sleep_order(is_asleep=False)
        finished = await self._drained(self._settings.drain_seconds if was_up else 0)
        if process is not None:
            # vLLM ignores SIGTERM while it loads, and mostly hangs on it while requests
            # run: then only SIGKILL ends it, and its clients get an error, not a cut.
            is_idle = (was_up and finished) or before.phase is Phase.ASLEEP
            self._output.expect_end()
            await process.stop(_STOP_GRACE_SECONDS if is_idle else 0)
            self._process = None
        self._state.enter(Phase.STOPPED)
