"""A level as one line of a terminal, while it is measured."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from proxy.bench.load import LevelRun
from proxy.tasks import spawn
from proxy.terminal import LiveLine, bar, can_rewrite_a_line

_CELLS = 20


@asynccontextmanager
async def shown(level: LevelRun, seconds: float) -> AsyncIterator[None]:
    """Draw on stderr meanwhile, where that is a terminal, and erase it at the end."""
    if not can_rewrite_a_line(sys.stderr, os.environ):
        yield
        return
    line = LiveLine(sys.stderr, lambda: describe(level, monotonic(), seconds))
    drawing = spawn(line.run(), name="progress")
    try:
        yield
    finally:
        drawing.cancel()
        await asyncio.wait([drawing])


def describe(level: LevelRun, now: float, seconds: float) -> str:
    """`8 streams  [#####---------------]   5 of 20 s  31 requests, 0 failed`"""
    passed = now - level.started
    time = f"{passed:.0f} of {seconds:g} s" if passed <= seconds else "the last answers"
    failed = sum(sample.error is not None for sample in level.samples)
    counts = f"{len(level.samples)} requests, {failed} failed"
    return f"{level.streams} streams  {bar(passed / seconds, _CELLS)}  {time}  {counts}"
