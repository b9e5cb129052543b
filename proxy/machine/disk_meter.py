"""Asks now and then how full the volume of the models is, in a thread of its own.

A network volume in trouble may hold the question for minutes, or for good: neither requests nor
scrapes wait for it, nor does the end of the process.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic

from proxy.machine.reading import DiskReading

EVERY_SECONDS = 60.0
STALE_SECONDS = 3 * EVERY_SECONDS


class DiskMeter:
    """Keeps the newest reading of the volume that `folder` is on, or is going to be."""

    def __init__(self, folder: Path, every_seconds: float = EVERY_SECONDS) -> None:
        self._folder = folder
        self._every_seconds = every_seconds
        self._newest = DiskReading()
        self._taken = 0.0
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="disk meter", daemon=True)

    def reading(self) -> DiskReading:
        """Empty before the first answer, and where the volume has not answered for long."""
        return self._newest if monotonic() - self._taken < STALE_SECONDS else DiskReading()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Do not wait for it: its last question may not be answered."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            with suppress(OSError):
                self._newest = _read(self._folder)
                self._taken = monotonic()
            self._stopped.wait(self._every_seconds)


def _read(folder: Path) -> DiskReading:
    place = next(each for each in (folder, *folder.parents) if each.exists())
    usage = shutil.disk_usage(place)
    return DiskReading(free_bytes=usage.free, total_bytes=usage.total)
