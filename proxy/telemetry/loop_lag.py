"""How late the event loop comes to what it should have done: time that no request's clock sees."""

from __future__ import annotations

import asyncio

# The loop should come back so often; it costs some 20 us a second.
TICK_SECONDS = 0.1
# A lag is shown for one to two of these, so that no scrape misses it.
WINDOW_SECONDS = 15.0


class LoopLag:
    """The longest delay of a timer in the last 15 to 30 s."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due = self._window_ends = 0.0
        self._longest = self._longest_before = 0.0

    def start(self) -> None:
        """Measure the running loop, as long as it runs."""
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._window_ends = self._due + WINDOW_SECONDS
        self._tick()

    @property
    def seconds(self) -> float | None:
        """None before the start."""
        return None if self._loop is None else max(self._longest, self._longest_before)

    def _tick(self) -> None:
        assert self._loop is not None
        now = self._loop.time()
        if now >= self._window_ends:
            self._longest, self._longest_before = 0.0, self._longest
            self._window_ends = now + WINDOW_SECONDS
        self._longest = max(self._longest, now - self._due)
        self._due = now + TICK_SECONDS
        self._loop.call_at(self._due, self._tick)
