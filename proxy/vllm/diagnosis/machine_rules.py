"""Starts and runs that fail because of the machine: memory, GPUs, driver, time.

No GPU was at hand: rules marked [C] follow the source of vLLM 0.32, torch 2.13 or NCCL.
"""

from __future__ import annotations

from proxy.errors import Cause
from proxy.vllm.diagnosis.rule import Rule, error

_LESS_WEIGHT = "TENSOR_PARALLEL_SIZE over more GPUs, QUANTIZATION, or a smaller model"

# [C] c10/cuda/CUDACachingAllocator.cpp; HIP prints the same.
_TORCH_MEMORY = (
    r"(?:CUDA|HIP) out of memory\. Tried to allocate (?P<size>[\d.]+ \w+)\."
    r"(?: GPU (?P<gpu>\d+) has a total capacity of (?P<capacity>[\d.]+ \w+)"
    r" of which (?P<left>[\d.]+ \w+) is free\.)?"
)

# torch only warns of a driver that it cannot use; what vLLM raises then is "no device".
_CUDA_WARNING = r"(?:\S{1,300} UserWarning: CUDA initialization: )?"

_GPU_ERRORS: tuple[Rule, ...] = (
    Rule(
        Cause.CRASHED,
        error(r"CUDA error: (?P<problem>uncorrectable ECC error[^\n]*)"),
        "The GPU has a hardware fault: {problem}.",
        "Move to another machine; this GPU needs a reset or a replacement.",
        permanent=False,
    ),
    Rule(
        Cause.CRASHED,
        # [C] vllm pynccl_wrapper.py; torch's DistBackendError begins alike.
        error(r"NCCL error(?: in)?: (?P<problem>[^\n'\"]+)"),
        "The GPUs cannot talk to each other (NCCL: {problem}).",
        "Set NCCL_DEBUG=WARN to see why; NCCL_P2P_DISABLE=1 or a larger /dev/shm often helps.",
        permanent=False,
    ),
    Rule(
        Cause.CRASHED,
        error(
            r"CUDA error: (?P<problem>an illegal memory access[^\n'\"]*|device-side assert[^\n'\"]*"
            r"|unspecified launch failure|misaligned address|an illegal instruction[^\n'\"]*)"
        ),
        "A GPU kernel failed: {problem}.",
        "If it comes back, set ENFORCE_EAGER=true, or use another image.",
        permanent=False,
    ),
)

_HOST_MEMORY = Rule(
    Cause.OUT_OF_MEMORY,
    error(r"(?:.*DefaultCPUAllocator: can't allocate memory|std::bad_alloc|MemoryError\b)"),
    "The machine ran out of memory (RAM, not GPU memory).",
    "Give the container more memory, or lower what the engine keeps there (CPU_OFFLOAD_GB, "
    "VLLM_CPU_KVCACHE_SPACE).",
    permanent=False,
)

