"""The promises of docs/performance.md, each read off a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.result import Result


@dataclass(frozen=True)
class Target:
    """One promise; its value is None where a run cannot tell."""

    text: str
    value: Callable[[Result], float | None]
    limit: float
    unit: str = ""
    is_floor: bool = False
    """The limit is the least, not the most, that is good."""

    def reached(self, value: float) -> bool:
        return value >= self.limit if self.is_floor else value <= self.limit


def _ratio(peer: str, workload: str, figure: str) -> Callable[[Result], float | None]:
    def value(result: Result) -> float | None:
        ours = result.middle("ours", workload, figure)
        theirs = result.middle(peer, workload, figure)
        return ours / theirs if ours is not None and theirs else None

    return value


def _over_direct(workload: str, figure: str) -> Callable[[Result], float | None]:
    def value(result: Result) -> float | None:
        ours = result.middle("ours", workload, figure)
        direct = result.middle("direct", workload, figure)
        return None if ours is None or direct is None else ours - direct

    return value


def _ours(workload: str, figure: str) -> Callable[[Result], float | None]:
    return lambda result: result.middle("ours", workload, figure)


# 2.5 bodies of 20 MB, in MiB.
_BODIES_MIB = 2.5 * 20e6 / 1024 / 1024
TARGETS = (
    Target(
        "CPU per token / vllm-router's",
        _ratio("vllm-router", "streams", "cpu_us_per_token"),
        0.75,
    ),
    Target("CPU per token / HAProxy's", _ratio("haproxy", "streams", "cpu_us_per_token"), 1.5),
    Target(
        "CPU per request / vllm-router's",
        _ratio("vllm-router", "requests", "cpu_us_per_request"),
        0.8,
    ),
    Target("CPU of a 20 MB body", _ours("bodies", "body_20mb_cpu_ms"), 40, "ms"),
    Target(
        "RSS above idle, 20 MB body",
        _ours("bodies", "body_20mb_above_idle_mib"),
        _BODIES_MIB,
        "MiB",
    ),
    Target(
        "token delay p99 over direct, beside two such bodies",
        _over_direct("beside", "delay_p99_ms"),
        20,
        "ms",
    ),
    Target("TTFT p50 over direct, one by one", _over_direct("arrivals", "ttft_p50_ms"), 1, "ms"),
    Target("TTFT p99 / HAProxy's, all at once", _ratio("haproxy", "streams", "ttft_p99_ms"), 2),
    Target("RSS with 1,000 streams", _ours("open_streams", "peak_rss_mib"), 200, "MiB"),
)
REAL_TARGETS = (
    Target(
        "output tokens/s / direct's, 64 streams",
        lambda result: result.middle_ratio("real", "tokens_per_second"),
        0.97,
        is_floor=True,
    ),
)
