"""The estimate of GPU memory: a warning where a model cannot fit, silence in doubt."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.machine.hardware import Gpu, Hardware
from proxy.preflight.finding import Result
from proxy.settings import Settings
from proxy.vllm.description import Description, ModelConfig
from proxy.vllm.memory import check_memory

GIB = 1024**3
# Qwen2-VL-7B: 16.6 GB of weights, 56 KiB of cache a token in 16 bits.
CONFIG = ModelConfig(
    architectures=("Qwen2VLForConditionalGeneration",),
    dtype="bfloat16",
    context_tokens=32768,
    cache_elements=2 * 28 * 4 * 128,
)
MODEL = Description("m", CONFIG, 16_600_000_000)


def gpus(gib: float, count: int = 1) -> Hardware:
    return Hardware(tuple(Gpu("NVIDIA X", int(gib * GIB)) for _ in range(count)), "570")


def check(hardware: Hardware, model: Description = MODEL, **environ: str) -> Any:
    return check_memory(model, Settings.load(environ), hardware)


def test_a_model_that_fits_is_reported_with_its_sizes() -> None:
    finding = check(gpus(24))
    assert finding.result is Result.OK
    assert finding.text == (
        "About 15.5 GiB of weights and 1.8 GiB of KV cache for one request of 32768 tokens"
        " in 22.8 GiB."
    )


def test_weights_that_do_not_fit_are_warned_about() -> None:
    finding = check(gpus(16))
    assert finding.result is Result.WARN
    assert "15.5 GiB, and the engine may use 15.2 GiB" in finding.text
    assert "TENSOR_PARALLEL_SIZE" in finding.remedy


def test_a_context_that_does_not_fit_is_warned_about_with_one_that_does() -> None:
    finding = check(gpus(24), MAX_MODEL_LEN="1M")
    assert finding.result is Result.WARN
    assert "One request of 1048576 tokens needs about 56.0 GiB" in finding.text
    length = int(finding.remedy.split()[3].rstrip(","))
    assert check(gpus(24), MAX_MODEL_LEN=str(length - 1)).result is Result.OK
    assert check(gpus(24), MAX_MODEL_LEN=str(length + 1)).result is Result.WARN


def test_several_gpus_share_the_weights() -> None:
    assert check(gpus(16, 2), TENSOR_PARALLEL_SIZE="2").result is Result.OK


def test_a_lower_share_leaves_less_room() -> None:
    assert check(gpus(24), GPU_MEMORY_UTIL="0.5").result is Result.WARN


def test_a_cache_in_8_bits_takes_half() -> None:
    assert check(gpus(24), MAX_MODEL_LEN="200k").result is Result.WARN
    assert check(gpus(24), MAX_MODEL_LEN="200k", KV_CACHE_DTYPE="fp8").result is Result.OK


def test_files_in_32_bits_are_loaded_in_16() -> None:
    config = ModelConfig(dtype="float32")
    assert check(gpus(16), Description("m", config, 20 * GIB)).result is Result.OK
    finding = check(gpus(16), Description("m", config, 20 * GIB), DTYPE="float32")
    assert finding.result is Result.WARN


@pytest.mark.parametrize("length", ["auto", "AUTO", "-1"])
def test_a_length_that_vllm_fits_to_the_memory_always_fits(length: str) -> None:
    assert check(gpus(16.5), MAX_MODEL_LEN=length).result is Result.OK


@pytest.mark.parametrize(
    "environ",
    [
        {"QUANTIZATION": "fp8"},
        {"CPU_OFFLOAD_GB": "10"},
        {"PIPELINE_PARALLEL_SIZE": "2"},
        {"TENSOR_PARALLEL_SIZE": "2"},
        {"VLLM_EXTRA_ARGS": "--cpu-offload-gb 10"},
        {"VLLM_EXTRA_ARGS": "--max-model-len 1000"},
        {"VLLM_EXTRA_ARGS": "-tp 2"},
        {"VLLM_EXTRA_ARGS": "--gpu_memory_utilization=0.5"},
    ],
)
def test_where_flags_change_the_sum_nothing_is_reported(environ: dict[str, str]) -> None:
    assert check_memory(MODEL, Settings.load(environ), gpus(8)) is None


@pytest.mark.parametrize("environ", [{"PIPELINE_PARALLEL_SIZE": "1"}, {"CPU_OFFLOAD_GB": "0"}])
def test_flags_that_say_what_vllm_does_anyway_change_nothing(environ: dict[str, str]) -> None:
    assert check_memory(MODEL, Settings.load(environ), gpus(8)) is not None


@pytest.mark.parametrize("argument", ["http://tp.example", "--chat-template=/max-model-len.jinja"])
def test_arguments_that_only_name_such_a_flag_change_nothing(argument: str) -> None:
    assert check(gpus(8), VLLM_EXTRA_ARGS=argument).result is Result.WARN


def test_names_in_lower_case_are_no_flags() -> None:
    here = Settings.load({"cpu_offload_gb": "10"})
    assert check_memory(MODEL, here, gpus(8)) is not None


def test_files_that_are_quantized_count_as_they_are() -> None:
    config = ModelConfig(quantized=True)
    finding = check(gpus(8), Description("m", config, 6 * GIB), QUANTIZATION="awq")
    assert finding.result is Result.OK


@pytest.mark.parametrize(
    "hardware", [Hardware(), Hardware((Gpu("NVIDIA GB10", None),), "580")], ids=["none", "shared"]
)
def test_without_a_gpu_of_known_size_nothing_is_reported(hardware: Hardware) -> None:
    assert check(hardware) is None


def test_without_known_weights_nothing_is_reported() -> None:
    assert check(gpus(24), Description("m", CONFIG)) is None
