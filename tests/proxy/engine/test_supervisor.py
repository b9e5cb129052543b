"""Engines that are started and stopped by order, with a server that is not vLLM."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from proxy.engine import lifecycle
from proxy.engine.lifecycle import Engine
from proxy.engine.phase import Phase
from proxy.engine.server import (
    Command,
    Counters,
    Progress,
    Server,
    ServerOutput,
    ServerProbe,
    Sleeper,
    WarmUpFailed,
    WarmUpTimeout,
)
from proxy.engine.state import EngineState
from proxy.errors import Cause, EngineFailure
from proxy.settings import Settings
from tests.patience import PATIENCE

SLEEPS = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
FAILS = "raise SystemExit(3)"


class Output(ServerOutput):
    """Its process prints its own pid."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    @property
    def progress(self) -> Progress:
        return Progress(Phase.LOADING)

    def take(self, raw: bytes) -> None:
        self.lines.append(raw)

    def expect_end(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def diagnose(self, exit_code: int | None, *, was_ready: bool) -> EngineFailure:
        cause = Cause.WEDGED if exit_code is None else Cause.CRASHED
        return EngineFailure(cause, f"It ended with {exit_code}.", permanent=False)


@dataclass
class Script(Server, ServerProbe):
    """A server that is a script of Python. It is healthy once its process has printed something."""

    source: str = SLEEPS
    failure: WarmUpFailed | None = None
    naps: Sleeper | None = None
    asked: int = 0
    prepared: int = 0
    outputs: list[Output] = field(default_factory=list)

    @property
    def probe(self) -> ServerProbe:
        return self

    @property
    def sleeper(self) -> Sleeper | None:
        return self.naps

    @property
    def pid(self) -> int:
        return int(self.outputs[-1].lines[0])

    async def prepare(self) -> str:
        self.prepared += 1
        return "tiny"

    def command(self) -> Command:
        return Command((sys.executable, "-c", self.source), dict(os.environ))

    def new_output(self) -> Output:
        self.outputs.append(Output())
        return self.outputs[-1]

    async def healthy(self) -> bool:
        return bool(self.outputs[-1].lines)

    async def served_models(self) -> tuple[str, ...]:
        return ("tiny",)

    async def warm_up(self, model: str) -> str | None:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return "/v1/completions"

    async def counters(self) -> Counters:
        return ()


class Work:
    """Nothing is ever sent."""

    owed = 0
    last_progress = 0.0
    oldest = None

    def __init__(self) -> None:
        self.trouble = asyncio.Event()


async def at_once() -> bool:
    """It is always this engine's turn."""
    return True


class Managed:
    """An engine with its own state; its phases as they came."""

    def __init__(self, server: Script, drained: asyncio.Event | None = None, **environ: str):
        self.server, self.state = server, EngineState()
        self.phases: list[Phase] = []
        self._drained = drained
        self.state.listen(lambda before, after: self._note(before.phase, after.phase))
        settings = Settings.load(environ)
        self.engine = Engine(settings, self.state, server, self._wait_for_drain, Work(), at_once)

    def _note(self, before: Phase, after: Phase) -> None:
        if after is not before:
            self.phases.append(after)

    async def _wait_for_drain(self, seconds: float) -> bool:
        if self._drained is not None:
            await self._drained.wait()
        return True

    async def until(self, phase: Phase) -> None:
        await until(lambda: self.state.snapshot.phase is phase)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_HEALTH_POLL_SECONDS", 0.01)
    monkeypatch.setattr(lifecycle, "_WARM_UP_PAUSE_SECONDS", 0.0)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_an_engine_that_was_stopped_is_started_again_and_prepared_only_once() -> None:
    managed = Managed(Script())
    pids = []
    for _ in range(2):
        managed.engine.start()
        await managed.until(Phase.READY)
        pids.append(managed.server.pid)
        await managed.engine.stop()
        assert managed.state.snapshot.phase is Phase.STOPPED
        assert not is_running(pids[-1])
    assert managed.server.prepared == 1
    assert len(set(pids)) == 2
    start = [Phase.LOADING, Phase.WARMING, Phase.READY, Phase.DRAINING, Phase.STOPPED]
    assert managed.phases == [*start, Phase.CHECKING, *start]
    assert set(managed.state.snapshot.phase_seconds) == {Phase.STOPPED, Phase.CHECKING, *start[:-1]}


async def test_an_engine_that_was_given_up_has_all_its_restarts_again_when_started_again() -> None:
    managed = Managed(Script(FAILS), MAX_RESTARTS="0")
    for _ in range(2):
        await managed.engine.start()
        assert managed.state.snapshot.phase is Phase.FAILED
        await managed.engine.stop()  # does nothing
    end = [Phase.LOADING, Phase.FAILED]
    assert managed.phases == [*end, Phase.CHECKING, *end]
    managed.server.source = SLEEPS
    managed.engine.start()
    await managed.until(Phase.READY)
    await managed.engine.stop()


@pytest.mark.parametrize("server", [Script(), Script(FAILS)])
async def test_a_start_that_is_called_off_before_its_turn_ends_like_any(
    monkeypatch: pytest.MonkeyPatch, server: Script
) -> None:
    managed = Managed(server, MAX_RESTARTS="0")
    managed.engine.start()
    await until(lambda: managed.state.snapshot.phase in (Phase.READY, Phase.FAILED))
    await managed.engine.stop()
    monkeypatch.setattr(managed.engine, "_turn", asyncio.Event().wait)
    for ticks in range(2):  # its task may not even have begun
        managed.phases.clear()
        managed.engine.start()
        for _ in range(ticks):
            await asyncio.sleep(0)
        await managed.engine.stop()
        assert managed.phases == [Phase.CHECKING, Phase.DRAINING, Phase.STOPPED]


async def test_a_start_that_fails_again_before_its_process_is_seen_to_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who waits for the load goes by the change of phase."""
    managed = Managed(Script(FAILS), MAX_RESTARTS="0")
    await managed.engine.start()
    managed.phases.clear()

    def refuse() -> Command:
        raise EngineFailure(Cause.PORT_IN_USE, "It is taken.", permanent=False)

    monkeypatch.setattr(managed.server, "command", refuse)
    await managed.engine.start()
    assert managed.phases == [Phase.CHECKING, Phase.FAILED]


async def test_an_engine_that_dies_touches_no_other() -> None:
    dying, other = Managed(Script()), Managed(Script())
    for each in (dying, other):
        each.engine.start()
        await each.until(Phase.READY)
    pid = other.server.pid
    os.kill(dying.server.pid, signal.SIGKILL)
    await until(lambda: dying.phases.count(Phase.READY) == 2)
    assert Phase.RESTARTING in dying.phases
    assert other.phases == [Phase.LOADING, Phase.WARMING, Phase.READY]
    assert is_running(pid)
    for each in (dying, other):
        await each.engine.stop()


async def test_a_stop_is_not_called_off_by_a_caller_that_is_cancelled() -> None:
    drained = asyncio.Event()
    managed = Managed(Script(), drained)
    managed.engine.start()
    await managed.until(Phase.READY)
    pid = managed.server.pid
    callers = [asyncio.create_task(managed.engine.stop()) for _ in range(2)]
    await managed.until(Phase.DRAINING)
    callers[0].cancel()
    await asyncio.wait({callers[0]})
    assert is_running(pid)
    drained.set()
    await asyncio.wait_for(callers[1], PATIENCE)
    assert managed.state.snapshot.phase is Phase.STOPPED
    assert not is_running(pid)


@pytest.mark.parametrize(("failure", "times"), [(WarmUpFailed("500"), 3), (WarmUpTimeout(""), 1)])
async def test_an_engine_that_has_not_answered_for_ten_minutes_is_not_asked_again(
    failure: WarmUpFailed, times: int
) -> None:
    managed = Managed(Script(failure=failure), MAX_RESTARTS="0")
    await managed.engine.start()
    assert managed.server.asked == times
    assert managed.state.snapshot.cause is Cause.CRASHED
    assert "failed to generate a token" in str(managed.state.snapshot.reason)
