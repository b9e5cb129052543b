"""GPUs and a volume, read beside the event loop: what they say, and nothing where they do not."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import pytest

from proxy.machine.meters import Meter, disk_meter, gpu_meter
from proxy.machine.reading import DiskReading, GpuReading
from tests.engine.service import wait_until
from tests.patience import PATIENCE
from tests.proxy.machine.fake_nvml import GIB, FakeGpu, FakeNvml, NVMLError

GpuMeter = Meter[tuple[GpuReading, ...]]
Metering = Callable[[FakeNvml | None], GpuMeter]


@pytest.fixture
def metering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metering]:
    """A meter that has begun on a machine with this NVML."""
    meters: list[GpuMeter] = []

    def metering(nvml: FakeNvml | None) -> GpuMeter:
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        meter = gpu_meter(every_seconds=0.005)
        meter.stale_seconds = PATIENCE
        meters.append(meter)
        meter.start()
        return meter

    yield metering
    for meter in meters:
        meter.stop()


def test_each_gpu_is_read_in_base_units(metering: Metering) -> None:
    cold = FakeGpu(used_bytes=0, percent=0, celsius=31, milliwatts=22_000)
    meter = metering(FakeNvml(FakeGpu(), cold))
    wait_until(lambda: bool(meter.reading()), PATIENCE, "a reading")
    assert meter.reading() == (
        GpuReading(0, 0.87, 12 * GIB, 48 * GIB, 61, 251.5),
        GpuReading(1, 0, 0, 48 * GIB, 31, 22),
    )


def test_they_are_read_again_and_again(metering: Metering) -> None:
    gpu = FakeGpu()
    meter = metering(FakeNvml(gpu))
    wait_until(lambda: bool(meter.reading()), PATIENCE, "a reading")
    gpu.percent = 12
    wait_until(lambda: meter.reading()[0].utilization == 0.12, PATIENCE, "a newer reading")


def test_what_a_gpu_does_not_say_is_not_made_up(metering: Metering) -> None:
    silent = FakeGpu(memory_bytes=None, percent=None, celsius=None, milliwatts=None)
    meter = metering(FakeNvml(silent))
    wait_until(lambda: bool(meter.reading()), PATIENCE, "a reading")
    assert meter.reading() == (GpuReading(0),)


@pytest.mark.parametrize("nvml", [None, FakeNvml(FakeGpu(), driver=None), FakeNvml()])
def test_without_a_gpu_there_is_nothing(metering: Metering, nvml: FakeNvml | None) -> None:
    meter = metering(nvml)
    time.sleep(0.03)
    assert meter.reading() == ()


def test_a_driver_in_trouble_leaves_the_old_values_until_they_are_stale(
    metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = FakeNvml(FakeGpu())
    meter = metering(nvml)
    wait_until(lambda: bool(meter.reading()), PATIENCE, "a reading")

    def lost() -> int:
        raise NVMLError("GPU is lost")

    monkeypatch.setattr(nvml, "nvmlDeviceGetCount", lost)
    time.sleep(0.03)
    assert meter.reading()
    meter.stale_seconds = 0.01
    wait_until(lambda: meter.reading() == (), PATIENCE, "stale values are not shown")


def test_a_driver_that_hangs_holds_up_nobody(
    metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml, asked, over = FakeNvml(FakeGpu()), Event(), Event()
    hung: list[bool] = []

    def hang() -> int:
        asked.set()
        hung.append(over.wait(PATIENCE))
        return 1

    monkeypatch.setattr(nvml, "nvmlDeviceGetCount", hang)
    meter = metering(nvml)
    assert asked.wait(PATIENCE)
    assert meter.reading() == ()
    meter.stop()
    over.set()
    wait_until(lambda: bool(hung), PATIENCE, "the driver's answer")
    assert hung == [True], "the driver answered only after all of this"


def test_nvml_is_let_go_at_the_end(metering: Metering) -> None:
    nvml = FakeNvml(FakeGpu())
    meter = metering(nvml)
    wait_until(lambda: nvml.open == 1, PATIENCE, "NVML in use")
    meter.stop()
    wait_until(lambda: nvml.open == 0, PATIENCE, "NVML let go")


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Meter[DiskReading]]:
    """A meter of a folder that is not there yet; a test starts it."""
    meter = disk_meter(tmp_path / "not" / "yet", every_seconds=0.005)
    meter.stale_seconds = PATIENCE
    yield meter
    meter.stop()


def test_the_volume_of_a_folder_that_is_not_there_yet_is_asked(
    volume: Meter[DiskReading], tmp_path: Path
) -> None:
    volume.start()
    wait_until(lambda: volume.reading() != DiskReading(), PATIENCE, "a reading")
    assert volume.reading().total_bytes == shutil.disk_usage(tmp_path).total


def test_a_volume_that_fails_or_hangs_is_left_out_and_holds_up_nobody(
    volume: Meter[DiskReading], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, released = Event(), Event()

    def usage(_: Any) -> Usage:
        if not asked.is_set():
            asked.set()
            raise OSError("gone")
        released.wait(PATIENCE)
        return Usage(2, 1, 1)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    volume.start()
    assert asked.wait(PATIENCE)
    assert volume.reading() == DiskReading()
    released.set()
    wait_until(lambda: volume.reading() != DiskReading(), PATIENCE, "a reading")
    assert volume.reading() == DiskReading(free_bytes=1, total_bytes=2)
    volume.stale_seconds = -1
    assert volume.reading() == DiskReading()
