"""Will the weights and the cache of one request fit the GPUs? An estimate, never a verdict.

What is counted: the sizes of the weight files, and the KV cache of one request of full
length. What is not: activations, CUDA itself, the vision encoder's working memory. So
"does not fit" is believed, and "fits" promises nothing.
"""

from __future__ import annotations

from proxy.machine.hardware import Hardware
from proxy.preflight.finding import Finding, Result
from proxy.settings import Settings
from proxy.settings.values import read_size
from proxy.vllm.description import Description, ModelConfig
from proxy.vllm.flags import extra_flags, is_changed
from proxy.vllm.share import DEFAULT_SHARE

CHECK = "GPU memory"
_GIB = 1024**3
_FLOAT32 = ("float32", "float")
# Flags that change what is counted here, wherever they are set to something else; and ours, set as
# arguments.
_OTHER_COUNTS = {
    "cpu-offload-gb": "0",
    "pipeline-parallel-size": "1",
    "kv-cache-memory-bytes": "None",
}
_OURS = {"gpu-memory-utilization", "tensor-parallel-size", "max-model-len", "quantization"}


def check_memory(model: Description, settings: Settings, hardware: Hardware) -> Finding | None:
    """None where nothing can be estimated: no GPU, GPUs without memory of their own, flags that
    keep weights elsewhere, weights that are quantized while they are loaded.

    Raises:
        SettingsError: VLLM_EXTRA_ARGS cannot be read.
    """
    weights, config = model.weights_bytes, model.config or ModelConfig()
    room = _room_bytes(settings, hardware)
    if not weights or room is None or (settings.quantization and not config.quantized):
        return None
    if config.dtype == "float32" and settings.dtype not in _FLOAT32:
        weights //= 2  # vLLM takes 16 bits then
    if weights > room:
        return Finding(
            CHECK,
            Result.WARN,
            f"The weights take about {_gib(weights)} GiB, and the engine may use {_gib(room)} GiB:"
            " the start will most likely fail for want of GPU memory.",
            "Set TENSOR_PARALLEL_SIZE over more GPUs, or take a smaller or quantized model.",
        )
    about = f"About {_gib(weights)} GiB of weights"
    tokens = _longest_request(settings, config)
    if tokens is None or config.cache_elements is None:
        return Finding(CHECK, Result.OK, f"{about} in {_gib(room)} GiB.")
    dtype, cache_dtype = settings.dtype or "auto", settings.kv_cache_dtype or ""
    element_bytes = 1 if cache_dtype.startswith("fp8") else 4 if dtype in _FLOAT32 else 2
    token_bytes = config.cache_elements * element_bytes
    cache = tokens * token_bytes
    if weights + cache <= room:
        one = f"and {_gib(cache)} GiB of KV cache for one request of {tokens} tokens"
        return Finding(CHECK, Result.OK, f"{about} {one} in {_gib(room)} GiB.")
    return Finding(
        CHECK,
        Result.WARN,
        f"One request of {tokens} tokens needs about {_gib(cache)} GiB of KV cache, and the weights"
        f" leave {_gib(room - weights)} GiB: the start will most likely fail.",
        f"Set MAX_MODEL_LEN below {(room - weights) // token_bytes}, or to auto.",
    )


def _room_bytes(settings: Settings, hardware: Hardware) -> int | None:
    """What the engine may use on all its GPUs together."""
    count = settings.tensor_parallel_size
    sizes = [gpu.memory_bytes for gpu in hardware.gpus if gpu.memory_bytes]
    changed = any(is_changed(settings, flag, same) for flag, same in _OTHER_COUNTS.items())
    if changed or _OURS & extra_flags(settings).keys() or len(sizes) < count:
        return None
    share = settings.gpu_memory_utilization or DEFAULT_SHARE
    return int(min(sizes) * share) * count


def _longest_request(settings: Settings, config: ModelConfig) -> int | None:
    """In tokens; None where vLLM fits it to the memory, or config.json has no length."""
    asked = settings.max_model_len
    if asked is None:
        return config.context_tokens
    return None if asked.lower() in ("auto", "-1") else read_size(asked)


def _gib(count: int) -> str:
    return f"{count / _GIB:.1f}"
