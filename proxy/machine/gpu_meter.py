"""Reads the GPUs by NVML every few seconds, in a thread of its own.

A driver in trouble may hold a call for seconds, or for good: neither requests nor scrapes wait
for it, nor does the end of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Event, Thread
from time import monotonic
from typing import Any

from proxy.machine.hardware import opened_nvml
from proxy.machine.reading import GpuReading

EVERY_SECONDS = 5.0
STALE_SECONDS = 3 * EVERY_SECONDS


class GpuMeter:
    """Keeps the newest readings of all GPUs that NVML shows on this machine."""

    def __init__(self, every_seconds: float = EVERY_SECONDS) -> None:
        self._every_seconds = every_seconds
        self._newest: tuple[GpuReading, ...] = ()
        self._taken = 0.0
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="gpu meter", daemon=True)

    def readings(self) -> tuple[GpuReading, ...]:
        """In index order; empty without a GPU, and where the driver has not answered for long."""
        return self._newest if monotonic() - self._taken < STALE_SECONDS else ()

    def start(self) -> None:
        """Read on and on. Without a GPU the thread ends at once."""
        self._thread.start()

    def stop(self) -> None:
        """Do not wait for it: its last call may not return."""
        self._stopped.set()

    def _run(self) -> None:
        with opened_nvml() as nvml:
            if nvml is None:
                return
            while not self._stopped.is_set():
                with suppress(nvml.NVMLError):
                    self._newest = tuple(_read_all(nvml))
                    self._taken = monotonic()
                self._stopped.wait(self._every_seconds)


def _read_all(nvml: Any) -> Iterator[GpuReading]:
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        yield _read(nvml, index, handle)


def _read(nvml: Any, index: int, handle: Any) -> GpuReading:
    """Each value by itself: with MIG there is no utilization, in a passive card no temperature."""

    def ask(question: Callable[[], Any]) -> float | None:
        with suppress(nvml.NVMLError):
            return float(question())
        return None

    def memory(part: str) -> float | None:
        return ask(lambda: getattr(nvml.nvmlDeviceGetMemoryInfo(handle), part))

    percent = ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    milliwatts = ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    return GpuReading(
        index,
        utilization=None if percent is None else percent / 100,
        memory_used_bytes=memory("used"),
        memory_total_bytes=memory("total"),
        temperature_celsius=ask(
            lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
        ),
        power_watts=None if milliwatts is None else milliwatts / 1000,
    )
