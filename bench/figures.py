"""What one measurement yields: plain numbers, units in their names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, process_time
from types import TracebackType
from typing import Self

from bench.process import Child

Figures = dict[str, float]


class Meter:
    """CPU time of the proxy, the engine, this client and the machine between two moments."""

    def __init__(self, proxy: Child | None, engine: Child) -> None:
        self._proxy = proxy
        self._engine = engine

    def __enter__(self) -> Self:
        self._before = self._now()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        spent = [after - before for before, after in zip(self._before, self._now(), strict=True)]
        self.seconds, self.proxy_seconds, self.engine_seconds, self.client_seconds = spent[:4]
        self.others_seconds = max(spent[4] - sum(spent[1:4]), 0.0)

    def shares(self) -> Figures:
        """Engine and client near 1 together: they were measured. Others: who else ran here."""
        return {
            "seconds": self.seconds,
            "proxy_cpu_share": self.proxy_seconds / self.seconds,
            "engine_cpu_share": self.engine_seconds / self.seconds,
            "client_cpu_share": self.client_seconds / self.seconds,
            "others_cpu_share": self.others_seconds / self.seconds,
        }

    def _now(self) -> tuple[float, float, float, float, float]:
        proxy = self._proxy.cpu_seconds() if self._proxy is not None else 0.0
        return monotonic(), proxy, self._engine.cpu_seconds(), process_time(), _machine_seconds()


def _machine_seconds() -> float:
    """CPU time of everything on this machine: user, nice, system, irq and softirq."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, _idle, _wait, irq, softirq = map(int, line.split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not exceeded by `share` of them."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def in_ms(name: str, values_ns: Sequence[int]) -> Figures:
    """p50 and p99 of times; nothing where none was taken."""
    if not values_ns:
        return {}
    return {
        f"{name}_p50_ms": percentile(values_ns, 0.5) / 1e6,
        f"{name}_p99_ms": percentile(values_ns, 0.99) / 1e6,
    }
