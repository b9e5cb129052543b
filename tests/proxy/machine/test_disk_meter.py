"""The volume of the models: what it says, and nothing where it does not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import pytest

from proxy.machine import disk_meter
from proxy.machine.disk_meter import DiskMeter
from proxy.machine.reading import DiskReading
from tests.engine.service import wait_until
from tests.patience import PATIENCE

Metering = Callable[[Path], DiskMeter]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def metering() -> Iterator[Metering]:
    meters: list[DiskMeter] = []

    def metering(folder: Path) -> DiskMeter:
        meters.append(meter := DiskMeter(folder, every_seconds=0.005))
        meter.start()
        return meter

    yield metering
    for meter in meters:
        meter.stop()


def known(meter: DiskMeter) -> bool:
    return meter.reading() != DiskReading()


def test_the_volume_of_a_folder_that_is_not_there_yet_is_asked(
    metering: Metering, tmp_path: Path
) -> None:
    meter = metering(tmp_path / "not" / "yet")
    wait_until(lambda: known(meter), PATIENCE, "a reading")
    assert meter.reading().total_bytes == shutil.disk_usage(tmp_path).total


def test_it_is_asked_again_and_again(
    metering: Metering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter(range(1_000_000, 0, -1))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9, 0, next(free)))
    meter = metering(tmp_path)
    wait_until(
        lambda: (meter.reading().free_bytes or 1_000_000) < 999_999, PATIENCE, "newer readings"
    )


def test_a_volume_that_fails_or_hangs_is_not_known_and_holds_up_nobody(
    metering: Metering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, released = Event(), Event()

    def usage(_: Any) -> Usage:
        if not asked.is_set():
            asked.set()
            raise OSError("gone")
        released.wait(PATIENCE)
        return Usage(2, 1, 1)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    meter = metering(tmp_path)
    assert asked.wait(PATIENCE)
    assert meter.reading() == DiskReading()
    released.set()
    wait_until(lambda: known(meter), PATIENCE, "a reading")
    assert meter.reading() == DiskReading(free_bytes=1, total_bytes=2)
    monkeypatch.setattr(disk_meter, "STALE_SECONDS", -1)
    assert meter.reading() == DiskReading()
