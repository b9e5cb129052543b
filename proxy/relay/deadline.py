"""How long an answer may take, as a whole and without a byte."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from time import monotonic

from proxy.errors import EngineTimeout
from proxy.relay.connection import Connection


class Deadline:
    """Aborts an exchange that outlives its limits (seconds; None is no limit)."""

    def __init__(self, total_seconds: float | None, idle_seconds: float | None) -> None:
        self._total_seconds = total_seconds
        self._idle_seconds = idle_seconds
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def watch(self, connection: Connection, started: float) -> None:
        """Begin; `started` is when the request came (monotonic seconds)."""
        if self._total_seconds is not None:
            loop = asyncio.get_running_loop()
            left = started + self._total_seconds - monotonic()
            self._timers["total"] = loop.call_later(
                left, lambda: connection.abort(self._too_long())
            )
        if self._idle_seconds is not None:
            self._check_idle(connection)

    def cancel(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    async def within(self, wait: Awaitable[None]) -> None:
        """Wait for a client no longer than the whole may take.

        Raises:
            EngineTimeout: that time is over.
        """
        timer = self._timers.get("total")
        try:
            async with asyncio.timeout_at(timer.when() if timer else None):
                await wait
        except TimeoutError:
            raise self._too_long() from None

    def _too_long(self) -> EngineTimeout:
        return EngineTimeout(
            f"The answer took longer than REQUEST_TIMEOUT={self._total_seconds:g} s."
        )

    def _check_idle(self, connection: Connection) -> None:
        assert self._idle_seconds is not None
        now = monotonic()
        left = (connection.silent_since or now) + self._idle_seconds - now
        if left <= 0:
            text = f"The engine sent nothing for STREAM_IDLE_TIMEOUT={self._idle_seconds:g} s."
            connection.abort(EngineTimeout(text))
            return
        loop = asyncio.get_running_loop()
        self._timers["idle"] = loop.call_later(left, self._check_idle, connection)
