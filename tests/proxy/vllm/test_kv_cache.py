"""What vLLM's own lines say of its KV cache."""

from __future__ import annotations

import pytest

from proxy.vllm.output import Output
from tests.proxy.vllm.recording import SERVED, recording

GIB = 1024**3
WEIGHTS = "(Worker pid=9) INFO 11-20 10:46:58 [loader.py:1] Loading weights took 0.20 seconds"
PROFILED = (
    "(Worker_TP{} pid=9) INFO 11-20 10:46:59 [gpu_worker.py:758] Available KV cache memory: {} GiB"
)
GIVEN = (
    "(Worker pid=9) INFO 11-20 10:46:59 [gpu_worker.py:676] Initial free memory 39.5 GiB, reserved"
    " 12.25 GiB memory for KV Cache as specified by kv_cache_memory_bytes config and skipped"
)


def kv_cache_gib(lines: list[str]) -> float | None:
    output = Output()
    for line in lines:
        output.take(line.encode())
    return None if output.kv_cache_bytes is None else output.kv_cache_bytes / GIB


@pytest.mark.parametrize("name", ["A1_start_eager", "A2_start_compile"])
def test_the_size_is_read_from_a_recorded_start(name: str) -> None:
    assert kv_cache_gib(recording(name).lines) == pytest.approx(1.005)


def test_the_gpu_with_the_least_counts_and_what_vllm_has_rounded_off_is_added() -> None:
    lines = [WEIGHTS, PROFILED.format(0, 21.44), PROFILED.format(1, 20.9)]
    assert kv_cache_gib(lines) == pytest.approx(20.905)


def test_the_size_that_the_sidecar_gave_is_read_too() -> None:
    assert kv_cache_gib([WEIGHTS, GIVEN]) == pytest.approx(12.255)


def test_a_model_without_a_cache_is_told_from_a_log_without_lines() -> None:
    assert kv_cache_gib([WEIGHTS, SERVED]) == 0
    assert kv_cache_gib([SERVED]) is None


def test_what_is_printed_while_serving_changes_nothing() -> None:
    lines = [WEIGHTS, PROFILED.format(0, 8.0), SERVED, PROFILED.format(0, 1.0)]
    assert kv_cache_gib(lines) == pytest.approx(8.005)
