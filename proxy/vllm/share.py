"""Which share of the memory an engine is given before it was measured. Pure.

A model that is alone on its GPUs gets nearly all of them, and vLLM makes a KV cache of what is
left.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

from proxy.settings import Settings

DEFAULT_SHARE = 0.95
CPU_KV_CACHE = "VLLM_CPU_KVCACHE_SPACE"
DEMO_KV_CACHE_GIB = 1
_GIB = 1024**3
# What others have seen: 0.8 to 1.3 GiB of a GPU that is a model's own, 2 to 7 GiB of each that it
# shares with others of its own ranks.
_ASLEEP_BYTES = 2 * _GIB
_ASLEEP_BYTES_OF_A_RANK = 8 * _GIB


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """`--gpu-memory-utilization` and `--kv-cache-memory-bytes`; None: vLLM's own default."""

    share: float | None = None
    kv_cache_bytes: int | None = None


def declared_memory(
    settings: Settings, *, has_gpu: bool, device_bytes: int | None = None
) -> EngineMemory:
    """What a model is started with that was never measured. `device_bytes`: of each of its GPUs, or
    of the machine, where that is known."""
    if settings.gpu_memory_utilization is not None:
        return EngineMemory(settings.gpu_memory_utilization)
    share, budget = DEFAULT_SHARE, settings.memory_budget_bytes
    if budget is not None and device_bytes:
        share = min(share, budget / device_bytes)
    elif not has_gpu and settings.loaded_together == 1:
        return EngineMemory()
    if has_gpu and device_bytes:  # others may sleep on its GPUs meanwhile
        share = max(share - settings.asleep_beside_bytes / device_bytes, share / 2)
    if not has_gpu and CPU_KV_CACHE in settings.environ:
        return EngineMemory()
    return EngineMemory(rounded_down(share / settings.loaded_together))


def expected_asleep_bytes(settings: Settings) -> int:
    """What a model will hold of each of its GPUs while it sleeps, where that was never measured."""
    return _ASLEEP_BYTES if settings.tensor_parallel_size == 1 else _ASLEEP_BYTES_OF_A_RANK


def rounded_down(share: float) -> float:
    """So that shares of several do not add up to more."""
    return floor(share * 1000 + 1e-9) / 1000
