"""What becomes of an engine that someone else runs when the fault is ours."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from proxy.engine import attached as attached_module
from proxy.engine.attached import AttachedEngine
from proxy.engine.phase import Phase
from proxy.engine.server import Counters, ServerProbe
from proxy.engine.state import EngineState, Snapshot
from proxy.engine.wedge import Work
from proxy.settings import Settings
from tests.patience import PATIENCE

URL = "http://127.0.0.1:9"


class Faulty(ServerProbe):
    """A probe with a fault of its own on every third look; a place with no work."""

    owed = 0
    last_progress = 0.0
    oldest = None

    def __init__(self) -> None:
        self._looks = 0

    async def healthy(self) -> bool:
        self._looks += 1
        if self._looks % 3 == 0:
            raise ZeroDivisionError("a fault")
        return True

    async def served_models(self) -> tuple[str, ...]:
        return ("m",)

    async def warm_up(self, model: str) -> str:
        return "/v1/completions"

    async def counters(self) -> Counters:
        return ()


async def test_it_is_followed_again_after_a_fault_and_not_called_ready_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attached_module, "_POLL_SECONDS", 0.001)
    state, faulty = EngineState(), Faulty()
    phases: list[Phase] = []
    ready_again = asyncio.Event()

    def note(before: Snapshot, after: Snapshot) -> None:
        phases.append(after.phase)
        if phases.count(Phase.READY) == 2:
            ready_again.set()

    state.listen(note)

    async def drained(seconds: float) -> bool:
        return True

    engine = AttachedEngine(
        Settings.load({"UPSTREAM_URL": URL}), state, faulty, drained, cast("Work", faulty)
    )
    engine.start()
    await asyncio.wait_for(ready_again.wait(), PATIENCE)
    await engine.stop()
    first = phases.index(Phase.READY)
    assert phases[first : first + 2] == [Phase.READY, Phase.DEGRADED]
    assert phases[-2:] == [Phase.DRAINING, Phase.STOPPED]
