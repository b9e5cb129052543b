"""vLLM's own gauges at one moment, read from its page of metrics.

A value that is not known is None: it is left out wherever it would be shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# One sample for each engine core (`engine="0"`, more of them with data parallelism).
_GAUGES = re.compile(
    rb"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc)(?:\{[^\n]*\})? "
    rb"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class EngineReading:
    """Requests in the engine's batch and in its queue, of all its cores together; and the share
    (0..1) of the KV cache in use, of the core that is fullest: it is where requests wait."""

    running: float | None = None
    waiting: float | None = None
    kv_cache_usage: float | None = None


def read_engine_page(page: bytes) -> EngineReading:
    """The gauges on vLLM's page of metrics (0.32, v1/metrics/loggers.py)."""
    found: dict[bytes, list[float]] = {}
    for name, value in _GAUGES.findall(page):
        found.setdefault(name, []).append(float(value))
    running, waiting = found.get(b"num_requests_running"), found.get(b"num_requests_waiting")
    usage = found.get(b"kv_cache_usage_perc")
    return EngineReading(
        running=sum(running) if running else None,
        waiting=sum(waiting) if waiting else None,
        kv_cache_usage=max(usage) if usage else None,
    )
