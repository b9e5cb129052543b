"""The start as one line at the bottom of a terminal, written anew four times a second.

Only on a terminal that can rewrite a line (not with TERM=dumb), on stderr, without colours.
Elsewhere the log tells the same: a line for each phase, and for each tenth of a download.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TextIO

from proxy.engine.phase import Phase
from proxy.engine.state import Snapshot
from proxy.terminal import ERASE_LINE, bar

_REDRAW_SECONDS = 0.25
_CELLS = 24
_SHOWN = (Phase.CHECKING, Phase.DOWNLOADING, Phase.LOADING, Phase.COMPILING, Phase.WARMING)


class ProgressBar:
    """Draws snapshots, and makes way for log lines on the same terminal."""

    def __init__(self, stream: TextIO, snapshot: Callable[[], Snapshot]) -> None:
        self._stream = stream
        self._snapshot = snapshot
        self._drawn = False

    async def run(self) -> None:
        """Draw until cancelled."""
        handlers = logging.getLogger().handlers
        for handler in handlers:
            handler.addFilter(self._make_way)
        try:
            while True:
                self.draw()
                await asyncio.sleep(_REDRAW_SECONDS)
        finally:
            for handler in handlers:
                handler.removeFilter(self._make_way)
            self.erase()

    def draw(self) -> None:
        """The line as it is now; none once the engine is ready."""
        text = describe(self._snapshot())
        if text is None:
            self.erase()
        else:
            self._write(ERASE_LINE + text[: self._columns() - 1])
            self._drawn = True

    def erase(self) -> None:
        if self._drawn:
            self._write(ERASE_LINE)
            self._drawn = False

    def _make_way(self, record: logging.LogRecord) -> bool:
        self.erase()
        return True

    def _write(self, text: str) -> None:
        # A terminal that takes nothing now (Ctrl-S) would have all requests wait with the bar.
        with suppress(OSError, ValueError):
            if not select.select([], [self._stream], [], 0)[1]:
                return
        with suppress(OSError, ValueError):  # the terminal has gone: nothing to be told
            self._stream.write(text)
            self._stream.flush()

    def _columns(self) -> int:
        with suppress(OSError, ValueError):
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        return 80


def describe(now: Snapshot) -> str | None:
    """`downloading  [#####---]  42 %  1.2 of 3.0 GB  85 MB/s  0:21 left`; None after the start."""
    if now.phase not in _SHOWN:
        return None
    parts = [f"{now.phase:11}"]
    if now.progress is not None:
        parts += [bar(now.progress, _CELLS), f"{now.progress:4.0%}"]
    if now.phase is not Phase.DOWNLOADING:
        parts.append(_clock(monotonic() - now.since))
    elif now.downloaded_bytes is not None and now.download_bytes is not None:
        parts.append(f"{now.downloaded_bytes / 1e9:.2f} of {now.download_bytes / 1e9:.2f} GB")
        if now.bytes_per_second:
            parts.append(f"{now.bytes_per_second / 1e6:.1f} MB/s")
    if (left := now.seconds_left) is not None:
        parts.append(f"{_clock(left)} left")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    """`1:05`, `2:00:05`"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
