"""The engine's own timings of a request, where it gives them (`ENABLE_PER_REQUEST_METRICS`).

vLLM 0.32, entrypoints/generate/base/serving.py: milliseconds; the first token counts from the
moment the request was taken out of the queue, so that queue and first token add up.
"""

from __future__ import annotations

from typing import Any

from proxy.telemetry.record import Record

# A larger whole number cannot be divided.
_MOST_MILLISECONDS = 2**53


def note_timings(record: Record, timings: Any) -> None:
    """Fill what is known; `timings` is whatever stood under `metrics`."""
    if isinstance(timings, dict):
        record.engine_queue_seconds = _seconds(timings.get("queue_time_ms"))
        record.engine_ttft_seconds = _seconds(timings.get("time_to_first_token_ms"))


def _seconds(milliseconds: Any) -> float | None:
    is_time = isinstance(milliseconds, int | float) and 0 <= milliseconds <= _MOST_MILLISECONDS
    return milliseconds / 1000 if is_time else None
