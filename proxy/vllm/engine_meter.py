"""Reads a few of the engine's gauges every few seconds, so that no scrape waits for the engine."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic

import httpx

from proxy.engine.phase import Phase
from proxy.engine.state import EngineState
from proxy.vllm.probe import Probe
from proxy.vllm.reading import EngineReading, read_engine_page

# Writing its page costs the engine some 4 ms: a thousandth of one core.
EVERY_SECONDS = 5.0
# Two readings may fail before the last one is no longer shown.
STALE_SECONDS = 3 * EVERY_SECONDS
# Where there is an engine that can be asked.
_UP = (Phase.WARMING, Phase.READY, Phase.DEGRADED, Phase.DRAINING)


class EngineMeter:
    """Keeps the newest reading."""

    def __init__(
        self, probe: Probe, state: EngineState, every_seconds: float = EVERY_SECONDS
    ) -> None:
        self.probe = probe
        self._state = state
        self._every_seconds = every_seconds
        self._newest = EngineReading()
        self._taken: float | None = None

    def reading(self) -> EngineReading:
        """The newest one; empty where the engine is not up, or has not answered for long."""
        if self._taken is None or not self._is_up():
            return EngineReading()
        return self._newest if monotonic() - self._taken < STALE_SECONDS else EngineReading()

    async def run(self) -> None:
        """Read on and on, until cancelled."""
        while True:
            if self._is_up():
                with suppress(httpx.HTTPError):
                    page = (await self.probe.metrics_page()).raise_for_status()
                    self._newest, self._taken = read_engine_page(page.content), monotonic()
            else:
                self._taken = None
            await asyncio.sleep(self._every_seconds)

    def _is_up(self) -> bool:
        return self._state.snapshot.phase in _UP
