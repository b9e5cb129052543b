"""What the engine can run on: NVIDIA GPUs as NVML sees them, or none."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from proxy.errors import SettingsError

VISIBLE = "CUDA_VISIBLE_DEVICES"
# What CUDA, and who shares out GPUs, write for no GPU.
_NONE_FROM_HERE = ("-1", "NoDevFiles", "none", "void")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; memory in bytes, None where it has none of its own (shared with the CPU)."""

    name: str
    memory_bytes: int | None
    index: int = 0
    """NVML's."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """The GPUs that CUDA shows, in its order, and the driver where there is one.

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
def opened_nvml() -> Iterator[tuple[Any, str | None]]:
    """NVML's Python package, ready to be asked; None without it, or without a driver that works.
    Beside it, what a driver that is there says is wrong with it."""
    nvml: Any = None
    trouble = None
    with suppress(ImportError):
        import pynvml

        try:
            pynvml.nvmlInit()
            nvml = pynvml
        except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
            pass
        except pynvml.NVMLError as error:
            trouble = str(error)
    try:
        yield nvml, trouble
    finally:
        if nvml is not None:
            with suppress(nvml.NVMLError):
                nvml.nvmlShutdown()


def detect(visible: str | None = None) -> Hardware:
    """Ask NVML. A machine without a driver, or without NVML's Python package, has no GPU.

    `visible`: the value of CUDA_VISIBLE_DEVICES, of which NVML knows nothing.

    Raises:
        SettingsError: it names a GPU that is not here.
    """
    gpus = []
    with opened_nvml() as (nvml, trouble):
        if nvml is None:
            return Hardware(trouble=trouble)
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                memory = None
                # GPUs on the CPU's own memory (GB10, Jetson) do not say how much they have.
                with suppress(nvml.NVMLError):
                    memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
                gpus.append(Gpu(nvml.nvmlDeviceGetName(handle), memory, index))
            except nvml.NVMLError as error:
                # One that has fallen off the bus is counted by NVML all the same.
                trouble = f"GPU {index}: {error}"
        shown = tuple(_visible(nvml, gpus, visible))
        return Hardware(shown, nvml.nvmlSystemGetDriverVersion(), trouble)


def visible_entries(visible: str | None) -> list[str] | None:
    """The entries of CUDA_VISIBLE_DEVICES; None: all GPUs are visible."""
    return [entry.strip() for entry in visible.split(",")] if visible else None


def _visible(nvml: Any, gpus: Sequence[Gpu], visible: str | None) -> Iterator[Gpu]:
    """Raises SettingsError."""
    entries = visible_entries(visible)
    # Parts of GPUs (MIG) are not told apart.
    if entries is None or any(entry.startswith("MIG") for entry in entries):
        yield from gpus
        return
    count = nvml.nvmlDeviceGetCount()
    for entry in entries:
        if entry in _NONE_FROM_HERE:
            return
        if entry.isdecimal():
            matching = [gpu for gpu in gpus if gpu.index == int(entry)]
        else:
            # CUDA takes the beginning of a UUID for the whole.
            handles = [(gpu, nvml.nvmlDeviceGetHandleByIndex(gpu.index)) for gpu in gpus]
            matching = [
                gpu
                for gpu, handle in handles
                if entry.startswith("GPU-") and nvml.nvmlDeviceGetUUID(handle).startswith(entry)
            ]
        yield from matching
        is_lost = entry.isdecimal() and int(entry) < count
        if count and len(matching) != 1 and not is_lost:
            raise SettingsError(
                f"{VISIBLE}={visible}: there is no GPU {entry} here; allowed are 0 to"
                f" {count - 1}, or their UUIDs (nvidia-smi -L)"
            )


def engine_version() -> str | None:
    """The installed vLLM's version (`0.32.0+cpu` for a CPU build), without importing it."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("vllm")
    return None
