"""What a run ran on: numbers of different machines cannot be compared."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path

from bench.interpreter import described
from bench.rounds import Cores


def cores() -> Cores:
    """The first core for engine and load, the second for the proxy; one for both if need be."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(proxy=allowed[1 if len(allowed) > 1 else 0], others=allowed[0])


def describe() -> dict[str, str]:
    """Processor, memory, kernel, Python, and how busy the machine was before the run."""
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1024**3
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{memory_gib:.0f} GiB",
        "kernel": platform.release(),
        "python": described(),
        "load_before": f"{os.getloadavg()[0]:.2f}",
    }


def allow_many_files() -> None:
    """1,000 streams are 3,000 sockets; children inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
