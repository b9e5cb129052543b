"""Reads the GPUs, and how full the volume of the models is, now and then: each in its own thread.

A driver or a network volume in trouble may hold a question for minutes, or for good. Neither
requests nor scrapes wait for it, nor does the end of the process.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any, Generic, TypeVar

from proxy.machine.checks import existing_folder
from proxy.machine.hardware import opened_nvml
from proxy.machine.reading import DiskReading, GpuReading

GPU_SECONDS = 5.0
DISK_SECONDS = 60.0

Reading = TypeVar("Reading")


class Meter(Generic[Reading]):
    """Keeps the newest of the readings that a generator takes. Its None is one that failed."""

    def __init__(
        self,
        name: str,
        readings: Generator[Reading | None, None, None],
        nothing: Reading,
        every_seconds: float,
    ) -> None:
        self.stale_seconds = 3 * every_seconds
        """An older reading is not shown."""
        self._readings = readings
        self._nothing = nothing
        self._every_seconds = every_seconds
        self._newest = nothing
        self._taken = 0.0
        self._stopped = Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def reading(self) -> Reading:
        """Empty before the first one, and where none has been taken for long."""
        return self._newest if monotonic() - self._taken < self.stale_seconds else self._nothing

    def start(self) -> None:
        """Read on and on, until there is nothing to read or `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Do not wait for it: its last question may not be answered."""
        self._stopped.set()

    def _run(self) -> None:
        for reading in self._readings:
            if reading is not None:
                self._newest, self._taken = reading, monotonic()
            if self._stopped.wait(self._every_seconds):
                break
        self._readings.close()


def disk_meter(folder: Path, every_seconds: float = DISK_SECONDS) -> Meter[DiskReading]:
    """The volume that `folder` is on, or is going to be."""

    def readings() -> Generator[DiskReading | None, None, None]:
        while True:
            reading = None
            with suppress(OSError):
                usage = shutil.disk_usage(existing_folder(folder))
                reading = DiskReading(free_bytes=usage.free, total_bytes=usage.total)
            yield reading

    return Meter("disk meter", readings(), DiskReading(), every_seconds)


def gpu_meter(every_seconds: float = GPU_SECONDS) -> Meter[tuple[GpuReading, ...]]:
    """All GPUs that NVML shows on this machine, in index order; none without NVML."""

    def readings() -> Generator[tuple[GpuReading, ...] | None, None, None]:
        with opened_nvml() as (nvml, _):
            while nvml is not None:
                reading = None
                with suppress(nvml.NVMLError):
                    count = nvml.nvmlDeviceGetCount()
                    reading = tuple(_gpu_reading(nvml, index) for index in range(count))
                yield reading

    return Meter("gpu meter", readings(), (), every_seconds)


def _gpu_reading(nvml: Any, index: int) -> GpuReading:
    """Each value by itself: with MIG there is no utilization, in a passive card no temperature."""
    gpu = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(question: Callable[[], Any]) -> float | None:
        with suppress(nvml.NVMLError):
            return float(question())
        return None

    return GpuReading(
        index,
        utilization=ask(lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100),
        memory_used_bytes=ask(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used),
        memory_total_bytes=ask(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).total),
        temperature_celsius=ask(
            lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)
        ),
        power_watts=ask(lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000),
    )
