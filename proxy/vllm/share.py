"""How much memory an engine is given: a share of each GPU, and the bytes of its KV cache. Pure.

A model that is alone on its GPUs gets nearly all of them, and vLLM makes a KV cache of what is
left. One that was measured beside others gets the cache that it had then, so that it takes the same
memory whoever is beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

from proxy.engine.history import Footprint
from proxy.settings import Settings

DEFAULT_SHARE = 0.95
CPU_KV_CACHE = "VLLM_CPU_KVCACHE_SPACE"
DEMO_KV_CACHE_GIB = 1
_GIB = 1024**3
# The processes of one vLLM on a CPU (measured: 1.5 GiB with the demo model, whose weights are
# nothing) before its KV cache.
_CPU_ENGINE_BYTES = 2 * _GIB
_LEAST_SHARE = 0.001
# What others have seen: 0.8 to 1.3 GiB of a GPU that is a model's own, 2 to 7 GiB of each that it
# shares with others of its own ranks.
_ASLEEP_BYTES = 2 * _GIB
_ASLEEP_BYTES_OF_A_RANK = 8 * _GIB
_OWN_KV_CACHE = ("KV_CACHE_MEMORY_BYTES", CPU_KV_CACHE)


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
    return EngineMemory(_rounded(share / settings.loaded_together))


def measured_memory(
    settings: Settings, footprint: Footprint, declared: EngineMemory, device_bytes: int | None
) -> EngineMemory:
    """What a model is started with beside others that has `footprint`."""
    cache = footprint.kv_cache_bytes
    if cache is None:  # vLLM has to find its size anew, by the same share
        return declared
    share = declared.share
    if device_bytes:
        # vLLM only asks whether so much is free. With the cache given the share decides nothing
        # else; the cache alone is always free where the model fits, whatever CUDA takes before.
        share = max(_rounded(cache / device_bytes), _LEAST_SHARE)
    has_own = any(name in settings.environ for name in _OWN_KV_CACHE)
    has_own = has_own or "--kv-cache-memory" in settings.extra_args
    return EngineMemory(share, None if has_own or not cache else cache)


def declared_bytes(
    settings: Settings,
    declared: EngineMemory,
    *,
    has_gpu: bool,
    device_bytes: int | None,
    demo: bool,
) -> int | None:
    """What a model takes of each of its devices by what is declared; None: as much as there is."""
    is_said = settings.gpu_memory_utilization is not None or settings.loaded_together > 1
    if is_said and declared.share is not None and device_bytes:
        return int(declared.share * device_bytes)
    if has_gpu:
        return None
    # vLLM sees for itself that memory is free for its cache, and fails in words where none is.
    space = settings.environ.get(CPU_KV_CACHE) or (str(DEMO_KV_CACHE_GIB) if demo else "0")
    return _CPU_ENGINE_BYTES + (int(space) * _GIB if space.isdecimal() else 0)


def filled_bytes(footprint: Footprint, declared: EngineMemory, device_bytes: int | None) -> int:
    """What a measured model may come to take: where it has a KV cache, vLLM has made that so large
    that its largest batches fill the share, and a start has none of these."""
    if footprint.kv_cache_bytes == 0 or declared.share is None or not device_bytes:
        return footprint.device_bytes
    return max(footprint.device_bytes, int(declared.share * device_bytes))


def expected_asleep_bytes(settings: Settings) -> int:
    """What a model will hold of each of its GPUs while it sleeps, where that was never measured."""
    return _ASLEEP_BYTES if settings.tensor_parallel_size == 1 else _ASLEEP_BYTES_OF_A_RANK


def _rounded(share: float) -> float:
    """Down, so that shares of several do not add up to more."""
    return floor(share * 1000 + 1e-9) / 1000
