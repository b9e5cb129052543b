"""vLLM's own gauges and counters at one moment, read from its page of metrics (0.32,
v1/metrics/loggers.py).

A value that the page does not have is None: it is left out wherever it would be shown.
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
# Set by the steps of the engine's core and by nothing else. `kv_cache_usage_perc` grows with each
# step of a prefill, whose tokens are counted at its end.
_COUNTERS = re.compile(
    rb"^(vllm:(?:prompt_tokens_total|generation_tokens_total|prefix_cache_queries_total"
    rb"|kv_cache_usage_perc|num_requests_running|num_requests_waiting)\{[^\n]*)$",
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
    samples: dict[bytes, list[float]] = {}
    for name, value in _GAUGES.findall(page):
        samples.setdefault(name, []).append(float(value))
    running, waiting = samples.get(b"num_requests_running"), samples.get(b"num_requests_waiting")
    usage = samples.get(b"kv_cache_usage_perc")
    return EngineReading(
        running=sum(running) if running else None,
        waiting=sum(waiting) if waiting else None,
        kv_cache_usage=max(usage) if usage else None,
    )


def read_counters(page: bytes) -> tuple[bytes, ...]:
    """The samples, as they are written there, that change while the engine works; () without
    any."""
    return tuple(_COUNTERS.findall(page))
