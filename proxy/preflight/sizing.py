"""How much memory the engine of one model is given, and what it took when it was measured."""

from __future__ import annotations

import msgspec

from proxy.engine.history import Footprint, History
from proxy.machine.hardware import Hardware, engine_version
from proxy.machine.memory import machine_memory
from proxy.models.demo import BUILT_IN
from proxy.models.fetch import data_directory
from proxy.settings import Settings
from proxy.vllm.command import masked, sizing_arguments
from proxy.vllm.share import (
    CPU_KV_CACHE,
    EngineMemory,
    declared_bytes,
    declared_memory,
    expected_asleep_bytes,
    filled_bytes,
    measured_memory,
)


class Sizing:
    """Of one model on the machine as its engine sees it. Reads files: make it in a thread."""

    def __init__(self, settings: Settings, name: str, hardware: Hardware) -> None:
        """`name`: what MODEL_NAME means.

        Raises:
            SettingsError: a variable holds what its flag cannot take.
        """
        self._settings = settings
        self._has_gpu = hardware.has_gpu
        self._demo = name in BUILT_IN
        if self._has_gpu:
            sizes = [gpu.memory_bytes for gpu in hardware.gpus if gpu.memory_bytes]
            least = min(sizes) if len(sizes) == len(hardware.gpus) else None
        else:
            machine = machine_memory()
            least = None if machine is None else machine.total
        self.device_bytes = least
        """Of each of its GPUs, or of the machine; None where that is unknown."""
        self._declared = declared_memory(
            settings, has_gpu=self._has_gpu, device_bytes=self.device_bytes
        )
        arguments = sizing_arguments(
            settings, has_gpu=self._has_gpu, demo=self._demo, memory=self._declared
        )
        if space := settings.environ.get(CPU_KV_CACHE):
            arguments.append(f"{CPU_KV_CACHE}={space}")
        revision = f" at {settings.model_revision}" if settings.model_revision else ""
        self._key = (
            f"{name}{revision} on {hardware.kind} with vLLM {engine_version()}:"
            f" {' '.join(masked(arguments))}"
        )
        self._history = History(data_directory(settings) / "memory.json", Footprint)
        self.footprint = self._history.newest(self._key)
        """What it took when nothing else changed on its devices; None: never measured."""

    @property
    def engine_memory(self) -> EngineMemory:
        """What its next start is given."""
        # A model that has its GPUs for itself may as well have all of them.
        if self.footprint is None or self._settings.gpu_sharers == 1:
            return self._declared
        return measured_memory(self._settings, self.footprint, self._declared, self.device_bytes)

    @property
    def needed_bytes(self) -> int | None:
        """Of each of its devices, as measured or else as declared; None: as much as there is."""
        if self.footprint is not None:
            return filled_bytes(self.footprint, self._declared, self.device_bytes)
        return declared_bytes(
            self._settings,
            self._declared,
            has_gpu=self._has_gpu,
            device_bytes=self.device_bytes,
            demo=self._demo,
        )

    @property
    def share(self) -> float | None:
        """The part of each of its devices that it takes."""
        if self.needed_bytes is None or not self.device_bytes:
            return self._declared.share
        return round(self.needed_bytes / self.device_bytes, 3)

    @property
    def asleep_bytes(self) -> int:
        """What it holds of each of its devices while it sleeps, as measured or else expected."""
        if not self._has_gpu:  # nothing is given back
            return self.needed_bytes or 0
        measured = None if self.footprint is None else self.footprint.asleep_bytes
        return expected_asleep_bytes(self._settings) if measured is None else measured

    def keep_asleep(self, device_bytes: int) -> None:
        """It was measured while it slept. Writes a file."""
        if (before := self.footprint) is not None:
            held = max(before.asleep_bytes or 0, device_bytes)
            self._replace(msgspec.structs.replace(before, asleep_bytes=held))

    def keep(self, device_bytes: int, kv_cache_bytes: int | None) -> None:
        """It was measured. Writes a file."""
        before, asleep_bytes = self.footprint, None
        if before is not None:
            # Its cache is the one that it was given; and what it once took it may take again.
            kv_cache_bytes = before.kv_cache_bytes
            device_bytes = max(before.device_bytes, device_bytes)
            asleep_bytes = before.asleep_bytes
        self._replace(Footprint(device_bytes, kv_cache_bytes, asleep_bytes))

    def _replace(self, footprint: Footprint) -> None:
        before, self.footprint = self.footprint, footprint
        if footprint != before:
            self._history.keep(self._key, footprint)

    def forget(self) -> None:
        """A start with this memory has failed for want of it: measure anew. Writes a file."""
        if self.footprint is not None:
            self.footprint = None
            self._history.forget(self._key)
