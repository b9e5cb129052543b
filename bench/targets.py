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


def _more(variant: str, workload: str, figure: str) -> Callable[[Result], float | None]:
    """What a variant of ours takes beyond ours."""

    def value(result: Result) -> float | None:
        more = result.middle(variant, workload, figure)
        ours = result.middle("ours", workload, figure)
        return None if more is None or ours is None else more - ours

    return value


def _ours(workload: str, figure: str) -> Callable[[Result], float | None]:
    return lambda result: result.middle("ours", workload, figure)


# 1.5 bodies of 20 MB, in MiB.
_BODIES_MIB = 1.5 * 20e6 / 1024 / 1024
TARGETS = (
    Target(
        "CPU per token / vllm-router's",
        _ratio("vllm-router", "streams", "cpu_us_per_token"),
        0.65,
    ),
    Target("CPU per token / HAProxy's", _ratio("haproxy", "streams", "cpu_us_per_token"), 1.4),
    Target(
        "CPU per request / vllm-router's",
        _ratio("vllm-router", "requests", "cpu_us_per_request"),
        0.5,
    ),
    Target("CPU per request / HAProxy's", _ratio("haproxy", "requests", "cpu_us_per_request"), 3),
    Target(
        "the same on a new connection each / vllm-router's",
        _ratio("vllm-router", "fresh", "cpu_us_per_request"),
        0.6,
    ),
    Target(
        "keys, limits and the waiting room, a request",
        _more("ours-keys", "requests", "cpu_us_per_request"),
        8,
        "us",
    ),
    Target("CPU of a 20 MB body", _ours("bodies", "body_20mb_cpu_ms"), 30, "ms"),
    Target(
        "RSS above idle, 20 MB body",
        _ours("bodies", "body_20mb_above_idle_mib"),
        _BODIES_MIB,
        "MiB",
    ),
    Target(
        "token delay p99 over direct, beside two such bodies",
        _over_direct("beside", "delay_p99_ms"),
        10,
        "ms",
    ),
    Target("TTFT p50 over direct, one by one", _over_direct("arrivals", "ttft_p50_ms"), 1, "ms"),
    Target("TTFT p99 / HAProxy's, all at once", _ratio("haproxy", "streams", "ttft_p99_ms"), 1.2),
    Target("RSS with 1,000 streams", _ours("open_streams", "peak_rss_mib"), 100, "MiB"),
)
REAL_TARGETS = (
    Target(
        "output tokens/s / direct's, 64 streams",
        lambda result: result.middle_ratio("real", "tokens_per_second"),
        0.98,
        is_floor=True,
    ),
)
