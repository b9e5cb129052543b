"""A level as one line of a terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
import termios
from contextlib import suppress
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.bench.progress import describe, shown
from tests.patience import PATIENCE

FAILED = SimpleNamespace(error=("no answer", "not within 5 s"))
LEVEL: Any = SimpleNamespace(
    streams=8, started=100.0, samples=[SimpleNamespace(error=None), FAILED]
)


def test_a_level_is_shown_with_its_time_and_what_it_has_counted() -> None:
    assert describe(LEVEL, 105.0, 20) == (
        "8 streams  [#####---------------]  5 of 20 s  2 requests, 1 failed"
    )
    assert describe(LEVEL, 121.0, 20) == (
        "8 streams  [####################]  the last answers  2 requests, 1 failed"
    )


def test_a_terminal_that_is_stopped_does_not_stop_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()

    async def measure() -> None:
        async with shown(LEVEL, 20):
            await asyncio.sleep(0.01)

    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        termios.tcflow(theirs, termios.TCOOFF)  # Ctrl-S
        measuring = Thread(target=asyncio.run, args=(measure(),), daemon=True)
        measuring.start()
        measuring.join(PATIENCE)
        is_stuck = measuring.is_alive()
        termios.tcflow(theirs, termios.TCOON)
        assert not is_stuck
        asyncio.run(measure())
    drawn = b""
    with suppress(OSError):  # all of it was read
        while piece := os.read(ours, 1000):
            drawn += piece
    os.close(ours)
    assert drawn.startswith(b"\r\x1b[K8 streams  [")
    assert drawn.endswith(b"\r\x1b[K")
