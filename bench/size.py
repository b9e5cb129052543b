"""How much one measurement takes, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass

from bench.process import Child

TICK_MS = 20


@dataclass(frozen=True)
class Size:
    """How much of everything one measurement takes; seconds bound what is slow."""

    streams: int = 128
    tokens: int = 100
    stream_seconds: float = 12.0
    arrival_tokens: int = 25
    requests: int = 4000
    warm_up_requests: int = 512
    request_seconds: float = 3.0
    fresh_requests: int = 600
    warm_up_seconds: float = 1.5
    bodies: tuple[tuple[int, int], ...] = ((1, 12), (20, 3))
    """(megabytes, how many)"""
    beside_streams: int = 16
    beside_tokens: int = 40
    open_streams: int = 1000
    hold_seconds: float = 2.0


FULL = Size()
QUICK = Size(
    streams=32,
    tokens=30,
    requests=600,
    warm_up_requests=64,
    fresh_requests=100,
    bodies=((1, 3), (20, 1)),
    beside_streams=8,
    beside_tokens=30,
    open_streams=100,
    hold_seconds=1.2,
)


@dataclass(frozen=True)
class Target:
    """Where the load goes, and whose CPU time it costs."""

    port: int
    engine: Child
    proxy: Child | None
