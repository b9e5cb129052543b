"""What the GPUs and the disk read at one moment.

A value that could not be read is None: it is left out wherever it would be shown.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU by its NVML index: 0..1 of the time busy, bytes, degrees Celsius, watts."""

    index: int
    utilization: float | None = None
    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None


@dataclass(frozen=True, slots=True)
class DiskReading:
    """The volume of the models: bytes that may still be written, and bytes there are."""

    free_bytes: float | None = None
    total_bytes: float | None = None