MACHINE_RULES: tuple[Rule, ...] = (
    Rule(
        Cause.KV_CACHE_TOO_SMALL,
        error(
            r"To serve at least one request [^\n]*?\((?P<asked>\d+)\), \((?P<size>[\d.]+) GiB KV"
            r"[^\n]*?KV cache memory \((?P<left>[\d.]+) GiB\)"
            r"(?:[^\n]*?estimated maximum model length is (?P<longest>\d+))?"
        ),
        "One request of MAX_MODEL_LEN={asked} tokens needs {size} GiB of KV cache; {left} GiB are "
        "left.",
        "{shorten} raise GPU_MEMORY_UTIL, or set KV_CACHE_DTYPE=fp8.",
    ),
    Rule(
        Cause.KV_CACHE_TOO_SMALL,
        error(r"No available memory for the cache blocks"),
        "The weights leave no memory for the KV cache.",
        f"Raise GPU_MEMORY_UTIL; if it is high already: {_LESS_WEIGHT}.",
    ),
    Rule(
        Cause.OUT_OF_MEMORY,
        error(
            r"(?:Free memory on device \S+|Available memory on node \d+)"
            r" \((?P<free>\d+(?:\.\d+)?)/(?P<total>\d+(?:\.\d+)?) GiB\) on startup is less than "
            r"desired (?P<device>\w+) memory utilization \((?P<share>[\d.]+), (?P<asked>[\d.]+)"
        ),
        "GPU_MEMORY_UTIL={share} asks for {asked} GiB, but only {free} of {total} GiB {device} "
        "memory are free.",
        "{fit}Stop what else uses that memory.",
        # Often the engine that died a moment ago still holds it.
        permanent=False,
    ),
    Rule(
        Cause.OUT_OF_MEMORY,
        error(
            r"Available memory on node \d+ \((?P<left>[\d.]+)/[\d.]+ GiB\) on kv cache allocation "
            r"is less than requested memory for kv \((?P<asked>[\d.]+) GiB\)"
        ),
        "A KV cache of {asked} GiB was asked for, but only {left} GiB of memory are free.",
        "Lower VLLM_CPU_KVCACHE_SPACE or KV_CACHE_MEMORY_BYTES.",
    ),
    Rule(
        Cause.OUT_OF_MEMORY,
        # [C] v1/worker/gpu_model_runner.py
        error(
            r"CUDA out of memory occurred when warming up (?P<step>\w+) with "
            r"(?P<count>\d+) dummy requests"
        ),
        "Out of GPU memory while warming up for {count} requests at once.",
        "Lower MAX_NUM_SEQS (it is {count}) or GPU_MEMORY_UTIL.",
    ),
    Rule(
        Cause.OUT_OF_MEMORY,
        error(_TORCH_MEMORY + r"[^\n]* Process \d+ has "),
        "Out of GPU memory at start ({size} more were needed); other processes use the same GPU.",
        "Stop what else uses that GPU, or lower GPU_MEMORY_UTIL.",
        permanent=False,
    ),
    Rule(
        Cause.OUT_OF_MEMORY,
        error(_TORCH_MEMORY),
        "Out of GPU memory at start: {size} more were needed{gpu_memory}.",
        f"Lower GPU_MEMORY_UTIL, MAX_NUM_SEQS or MAX_BATCHED_TOKENS; if the weights do not fit: "
        f"{_LESS_WEIGHT}.",
    ),
    Rule(
        Cause.OUT_OF_MEMORY,
        error(r"(?:Failed to load model - not enough GPU memory|CUDA error: out of memory)"),
        "Out of GPU memory at start.",
        f"Lower GPU_MEMORY_UTIL; if the weights do not fit: {_LESS_WEIGHT}.",
    ),
    _HOST_MEMORY,
    Rule(
        Cause.DRIVER_TOO_OLD,
        # [C] torch/csrc/cuda/Module.cpp
        error(
            _CUDA_WARNING
            + r"The NVIDIA driver on your system is too old \(found version (?P<driver>\d{4,6})\)"
        ),
        "The NVIDIA driver is too old for this image: it only knows CUDA up to {cuda}.",
        "Update the driver of the host, choose a host with a newer one, or use an older image.",
    ),
    Rule(
        Cause.DRIVER_TOO_OLD,
        # [C] CUDA runtime, errors 35, 803 and 222
        error(
            _CUDA_WARNING
            + r"[^\n]{0,300}?(?:CUDA driver version is insufficient for CUDA runtime version"
            r"|forward compatibility was attempted on non supported HW"
            r"|system has unsupported display driver / cuda driver combination"
            r"|the provided PTX was compiled with an unsupported toolchain)"
        ),
        "The NVIDIA driver is too old for this image.",
        "Update the driver of the host, choose a host with a newer one, or use an older image.",
    ),
    Rule(
        Cause.TOO_FEW_GPUS,
        # [C] vllm/config/parallel.py
        error(
            r"World size \((?P<asked>\d+)\) is larger than the number of available GPUs "
            r"\((?P<count>\d+)\)"
        ),
        "{asked} GPUs were asked for, {count} are there.",
        "Set TENSOR_PARALLEL_SIZE={count} (times PIPELINE_PARALLEL_SIZE, if set), or add GPUs.",
    ),
    Rule(
        Cause.TOO_FEW_GPUS,
        error(
            r"Not enough allowed NUMA nodes to bind threads of (?P<asked>\d+) local CPUWorkers"
            r"(?:\. Allowed NUMA nodes are \[(?P<nodes>[\d, ]*)\])?"
        ),
        "{asked} workers were asked for; this machine without a GPU has fewer NUMA nodes.",
        "Set TENSOR_PARALLEL_SIZE=1 and unset PIPELINE_PARALLEL_SIZE.",
    ),
    Rule(
        Cause.TOO_FEW_GPUS,
        # [C] torch
        error(r"CUDA error: invalid device ordinal"),
        "More GPUs were asked for than this container has.",
        "Lower TENSOR_PARALLEL_SIZE, or add GPUs.",
    ),
    Rule(
        Cause.TOO_FEW_GPUS,
        # [C] torch, vllm/config/device.py
        error(
            r"(?:Found no NVIDIA driver on your system|No CUDA GPUs are available"
            r"|CUDA error: no CUDA-capable device|Failed to infer device type)"
        ),
        "No GPU is visible in this container.",
        "Start the container with GPUs (docker run --gpus all); check NVIDIA_VISIBLE_DEVICES.",
    ),
    Rule(
        Cause.GPU_UNSUPPORTED,
        # [C] vllm/config/vllm.py, quantization/moe_wna16.py, compressed_tensors.py, quark.py
        error(
            r"(?:The quantization method (?P<method>[^\n]{1,60}?) is|Quantization scheme is) not "
            r"supported for the current GPU\. (?:Minimum|Min|Required) capability: (?P<least>\d+)\."
            r" Current capability: (?P<capability>\d+)"
        ),
        "This GPU is too old for the model's quantization: it has compute capability"
        " {capability_dotted}, and {least_dotted} is needed.",
        "Use a newer GPU, or set MODEL_NAME to the model with another quantization or with none.",
    ),
    Rule(
        Cause.GPU_UNSUPPORTED,
        # [C] vllm/platforms/cuda.py
        error(r"No valid attention backend found for (?P<device>\w+) with "),
        "No attention kernel of this vLLM fits this model on this GPU with these settings.",
        "Unset ATTENTION_BACKEND, KV_CACHE_DTYPE and BLOCK_SIZE; otherwise use a newer GPU.",
    ),
    Rule(
        Cause.GPU_UNSUPPORTED,
        error(r"CUDA error: no kernel image is available for execution on the device"),
        "This image holds no code for this GPU model.",
        "Use another GPU, or an image that was built for this one.",
    ),
    Rule(
        Cause.UNKNOWN,
        # [C] v1/worker/gpu_worker.py
        error(r"Error in memory profiling\. Initial free memory"),
        "Another process gave GPU memory back while the engine measured it.",
        "Start again; better, give the engine a GPU of its own.",
        permanent=False,
    ),
    Rule(
        Cause.DISK_FULL,
        error(
            r"Insufficient space in (?P<place>\S+) for [^\n]*?"
            r"(?P<need>\d+ MiB) required, (?P<free>\d+ MiB) free"
        ),
        "Shared memory ({place}) is too small: {need} are needed, {free} are free.",
        "Give the container more shared memory (docker run --shm-size=8g, or --ipc=host).",
    ),
    Rule(
        Cause.START_TIMEOUT,
        # [C] v1/engine/core_client.py
        error(r"Timed out waiting for engine core processes to start.*?Waited (?P<seconds>\d+)s"),
        "vLLM gave up waiting for its own engine after {seconds} s.",
        "Set VLLM_ENGINE_READY_TIMEOUT_S higher, or put the model on a faster disk.",
        permanent=False,
    ),
    *_GPU_ERRORS,
)

