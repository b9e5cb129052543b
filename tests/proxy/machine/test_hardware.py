"""What NVML says of the machine, and what is made of machines without it."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable

import pytest

from proxy.errors import SettingsError
from proxy.machine.hardware import Gpu, Hardware, detect, engine_version
from proxy.preflight.checkup import hardware_finding
from proxy.preflight.finding import Result
from proxy.settings import Settings
from tests.proxy.machine.fake_nvml import GIB, FakeGpu, FakeNvml, LibraryNotFound, NVMLError

A40, H100 = Gpu("NVIDIA A40", 48 * GIB), Gpu("NVIDIA H100", 80 * GIB, 1)
GB10 = Gpu("NVIDIA GB10", None)


Install = Callable[[FakeNvml | None], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    def install(module: FakeNvml | None) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", module)

    return install


@pytest.mark.parametrize("gpus", [(A40,), (A40, H100), (GB10,)])
def test_gpus_are_found_in_index_order(install: Install, gpus: tuple[Gpu, ...]) -> None:
    nvml = FakeNvml(*(FakeGpu(gpu.name, gpu.memory_bytes) for gpu in gpus))
    install(nvml)
    assert detect() == Hardware(gpus, "580.95")
    assert detect().has_gpu
    assert nvml.open == 0, "NVML is let go again"


@pytest.mark.parametrize(
    "nvml",
    [None, FakeNvml(driver=None), FakeNvml(trouble=LibraryNotFound("NVML Shared Library..."))],
)
def test_without_the_package_or_a_driver_there_is_no_gpu(
    install: Install, nvml: FakeNvml | None
) -> None:
    install(nvml)
    assert detect() == Hardware()
    assert not detect().has_gpu


def test_a_driver_that_does_not_work_is_not_taken_for_no_gpu(install: Install) -> None:
    install(FakeNvml(FakeGpu(), trouble=NVMLError("Driver/library version mismatch")))
    found = detect()
    assert not found.has_gpu
    assert "be read (Driver/library version mismatch)" in found.sentence()
    finding = hardware_finding(Settings.load({}), found)
    assert finding.result is Result.WARN
    assert "nvidia-smi" in finding.remedy


def test_a_gpu_that_is_lost_is_reported_beside_the_others(install: Install) -> None:
    nvml = FakeNvml(FakeGpu(), FakeGpu(lost=True))
    install(nvml)
    assert detect() == Hardware((A40,), "580.95", "GPU 1: GPU is lost")
    sentence = detect().sentence()
    assert sentence.startswith("1 x NVIDIA A40, 48 GiB each, driver 580.95; ")
    assert "(GPU 1: GPU is lost)" in sentence
    assert nvml.open == 0, "NVML is let go again"


FOUR = FakeNvml(*(FakeGpu(f"GPU {index}", GIB, uuid=f"GPU-{index}abc") for index in range(4)))


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2, 3]),
        ("", [0, 1, 2, 3]),
        ("2", [2]),
        (" 3, 1 ", [3, 1]),
        ("GPU-2abc,GPU-0", [2, 0]),
        ("-1", []),
        ("1,-1,2", [1]),
        ("MIG-1234", [0, 1, 2, 3]),
    ],
)
def test_only_gpus_count_that_cuda_shows(
    install: Install, visible: str | None, indices: list[int]
) -> None:
    install(FOUR)
    found = detect(visible).gpus
    assert [(gpu.name, gpu.index) for gpu in found] == [(f"GPU {each}", each) for each in indices]


@pytest.mark.parametrize(
    ("visible", "entry"), [("4", "4"), ("0,GPU-9", "GPU-9"), ("GPU-", "GPU-"), ("0;1", "0;1")]
)
def test_a_gpu_that_is_not_here_cannot_be_visible(
    install: Install, visible: str, entry: str
) -> None:
    install(FOUR)
    with pytest.raises(SettingsError, match=f"^CUDA_VISIBLE_DEVICES={visible}: .* GPU {entry} h"):
        detect(visible)
    install(FakeNvml(FakeGpu(), FakeGpu(lost=True)))
    assert len(detect("0,1").gpus) == 1, "one that is lost is told of otherwise"
    install(FakeNvml(driver=None))
    assert detect(visible) == Hardware(), "who has no GPU has none to show"


def test_a_driver_without_a_gpu_is_no_gpu(install: Install) -> None:
    install(FakeNvml())
    assert detect() == Hardware((), "580.95")
    assert not detect().has_gpu


@pytest.mark.parametrize(
    ("hardware", "sentence"),
    [
        (Hardware(), "no GPU: the engine runs on the CPU"),
        (Hardware((H100, H100), "580.95"), "2 x NVIDIA H100, 80 GiB each, driver 580.95"),
    ],
)
def test_one_line_tells_what_the_engine_runs_on(hardware: Hardware, sentence: str) -> None:
    assert hardware.sentence() == sentence


def test_the_engines_version_is_read_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"vllm": "0.32.0+cpu"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert engine_version() == "0.32.0+cpu"
    installed.clear()
    assert engine_version() is None
    assert "vllm" not in sys.modules
