"""What a terminal is shown and a pipe is not: a line that is rewritten, and colours."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TextIO

ERASE_LINE = "\r\x1b[K"
"""Begins the line anew."""


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
