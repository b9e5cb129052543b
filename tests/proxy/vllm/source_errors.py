"""Errors that were not recorded, and what a user should read of them.

No GPU, no real hub and no second machine made these. The texts follow the source of vLLM
0.32, torch 2.13, transformers and huggingface_hub, or runs whose output was not kept.
"""

from __future__ import annotations

from proxy.errors import Cause
from tests.proxy.vllm.case import Case

FROM_SOURCE = {
    "FileNotFoundError: Weight files referenced in index but missing: "
    "{'/models/mine/model-00002-of-00002.safetensors'}": Case(
        Cause.CORRUPT_FILE, True, "complete: model-00002-of-00002.safetensors is", "again"
    ),
    "ValueError: Following weights were not initialized from checkpoint: {'lm_head.weight'}": Case(
        Cause.CORRUPT_FILE, True, "not complete: lm_head.weight is missing", "Fetch the model again"
    ),
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.32 GiB. GPU 0 has a total "
    "capacity of 23.65 GiB of which 1.15 GiB is free. Including non-PyTorch memory, this process "
    "has 22.49 GiB memory in use.": Case(
        Cause.OUT_OF_MEMORY,
        True,
        "2.32 GiB more were needed (GPU 0: 1.15 GiB of 23.65 GiB free)",
        "GPU_MEMORY_UTIL",
    ),
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.32 GiB. GPU 0 has a total "
    "capacity of 23.65 GiB of which 1.15 GiB is free. Process 4242 has 20.00 GiB memory in "
    "use.": Case(Cause.OUT_OF_MEMORY, False, "other processes use the same GPU", "GPU_MEMORY_UTIL"),
    "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests. "
    "Please try lowering `max_num_seqs`": Case(
        Cause.OUT_OF_MEMORY, True, "1024 requests", "Lower MAX_NUM_SEQS"
    ),
    "ValueError: Free memory on device cuda:0 (10.76/23.65 GiB) on startup is less than desired "
    "GPU memory utilization (0.95, 22.47 GiB). Decrease GPU memory utilization": Case(
        Cause.OUT_OF_MEMORY, False, "only 10.76 of 23.65 GiB GPU", "GPU_MEMORY_UTIL=0.45 fits"
    ),
    "ValueError: Free memory on device cuda:0 (0.50/23.65 GiB) on startup is less than desired GPU "
    "memory utilization (0.95, 22.47 GiB).": Case(
        Cause.OUT_OF_MEMORY, False, "only 0.50 of 23.65 GiB GPU", "Stop what else"
    ),
    "ValueError: Available memory on node 0 (10.76/12.09 GiB) on startup is less than desired CPU "
    "memory utilization (0.92, 11.12 GiB).": Case(
        Cause.OUT_OF_MEMORY, False, "only 10.76 of 12.09 GiB CPU", "GPU_MEMORY_UTIL=0.88 fits"
    ),
    "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't "
    "allocate memory: you tried to allocate 9 bytes.": Case(
        Cause.OUT_OF_MEMORY, False, "RAM", "VLLM_CPU_KVCACHE_SPACE"
    ),
    "ValueError: To serve at least one request with the model's max seq len (65536), (0.5 GiB KV "
    "cache is needed, which is larger than the available KV cache memory (0.09 GiB). Based on the "
    "available memory, the estimated maximum model length is 12032. Try increasing": Case(
        Cause.KV_CACHE_TOO_SMALL, True, "MAX_MODEL_LEN=65536", "MAX_MODEL_LEN=12032 fits"
    ),
    "ValueError: To serve at least one request with the model's max seq len (65536), (0.5 GiB KV "
    "cache is needed, which is larger than the available KV cache memory (0.09 GiB). Try": Case(
        Cause.KV_CACHE_TOO_SMALL, True, "0.5 GiB", "Lower MAX_MODEL_LEN"
    ),
    "ValueError: No available memory for the cache blocks. Try increasing": Case(
        Cause.KV_CACHE_TOO_SMALL, True, "no memory for the KV cache", "Raise GPU_MEMORY_UTIL"
    ),
    "  Value error, World size (4) is larger than the number of available GPUs (2) in this node. "
    "If this is": Case(Cause.TOO_FEW_GPUS, True, "4 GPUs were asked", "TENSOR_PARALLEL_SIZE=2"),
    "torch.AcceleratorError: CUDA error: invalid device ordinal": Case(
        Cause.TOO_FEW_GPUS, True, "More GPUs", "TENSOR_PARALLEL_SIZE"
    ),
    "RuntimeError: No CUDA GPUs are available": Case(
        Cause.TOO_FEW_GPUS, True, "No GPU is visible", "--gpus all"
    ),
    "RuntimeError: The NVIDIA driver on your system is too old (found version 12020). Please "
    "update your GPU driver": Case(Cause.DRIVER_TOO_OLD, True, "up to 12.2", "driver of the host"),
    "/x/torch/cuda/__init__.py:182: UserWarning: CUDA initialization: The NVIDIA driver on your "
    "system is too old (found version 11040).\nRuntimeError: Failed to infer device type": Case(
        Cause.DRIVER_TOO_OLD, True, "up to 11.4", "driver of the host"
    ),
    "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions "
    "before calling NumCudaDevices() that might have already set an error? Error 804: forward "
    "compatibility was attempted on non supported HW": Case(
        Cause.DRIVER_TOO_OLD, True, "too old for this image", "driver of the host"
    ),
    "torch.AcceleratorError: CUDA error: no kernel image is available for execution on the "
    "device": Case(Cause.GPU_UNSUPPORTED, True, "no code for this GPU", "another GPU"),
    "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum "
    "capability: 75. Current capability: 70.": Case(
        Cause.GPU_UNSUPPORTED, True, "compute capability 7.0, and 7.5 is needed", "newer GPU"
    ),
    "RuntimeError: Quantization scheme is not supported for the current GPU. Min capability: 100. "
    "Current capability: 90.": Case(
        Cause.GPU_UNSUPPORTED, True, "compute capability 9.0, and 10.0 is needed", "quantization"
    ),
    "ValueError: No valid attention backend found for cuda with AttentionSelectorConfig(head_size"
    "=72, dtype=torch.float32).": Case(
        Cause.GPU_UNSUPPORTED, True, "No attention kernel", "Unset ATTENTION_BACKEND"
    ),
    "  Value error, Model architecture MptForCausalLM was supported in vLLM until v0.28.0, and is "
    "not supported anymore. Please use an older version": Case(
        Cause.UNSUPPORTED_MODEL, True, "ran MptForCausalLM up to version 0.28.0,", "vLLM 0.28.0"
    ),
    "  Value error, Model architecture BartModel is not supported in-tree anymore. Please install "
    "the plugin at https://github.com/vllm-project/bart-plugin if you want to use": Case(
        Cause.UNSUPPORTED_MODEL, True, "plugin at https://github.com/vllm-project", "Install it"
    ),
    "ImportError: This modeling file requires the following packages that were not found in your "
    "environment: flash_attn, timm. Run `pip install flash_attn timm`": Case(
        Cause.MISSING_PACKAGE, True, "not installed: flash_attn, timm.", "Build an image"
    ),
    "ImportError: Please install timm==0.9.10": Case(
        Cause.MISSING_PACKAGE, True, "not installed: timm==0.9.10.", "Build an image"
    ),
    "ImportError: cannot import name 'apply_rope' from 'flash_attn.layers' (/x/layers.py)": Case(
        Cause.MISSING_PACKAGE, True, "flash_attn.layers has no apply_rope", "vLLM's image"
    ),
    "ImportError: libGL.so.1: cannot open shared object file: No such file or directory": Case(
        Cause.MISSING_PACKAGE, True, "not installed: libGL.so.1.", "Install it in the image"
    ),
    "PermissionError: [Errno 13] Permission denied: '/root/.cache/vllm/torch_compile_cache'": Case(
        Cause.CACHE_NOT_WRITABLE, True, "/root/.cache/vllm/torch_compile_cache", "VLLM_CACHE_ROOT"
    ),
    "PermissionError: [Errno 13] Permission denied: '/data/hf/hub/models--a--b'": Case(
        Cause.CACHE_NOT_WRITABLE, True, "model cache cannot be written", "HF_HOME"
    ),
    "  Value error, Bfloat16 is only supported on GPUs with compute capability of at least 8.0. "
    "Your Tesla T4 GPU has compute capability 7.5.": Case(
        Cause.BAD_FLAG, True, "Tesla T4 cannot", "DTYPE=half"
    ),
    "torch.distributed.DistBackendError: NCCL error in: /x/NCCLUtils.hpp:77, unhandled cuda "
    "error": Case(Cause.CRASHED, False, "cannot talk to each other", "NCCL_DEBUG=WARN"),
    "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)": Case(
        Cause.CRASHED, False, "unhandled system error", "NCCL_DEBUG=WARN"
    ),
    "AssertionError: Error in memory profiling. Initial free memory 9.1 GiB, current": Case(
        Cause.UNKNOWN, False, "Another process gave GPU memory back", "Start again"
    ),
    "TimeoutError: Timed out waiting for engine core processes to start. This is often caused by "
    "slow weight loading for large models. Waited 600s (configured by": Case(
        Cause.START_TIMEOUT, False, "after 600 s", "VLLM_ENGINE_READY_TIMEOUT_S"
    ),
    "  Value error, Total number of attention heads (2) must be divisible by tensor parallel size "
    "(4).": Case(Cause.BAD_FLAG, True, "TENSOR_PARALLEL_SIZE=4", "TENSOR_PARALLEL_SIZE to 1 or 2"),
    "  Value error, Unknown quantization method: superquant. Must be one of ['awq', 'fp8'].": Case(
        Cause.UNSUPPORTED_MODEL, True, "quantization superquant", "one of awq, fp8,"
    ),
    "  Value error, The checkpoint you are trying to load has model type `foobar` but Transformers "
    "does not recognize this architecture.": Case(
        Cause.UNSUPPORTED_MODEL, True, "type foobar", "MODEL_NAME"
    ),
    "KeyError: \"Reasoning parser 'nope' not found. Available parsers: a, b\"": Case(
        Cause.BAD_FLAG, True, "REASONING_PARSER cannot be nope", "one of a, b"
    ),
    "TypeError: Error: --enable-auto-tool-choice requires --tool-call-parser": Case(
        Cause.BAD_FLAG, True, "ENABLE_AUTO_TOOL_CHOICE", "Set TOOL_CALL_PARSER"
    ),
    "ValueError: Error: --enable-per-request-metrics requires engine statistics logging": Case(
        Cause.BAD_FLAG, True, "ENABLE_PER_REQUEST_METRICS", "ENABLE_PER_REQUEST_METRICS"
    ),
    "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 8001): address "
    "already in use": Case(Cause.PORT_IN_USE, False, "the engine's port", "UPSTREAM_PORT"),
    "huggingface_hub.errors.HFValidationError: Repo id must use alphanumeric chars or '-', '_', "
    "'.': './no-such-model'.": Case(
        Cause.MODEL_NOT_FOUND, True, "'./no-such-model'", "names a repository"
    ),
    "OSError: no/such is not a local folder and is not a valid model identifier listed on "
    "'https://huggingface.co/models'": Case(
        Cause.MODEL_NOT_FOUND, True, "no/such is not", "check what names a repository (TOKENIZER, "
    ),
    "OSError: v9 is not a valid git identifier (branch name, tag name or commit id)": Case(
        Cause.MODEL_NOT_FOUND, True, "v9 is not a valid git identifier", "names a repository"
    ),
    "huggingface_hub.errors.DisabledRepoError: 403 Client Error.\n\nCannot access repository for "
    "url https://huggingface.co/a/b.\nAccess to this resource is disabled.\nOSError: We couldn't "
    "connect to 'https://huggingface.co' to load the files": Case(
        Cause.MODEL_NOT_FOUND,
        True,
        "disabled: Cannot access repository for url https://huggingface.co/a/b.",
        "names",
    ),
    "huggingface_hub.errors.GatedRepoError: 403 Client Error.\n\nAccess to model a/b-3.1 is "
    "restricted and you are not in the authorized list. Visit": Case(
        Cause.MODEL_GATED,
        True,
        "model a/b-3.1 is restricted and you are not in the authorized list.",
        "HF_TOKEN",
    ),
    "huggingface_hub.errors.HfHubHTTPError: Client error '401 Unauthorized' for url 'https://x'\n"
    "OSError: There was a specific connection error when trying to load a/b:": Case(
        Cause.TOKEN_INVALID, True, "does not accept HF_TOKEN", "HF_TOKEN"
    ),
    "huggingface_hub.errors.HfHubHTTPError: Client error '429 Too Many Requests' for url 'x'": Case(
        Cause.HUB_RATE_LIMITED, False, "429", "HF_TOKEN"
    ),
    "huggingface_hub.errors.HfHubHTTPError: Server error '503 Service Unavailable' for url "
    "'https://huggingface.co/a/b/resolve/main/model.safetensors'": Case(
        Cause.HUB_UNREACHABLE,
        False,
        "503 Service Unavailable' for url 'https://huggingface.co/a/b/",
        "HF_ENDPOINT",
    ),
    "httpx2.RemoteProtocolError: peer closed connection without sending complete message body "
    "(received 100000 bytes, expected 857072)": Case(
        Cause.HUB_UNREACHABLE, False, "received 100000 bytes", "HF_ENDPOINT"
    ),
    "OSError: [Errno 30] Read-only file system: '/data/hf'": Case(
        Cause.CACHE_NOT_WRITABLE, True, "cannot be written", "HF_HOME"
    ),
    "RuntimeError: Data processing error: No space left on device (os error 28)": Case(
        Cause.DISK_FULL, True, "The disk is full.", "HF_HOME"
    ),
    "OSError: [Errno 28] No space left on device: '/psm_1234abcd'": Case(
        Cause.DISK_FULL, True, "/dev/shm", "--shm-size"
    ),
    "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: header too "
    "large": Case(Cause.CORRUPT_FILE, True, "Git LFS pointer", "git lfs pull"),
    "RuntimeError: start (0) + length (512) exceeds dimension size (256).": Case(
        Cause.CORRUPT_FILE, True, "shapes", "config.json"
    ),
    "OSError: It looks like the config file at '/models/x/config.json' is not a valid JSON "
    "file.": Case(Cause.CORRUPT_FILE, True, "config.json of the model", "Fetch"),
    "OSError: Can't load tokenizer for 'a/b'. If you were trying to load it from": Case(
        Cause.NO_TOKENIZER, True, "tokenizer is missing", "TOKENIZER"
    ),
    "vllm serve: error: argument --tokenizer: expected one argument": Case(
        Cause.BAD_FLAG, True, "TOKENIZER (--tokenizer) has no value", "VLLM_EXTRA_ARGS"
    ),
    "vllm serve: error: argument --limit-mm-per-prompt: Value {image:2 cannot be converted to "
    "<function loads>.": Case(Cause.BAD_FLAG, True, "LIMIT_MM_PER_PROMPT", "LIMIT_MM_PER_PROMPT"),
    "vllm serve: error: argument -tp/--tensor-parallel-size: invalid int value: 'two'": Case(
        Cause.BAD_FLAG, True, "TENSOR_PARALLEL_SIZE cannot be two", "(vLLM wants: int)"
    ),
    "vllm serve: error: ambiguous option: --max could match --max-logprobs, --max-loras": Case(
        Cause.BAD_FLAG, True, "--max is short for", "--max-logprobs, --max-loras"
    ),
    "vllm: error: unrecognized arguments: stray": Case(
        Cause.BAD_FLAG, True, "belongs to no flag", "quotes in VLLM_EXTRA_ARGS"
    ),
    "vllm: error: unrecognized arguments: --entirely-new-thing=1": Case(
        Cause.BAD_FLAG, True, "know --entirely-new-thing.", "Remove it from VLLM_EXTRA_ARGS"
    ),
    "huggingface_hub.errors.HfHubHTTPError: (Request ID: x)\n\n403 Forbidden: Please enable access "
    "to public gated repositories in your fine-grained token settings to view this.": Case(
        Cause.MODEL_GATED, True, "403 Forbidden: Please enable access to public", "HF_TOKEN"
    ),
    "huggingface_hub.errors.RevisionNotFoundError: 404 Client Error. (Request ID: x)\n\nRevision "
    "Not Found for url: https://huggingface.co/a/b/resolve/v9/config.json.": Case(
        Cause.MODEL_NOT_FOUND,
        True,
        "Revision Not Found for url: https://huggingface.co/a/b/resolve/v9",
        "names",
    ),
    "huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach https://huggingface.co/x": Case(
        Cause.MODEL_NOT_FOUND, True, "HF_HUB_OFFLINE forbids", "Unset HF_HUB_OFFLINE"
    ),
    "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central": Case(
        Cause.CORRUPT_FILE, True, "cut off or damaged", "fetch it again"
    ),
    "Failed to load model - not enough GPU memory. Try lowering --gpu-memory-utilization": Case(
        Cause.OUT_OF_MEMORY, True, "Out of GPU memory at start", "GPU_MEMORY_UTIL"
    ),
    "Fatal Python error: Segmentation fault": Case(
        Cause.CRASHED, False, "native code (Segmentation fault)", "log"
    ),
}
