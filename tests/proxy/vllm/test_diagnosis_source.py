"""Failures that could not be recorded here, above all those of a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.errors import Cause, EngineFailure
from proxy.vllm.diagnosis import diagnose
from tests.proxy.vllm.case import Case, assert_explained
from tests.proxy.vllm.recording import SERVED
from tests.proxy.vllm.source_errors import FROM_SOURCE
from tests.tools import installed

GENERIC_TAIL = (
    "Exception: WorkerProc initialization failed due to an exception in a background process. "
    "See stack trace for root cause.",
    "RuntimeError: Engine core initialization failed. See root cause above. "
    "Failed core proc(s): {'EngineCore': 1}",
)


def _worker_fails_with(error: str) -> list[str]:
    """An error as vLLM 0.32 prints it: in the worker's block, the generic tail below."""
    prefix = "(Worker pid=7) ERROR 11-20 10:54:40 [multiproc_executor.py:953] "
    block = [
        "WorkerProc failed to start.",
        "Traceback (most recent call last):",
        *error.split("\n"),
    ]
    return [
        "(APIServer pid=1) INFO 11-20 10:54:30 [api_utils.py:286] non-default args: {}",
        *(prefix + line for line in block),
        *GENERIC_TAIL,
    ]


def diagnose_source(error: str) -> EngineFailure:
    first = error.partition("\n")[0]
    bare = first.startswith(("vllm", "ERROR:", "/x/", "Fatal"))
    lines = error.split("\n") if bare else _worker_fails_with(error)
    return diagnose(lines, 1, was_ready=False)


@pytest.mark.parametrize("error", FROM_SOURCE)
def test_an_error_from_the_source_is_reported(error: str) -> None:
    assert_explained(diagnose_source(error), FROM_SOURCE[error])


def _request_kills_engine(error: str) -> list[str]:
    prefix = "(EngineCore pid=7) ERROR 11-20 10:54:40 [core.py:1512] "
    block = ["EngineCore encountered a fatal error.", "Traceback (most recent call last):", error]
    return [SERVED, *(prefix + line for line in block)]


WHILE_SERVING = [
    (
        "RuntimeError: Worker failed with error 'CUDA out of memory. Tried to allocate 2.00 "
        "GiB. GPU 0 has a total', please check the stack trace above for the root cause",
        Case(Cause.OUT_OF_MEMORY, False, "while serving: 2.00 GiB", "MAX_NUM_SEQS"),
    ),
    (
        "torch.AcceleratorError: CUDA error: out of memory",
        Case(Cause.OUT_OF_MEMORY, False, "while serving", "IMAGE_LIMIT"),
    ),
    (
        "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
        Case(Cause.CRASHED, False, "GPU kernel failed", "ENFORCE_EAGER=true"),
    ),
    (
        "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered",
        Case(Cause.CRASHED, False, "hardware fault", "another machine"),
    ),
    (
        "OSError: [Errno 28] No space left on device",
        Case(Cause.DISK_FULL, False, "while serving", "/dev/shm"),
    ),
    (
        "TimeoutError: RPC call to execute_model timed out.",
        Case(Cause.WEDGED, False, "execute_model timed out", "nvidia-smi"),
    ),
    (
        "ValueError: something new",
        Case(Cause.CRASHED, False, "crashed on a request: ValueError: something new", "kind"),
    ),
]


def diagnose_crash(error: str) -> EngineFailure:
    return diagnose(_request_kills_engine(error), 0, was_ready=True)


@pytest.mark.parametrize(("error", "expected"), WHILE_SERVING)
def test_a_crash_while_serving_is_reported(error: str, expected: Case) -> None:
    assert_explained(diagnose_crash(error), expected)


@pytest.mark.parametrize(
    ("failed", "cause", "sentence"),
    [
        ("{'EngineCore': -9}", Cause.KILLED, "vanished while it started"),
        ("{'EngineCore': -11}", Cause.CRASHED, "native code (SIGSEGV)"),
        ("{}", Cause.KILLED, "vanished while it started"),
    ],
)
def test_a_start_that_ends_without_any_error_was_ended_by_a_signal(
    failed: str, cause: Cause, sentence: str
) -> None:
    *beginning, _ = _worker_fails_with("")
    tail = GENERIC_TAIL[1].replace("{'EngineCore': 1}", failed)
    failure = diagnose([*beginning, tail], 1, was_ready=False)
    assert failure.cause is cause
    assert sentence in failure.message
    # With the beginning lost, an error may be lost too.
    assert diagnose([*beginning[1:], tail], 1, was_ready=False).cause is Cause.UNKNOWN


