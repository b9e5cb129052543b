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
    """GPUs in index order, and the driver where there is one."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None

    @property
    def has_gpu(self) -> bool:
        return bool(self.gpus)

    @property
    def kind(self) -> str:
        """What a start's duration depends on."""
        return ", ".join(gpu.name for gpu in self.gpus) or "CPU"

    def sentence(self) -> str:
        """One line for a log."""
        if not self.gpus:
            return "no GPU: the engine runs on the CPU"
        first = self.gpus[0]
        size = f", {first.memory_bytes / 1024**3:.0f} GiB each" if first.memory_bytes else ""
        return f"{len(self.gpus)} x {first.name}{size}, driver {self.driver}"


@contextmanager
def opened_nvml() -> Iterator[Any]:
    """NVML's Python package, ready to be asked; None without it, or without a driver."""
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def detect() -> Hardware:
    """Ask NVML. A machine without a driver, or without NVML's Python package, has no GPU."""
    with opened_nvml() as nvml:
        return Hardware() if nvml is None else _read(nvml)


def _read(nvml: Any) -> Hardware:
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    gpus = tuple(Gpu(nvml.nvmlDeviceGetName(handle), _memory(nvml, handle)) for handle in handles)
    return Hardware(gpus, nvml.nvmlSystemGetDriverVersion())


def _memory(nvml: Any, handle: Any) -> int | None:
    with suppress(nvml.NVMLError):  # GPUs on the CPU's own memory (GB10, Jetson) do not say
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    return None


def engine_version() -> str | None:
    """The installed vLLM's version (`0.32.0+cpu` for a CPU build), without importing it."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("vllm")
    return None