RUN_RULES: tuple[Rule, ...] = (
    Rule(
        Cause.OUT_OF_MEMORY,
        error(_TORCH_MEMORY),
        "Out of GPU memory while serving: {size} more were needed{gpu_memory}.",
        "Lower GPU_MEMORY_UTIL (it leaves more for activations), MAX_NUM_SEQS, MAX_BATCHED_TOKENS "
        "or IMAGE_LIMIT.",
        permanent=False,
    ),
    Rule(
        Cause.OUT_OF_MEMORY,
        error(r"(?:CUDA|HIP) error: out of memory"),
        "Out of GPU memory while serving.",
        "Lower GPU_MEMORY_UTIL (it leaves more for activations), MAX_NUM_SEQS, MAX_BATCHED_TOKENS "
        "or IMAGE_LIMIT.",
        permanent=False,
    ),
    _HOST_MEMORY,
    Rule(
        Cause.DISK_FULL,
        error(r"(?:\[Errno (?:28|122)\]|.*\(os error 28\))"),
        "The disk (or /dev/shm) became full while serving.",
        "Make room, or give the volume or /dev/shm more space.",
        permanent=False,
    ),
    Rule(
        Cause.WEDGED,
        error(r"RPC call to (?P<step>\w+) timed out"),
        "A worker of the engine did not answer any more ({step} timed out).",
        "If it comes back, look at the GPU (nvidia-smi, Xid errors) and at NCCL_DEBUG=WARN.",
        permanent=False,
    ),
    *_GPU_ERRORS,
)