def test_a_worker_that_ends_after_an_unknown_error_was_not_killed() -> None:
    died = "(EngineCore pid=2) ERROR 11-20 10:54:40 [x.py:1] Worker proc VllmWorker-0 died unexp"
    lines = [*_worker_fails_with("ValueError: something new"), died + "ectedly (exit code: None)"]
    assert diagnose(lines, 1, was_ready=False).cause is Cause.UNKNOWN


def test_a_main_process_that_ends_by_an_error_of_its_own_is_quoted() -> None:
    failure = diagnose([SERVED, "ValueError: something new"], 1, was_ready=True)
    assert failure.message == (
        "The engine ended by itself with exit code 1: ValueError: something new"
    )


def test_an_engine_that_was_asked_to_stop_has_not_crashed() -> None:
    asked = "(APIServer pid=1) INFO 11-20 11:20:10 [a.py:1] [shutdown] API server: shutdown trig"
    failure = diagnose([SERVED, asked + "gered"], None, was_ready=False)
    assert failure.cause is Cause.START_TIMEOUT
    for exit_code, was_ready in ((0, False), (0, True), (None, True)):
        failure = diagnose([SERVED, asked + "gered"], exit_code, was_ready=was_ready)
        assert "asked to stop" in failure.message


IN_SOURCE = {
    "vllm/config/vllm.py": ["is not supported for the current GPU. Minimum "],
    "vllm/model_executor/layers/quantization/compressed_tensors/compressed_tensors.py": [
        "Quantization scheme is not supported for the current GPU. ",
        "Min capability: {min_capability}. ",
    ],
    "vllm/model_executor/models/registry.py": [
        "Model architecture {arch} was supported in vLLM until ",
        "Model architecture {arch} is not supported in-tree anymore. ",
        "Please install the plugin at {plugin_url} if you want to ",
    ],
    "vllm/model_executor/models/minicpmv.py": ["Please install timm==0.9.10"],
    "transformers/dynamic_module_utils.py": [
        "This modeling file requires the following packages that were not found in your "
    ],
    "vllm/config/model.py": ["Unknown quantization method: {self.quantization}. Must "],
    "vllm/config/parallel.py": [
        "World size ({self.world_size}) is larger than the number of ",
        "available GPUs ({gpu_count})",
    ],
    "vllm/platforms/cuda.py": [
        "Bfloat16 is only supported on GPUs ",
        "No valid attention backend found for {cls.device_name} ",
    ],
    "vllm/v1/core/kv_cache_utils.py": [
        "No available memory for the cache blocks. ",
        "the estimated maximum model length is {estimated_max_len}. ",
    ],
    "vllm/v1/engine/core.py": ["EngineCore encountered a fatal error."],
    "vllm/v1/engine/core_client.py": [
        "engine core exited unexpectedly",
        "Timed out waiting for engine core processes to ",
    ],
    "vllm/v1/engine/utils.py": ["Engine core initialization failed. "],
    "vllm/v1/executor/multiproc_executor.py": ["Worker proc %s died unexpectedly"],
    "vllm/v1/worker/gpu_model_runner.py": [
        "CUDA out of memory occurred when warming up sampler with ",
        "Failed to load model - not enough GPU memory. ",
        "Capturing CUDA graphs ({}, {})",
    ],
    "vllm/v1/worker/gpu_worker.py": ["Error in memory profiling. "],
    "vllm/v1/worker/utils.py": [
        "Free memory on device {init_snapshot.device_} ",
        "is less than desired GPU memory utilization ",
    ],
    "vllm/distributed/device_communicators/pynccl_wrapper.py": ["NCCL error: {error_str}"],
    "transformers/utils/hub.py": ["is not a local folder and is not a valid model identifier "],
    "transformers/tokenization_utils_base.py": ["Can't load tokenizer for '"],
}


def _installed(file: str) -> Path:
    package, _, rest = file.partition("/")
    return installed(package) / rest


@pytest.mark.parametrize("file", IN_SOURCE)
def test_the_texts_stand_in_the_installed_source(file: str) -> None:
    source = _installed(file).read_text()
    assert [text for text in IN_SOURCE[file] if text not in source] == []
