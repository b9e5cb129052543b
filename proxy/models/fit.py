"""What a preset needs of a GPU, and how long a request may be on one of a given size. Pure.

Sizes in GB are 10^9 bytes. The estimate is weights + KV cache of one request, and a reserve for
activations, CUDA graphs and CUDA itself: a fifth of that, at least 2 GB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.settings import Settings
from proxy.settings.preset import Preset
from proxy.settings.values import read_size

_GB = 1e9
_KIB = 1024
_RESERVED_SHARE = 0.2
_RESERVED_GB = 2.0
_STEP_TOKENS = 1024
# A shorter context is of no use to a chat.
_MIN_CONTEXT = 2048
# As vLLM wants it: a number that divides a model's heads.
_PARALLEL_SIZES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Fit:
    """How a preset fits: on so many GPUs, with requests of so many tokens.

    `changes` is what must be set beside the preset for it. `tokens` is None where it is unknown.
    """

    gpus: int
    tokens: int | None
    changes: tuple[str, ...] = ()


def needed_gb(weights_gb: float, cache_kib: float, tokens: int) -> float:
    """Memory for the weights and one request of `tokens`, in whole GB."""
    content = weights_gb + tokens * cache_kib * _KIB / _GB
    return math.ceil(content + max(content * _RESERVED_SHARE, _RESERVED_GB))


def longest_request(preset: Preset, memory_gb: float) -> int | None:
    """Tokens that fit beside the weights, at most `max_context`; None where that is unknown."""
    if preset.weights_gb is None or preset.cache_kib is None or preset.max_context is None:
        return None
    content = min(memory_gb / (1 + _RESERVED_SHARE), memory_gb - _RESERVED_GB)
    room = (content - preset.weights_gb) * _GB
    if room < 0 or preset.cache_kib == 0:
        return 0 if room < 0 else preset.max_context
    tokens = int(room / (preset.cache_kib * _KIB))
    return min(preset.max_context, tokens - tokens % _STEP_TOKENS)


def fit(preset: Preset, gpus_gb: Sequence[float]) -> Fit | None:
    """The best way for the preset on these GPUs; None where there is none.

    `preset.gpu_memory_gb` must not be None.
    """
    assert preset.gpu_memory_gb is not None
    settings = Settings.load(preset.engine_variables)
    own = settings.tensor_parallel_size  # `4.0` is 4 there
    length = settings.max_model_len or ""
    asked = read_size(length) if length[:1].isdecimal() else None
    # More GPUs than the file says is the next best; fewer are enough where they are large.
    sizes = sorted(_PARALLEL_SIZES, key=lambda size: (size != own, size))
    ways = [(size, min(gpus_gb) * size) for size in sizes if size <= len(gpus_gb)]
    for gpus, memory in ways:
        if memory >= preset.gpu_memory_gb:
            changes = () if gpus == own else (f"TENSOR_PARALLEL_SIZE={gpus}",)
            longest = longest_request(preset, memory)
            # The source knows better than the estimate that its MAX_MODEL_LEN fits.
            return Fit(gpus, max(longest, asked or 0) if longest is not None else asked, changes)
    for gpus, memory in ways:
        shorter = longest_request(preset, memory) or 0
        if shorter >= _MIN_CONTEXT:
            changes = () if gpus == own else (f"TENSOR_PARALLEL_SIZE={gpus}",)
            return Fit(gpus, shorter, (*changes, f"MAX_MODEL_LEN={shorter}"))
    return None
