"""`/sleep`, `/wake_up` and `/is_sleeping`, which vLLM has in dev mode."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs

from . import refusals
from .deliver import Reply
from .engine import Engine
from .plain import found

PATHS = {"/sleep": "POST", "/wake_up": "POST", "/is_sleeping": "GET"}


async def answer(engine: Engine, method: str, path: str, query: str) -> Reply:
    """As the scenario says. A body is ignored, as vLLM does."""
    if method != PATHS[path]:
        raise refusals.Refusal(405, refusals.METHOD_NOT_ALLOWED)
    if path == "/is_sleeping":
        return found({"is_sleeping": not engine.is_up.is_set()})
    ending = engine.scenario.sleep if path == "/sleep" else engine.scenario.wake
    if ending == "hang":
        await asyncio.Event().wait()
    if ending == "fail":
        raise refusals.Refusal(500, refusals.error(500, "scripted", path=path))
    if path == "/sleep":
        parameters = parse_qs(query)
        waits = parameters.get("mode") == ["wait"]
        while waits and engine.metrics.running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if ending != "lie":
            engine.is_up.clear()
        return found({"status": "sleeping", "level": int(parameters.get("level", ["1"])[0])})
    engine.has_changed = ending == "other"
    if ending != "part":
        engine.is_up.set()
    return found({"status": "sleeping" if ending == "part" else "awake", "tags": None})
