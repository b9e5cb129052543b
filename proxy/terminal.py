"""What a terminal is shown and a pipe is not: a line that is rewritten, and colours."""

from __future__ import annotations

import asyncio
import logging
import os
import select
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import TextIO

_REDRAW_SECONDS = 0.25
_ERASE_LINE = "\r\x1b[K"


class Colour(StrEnum):
    """A style, as terminals number it (ECMA-48, SGR)."""

    DIM = "2"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"


def can_rewrite_a_line(stream: TextIO, environ: Mapping[str, str]) -> bool:
    return stream.isatty() and environ.get("TERM", "dumb") != "dumb"


def takes_colours(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether colours are shown there, and wanted (https://no-color.org)."""
    return can_rewrite_a_line(stream, environ) and not environ.get("NO_COLOR")


def coloured(text: str, colour: Colour) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m"


def bar(share: float, cells: int) -> str:
    """`[#####---]`"""
    full = min(round(share * cells), cells)
    return f"[{'#' * full}{'-' * (cells - full)}]"


class LiveLine:
    """The line at the bottom of a terminal, written anew four times a second. It makes way for log
    lines on the same terminal."""

    def __init__(self, stream: TextIO, text: Callable[[], str | None]) -> None:
        """`text`: the line as it is now; None where there is none."""
        self._stream = stream
        self._text = text
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
        text = self._text()
        if text is None:
            self.erase()
        else:
            self._write(_ERASE_LINE + text[: self._columns() - 1])
            self._drawn = True

    def erase(self) -> None:
        if self._drawn:
            self._drawn = not self._write(_ERASE_LINE)

    def _make_way(self, record: logging.LogRecord) -> bool:
        self.erase()
        return True

    def _write(self, text: str) -> bool:
        """False where a terminal takes nothing now (Ctrl-S): all else would wait with the line."""
        with suppress(OSError, ValueError):
            if not select.select([], [self._stream], [], 0)[1]:
                return False
        with suppress(OSError, ValueError):  # the terminal has gone: nothing to be told
            self._stream.write(text)
            self._stream.flush()
        return True

    def _columns(self) -> int:
        with suppress(OSError, ValueError):
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        return 80
