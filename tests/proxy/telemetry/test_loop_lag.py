"""The lag of an event loop whose clock the test moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from proxy.telemetry.loop_lag import TICK_SECONDS, WINDOW_SECONDS, LoopLag
from proxy.telemetry.metrics import Metrics


class Loop:
    """Its clock, and the one timer that is set."""

    now = 50.0

    def time(self) -> float:
        return self.now

    def call_at(self, due: float, callback: Callable[[], None]) -> None:
        self.due, self.callback = due, callback

    def come_late(self, seconds: float) -> None:
        self.now = self.due + seconds
        self.callback()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    return loop


def test_before_the_start_nothing_is_known() -> None:
    assert LoopLag().seconds is None
    assert Metrics().registry.get_sample_value("sidecar_event_loop_lag_seconds") is None


def test_the_longest_lag_is_shown_for_one_to_two_windows(loop: Loop) -> None:
    lag = LoopLag()
    lag.start()
    assert lag.seconds == 0
    for late in (0.01, 0.2, 0.05):
        loop.come_late(late)
    seen_until = loop.now
    assert lag.seconds == pytest.approx(0.2)
    while lag.seconds == pytest.approx(0.2):
        seen_until = loop.now
        loop.come_late(0.0)
    ticks = 3 * TICK_SECONDS + 0.26
    assert WINDOW_SECONDS - ticks <= seen_until - 50.0 <= 2 * (WINDOW_SECONDS + ticks)
    assert lag.seconds == pytest.approx(0.0)


async def test_a_loop_that_is_held_is_seen_on_the_page_of_metrics() -> None:
    metrics = Metrics()
    metrics.gauges.loop_lag.start()
    for _ in range(20):
        # As cores would that are taken by others.
        asyncio.get_running_loop().call_soon(time.sleep, 2 * TICK_SECONDS)
        await asyncio.sleep(TICK_SECONDS / 10)
        if (metrics.gauges.loop_lag.seconds or 0) >= TICK_SECONDS:
            break
    value = metrics.registry.get_sample_value("sidecar_event_loop_lag_seconds")
    assert value is not None
    assert value >= TICK_SECONDS
