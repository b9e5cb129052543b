"""What is read of the memory of GPUs, of the machine, and of processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.machine.memory import DeviceMemory, gpu_memory, machine_memory, process_memory
from tests.proxy.machine.fake_nvml import GIB, FakeGpu, FakeNvml

MIB = 1024**2


def test_each_gpu_says_what_it_has_and_what_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = FakeGpu(used_bytes=3 * GIB), FakeGpu(memory_bytes=None), FakeGpu(lost=True)
    nvml = FakeNvml(*gpus)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert gpu_memory((0, 1, 2)) == {0: DeviceMemory(3 * GIB, 48 * GIB)}
    assert nvml.open == 0, "NVML is let go again"


def test_without_nvml_nothing_is_known_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_memory((0,)) == {}


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "meminfo").write_text("MemTotal: 4096 kB\nMemFree: 1 kB\nMemAvailable: 3072 kB\n")
    return tmp_path


def test_what_the_machine_could_drop_is_not_used(proc: Path) -> None:
    assert machine_memory(proc, proc / "none") == DeviceMemory(1 * MIB, 4 * MIB)
    assert machine_memory(proc / "none", proc) is None


def test_the_limit_of_a_container_counts(proc: Path) -> None:
    (proc / "memory.current").write_text(f"{MIB}\n")
    stat = f"anon {MIB}\nactive_file {MIB // 4}\ninactive_file {MIB // 4}\n"
    (proc / "memory.stat").write_text(stat)
    (proc / "memory.max").write_text(f"{2 * MIB}\n")
    assert machine_memory(proc, proc) == DeviceMemory(MIB // 2, 2 * MIB)
    (proc / "memory.max").write_text("max\n")
    assert machine_memory(proc, proc) == DeviceMemory(1 * MIB, 4 * MIB)


def test_the_limit_of_a_container_counts_by_the_first_version_of_cgroups_too(proc: Path) -> None:
    memory = proc / "memory"
    memory.mkdir()
    (memory / "memory.usage_in_bytes").write_text(f"{MIB}\n")
    stat = f"inactive_file 0\nactive_file 0\ntotal_inactive_file {MIB // 2}\ntotal_active_file 0\n"
    (memory / "memory.stat").write_text(stat)
    (memory / "memory.limit_in_bytes").write_text(f"{2 * MIB}\n")
    assert machine_memory(proc, proc) == DeviceMemory(MIB // 2, 2 * MIB)
    (memory / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert machine_memory(proc, proc) == DeviceMemory(1 * MIB, 4 * MIB), "no limit"


def test_what_a_process_has_started_is_counted_with_it() -> None:
    child = (
        "import subprocess, sys; data = bytearray(b'x') * (64 << 20); print('up', flush=True);"
        " sys.stdin.read()"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        taken = process_memory(process.pid)
        assert taken is not None
        assert 64 * MIB < taken < 160 * MIB
        whole = process_memory(os.getpid())
        assert whole is not None
        assert whole > taken
        assert process.stdin is not None
        process.stdin.close()
    assert process_memory(process.pid) is None
