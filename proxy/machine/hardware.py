"""What the engine can run on: NVIDIA GPUs as NVML sees them, or none."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; memory in bytes, None where it has none of its own (shared with the CPU)."""

    name: str
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Hardware:
    """GPUs in index order, and the driver where there is one.

    `trouble` is what the driver says where it is there, but a GPU of it cannot be read.
    """

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    trouble: str | None = None

    @property
    def has_gpu(self) -> bool:
        return bool(self.gpus)

    @property
    def kind(self) -> str:
        """What a start's duration depends on."""
        return ", ".join(gpu.name for gpu in self.gpus) or "CPU"

    def sentence(self) -> str:
        """One line for a log."""
        trouble = f"the driver does not let a GPU be read ({self.trouble})" if self.trouble else ""
        if not self.gpus:
            return trouble or "no GPU: the engine runs on the CPU"
        first = self.gpus[0]
        size = f", {first.memory_bytes / 1024**3:.0f} GiB each" if first.memory_bytes else ""
        summary = f"{len(self.gpus)} x {first.name}{size}, driver {self.driver}"
        return f"{summary}; {trouble}" if trouble else summary


@contextmanager
def opened_nvml() -> Iterator[Any]:
    """NVML's Python package, ready to be asked; None without it, or without a driver that works."""
    try:
        with _opened() as nvml:
            yield nvml
    except _NoNvml:
        yield None


class _NoNvml(Exception):
    """`str()` is what the driver says is wrong with it; empty where there is none."""


@contextmanager
def _opened() -> Iterator[Any]:
    """Raises _NoNvml."""
    try:
        import pynvml
    except ImportError:
        raise _NoNvml from None
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        raise _NoNvml from None
    except pynvml.NVMLError as error:
        raise _NoNvml(str(error)) from None
    try:
        yield pynvml
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def detect() -> Hardware:
    """Ask NVML. A machine without a driver, or without NVML's Python package, has no GPU."""
    gpus, trouble = [], None
    try:
        with _opened() as nvml:
            for index in range(nvml.nvmlDeviceGetCount()):
                try:
                    handle = nvml.nvmlDeviceGetHandleByIndex(index)
                    memory = None
                    # GPUs on the CPU's own memory (GB10, Jetson) do not say how much they have.
                    with suppress(nvml.NVMLError):
                        memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
                    gpus.append(Gpu(nvml.nvmlDeviceGetName(handle), memory))
                except nvml.NVMLError as error:
                    # One that has fallen off the bus is counted by NVML all the same.
                    trouble = f"GPU {index}: {error}"
            return Hardware(tuple(gpus), nvml.nvmlSystemGetDriverVersion(), trouble)
    except _NoNvml as error:
        return Hardware(trouble=str(error) or None)


def engine_version() -> str | None:
    """The installed vLLM's version (`0.32.0+cpu` for a CPU build), without importing it."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("vllm")
    return None
