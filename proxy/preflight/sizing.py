"""How much memory the engine of one model is given, and what it took when it was measured.

One that was measured beside others gets the KV cache that it had then, so that it takes the same
memory whoever is beside it.
"""

from __future__ import annotations

import msgspec

from proxy.engine.history import Footprint, History
from proxy.machine.hardware import Hardware, engine_version
from proxy.machine.memory import machine_memory
from proxy.models.demo import BUILT_IN
from proxy.models.fetch import data_directory
from proxy.settings import Settings
from proxy.vllm.command import masked, sizing_arguments
from proxy.vllm.flags import value_of
from proxy.vllm.share import (
    CPU_KV_CACHE,
    DEMO_KV_CACHE_GIB,
    EngineMemory,
    declared_memory,
    expected_asleep_bytes,
    rounded_down,
)

_GIB = 1024**3
# The processes of one vLLM on a CPU (measured: 1.5 GiB with the demo model, whose weights are
# nothing) before its KV cache.
_CPU_ENGINE_BYTES = 2 * _GIB
_LEAST_SHARE = 0.001
_KV_CACHE = "kv-cache-memory-bytes"


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
        settings, declared = self._settings, self._declared
        cache = None if self.footprint is None else self.footprint.kv_cache_bytes
        # A model that has its GPUs for itself may as well have all of them. Where vLLM has to find
        # the size of its cache anew, it does so by the same share.
        if cache is None or settings.gpu_sharers == 1:
            return declared
        share = declared.share
        if self.device_bytes:
            # vLLM only asks whether so much is free. With the cache given the share decides nothing
            # else; the cache alone is always free where the model fits, whatever CUDA takes before.
            share = max(rounded_down(cache / self.device_bytes), _LEAST_SHARE)
        has_own = CPU_KV_CACHE in settings.environ or value_of(settings, _KV_CACHE) is not None
        return EngineMemory(share, None if has_own or not cache else cache)

    @property
    def needed_bytes(self) -> int | None:
        """Of each of its devices, as measured or else as declared; None: as much as there is."""
        settings, share, footprint = self._settings, self._declared.share, self.footprint
        declared = None
        if share is not None and self.device_bytes:
            declared = int(share * self.device_bytes)
        if footprint is not None:
            # Where it has a KV cache, vLLM has made that so large that its largest batches fill the
            # share, and a start has none of these.
            filled = 0 if footprint.kv_cache_bytes == 0 else declared or 0
            return max(footprint.device_bytes, filled)
        is_binding = settings.gpu_memory_utilization is not None or settings.loaded_together > 1
        if is_binding and declared is not None:
            return declared
        if self._has_gpu:
            return None
        # vLLM sees for itself that memory is free for its cache, and fails in words where none is.
        default = DEMO_KV_CACHE_GIB if self._demo else 0
        space = settings.environ.get(CPU_KV_CACHE, str(default))
        return _CPU_ENGINE_BYTES + (int(space) * _GIB if space.isdecimal() else 0)

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
