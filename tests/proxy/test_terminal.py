"""What a terminal is shown and a pipe is not."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import pty
import select
import termios
from contextlib import suppress
from threading import Thread

import pytest

from proxy.tasks import spawn
from proxy.terminal import LiveLine, can_rewrite_a_line, takes_colours
from tests.patience import PATIENCE

ERASE = "\r\x1b[K"


class Stream(io.StringIO):
    def __init__(self, *, is_terminal: bool = True) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.parametrize(
    ("is_terminal", "environ", "rewritten", "in_colour"),
    [
        (True, {"TERM": "xterm"}, True, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True, True),
        (True, {"TERM": "dumb"}, False, False),
        (True, {}, False, False),
        (False, {"TERM": "xterm"}, False, False),
    ],
)
def test_only_a_terminal_that_can_gets_lines_rewritten_and_colours(
    is_terminal: bool, environ: dict[str, str], rewritten: bool, in_colour: bool
) -> None:
    stream = Stream(is_terminal=is_terminal)
    assert can_rewrite_a_line(stream, environ) is rewritten
    assert takes_colours(stream, environ) is in_colour


def test_one_line_is_rewritten_and_taken_away_at_the_end() -> None:
    terminal, text = Stream(), "loading"
    line = LiveLine(terminal, lambda: text or None)
    line.draw()
    line.draw()
    text = ""
    line.draw()
    line.draw()
    assert terminal.getvalue() == f"{ERASE}loading{ERASE}loading{ERASE}"


def test_a_line_never_wraps() -> None:
    terminal = Stream()
    line = LiveLine(terminal, lambda: "x" * 100)
    line._columns = lambda: 30  # type: ignore[method-assign]
    line.draw()
    assert terminal.getvalue() == ERASE + "x" * 29


def test_a_terminal_that_is_stopped_is_not_waited_for() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        line = LiveLine(terminal, lambda: "loading")
        termios.tcflow(theirs, termios.TCOOFF)  # Ctrl-S
        drawing = Thread(target=line.draw, daemon=True)
        drawing.start()
        drawing.join(PATIENCE)
        is_stuck = drawing.is_alive()
        termios.tcflow(theirs, termios.TCOON)
        assert not is_stuck
        line.draw()
        assert b"loading" in os.read(ours, 1000)
        termios.tcflow(theirs, termios.TCOOFF)
        line.erase()
        termios.tcflow(theirs, termios.TCOON)
        line.erase()
        assert select.select([ours], [], [], PATIENCE)[0], "once it takes something again"
        assert os.read(ours, 1000) == ERASE.encode()
    os.close(ours)


async def test_a_line_makes_way_for_a_log_line_on_the_same_terminal() -> None:
    terminal = Stream()
    handler = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    try:
        drawing = spawn(LiveLine(terminal, lambda: "loading").run(), name="line")
        await asyncio.sleep(0)
        logging.getLogger("x").warning("news")
        drawing.cancel()
        with suppress(asyncio.CancelledError):
            await drawing
        logging.getLogger("x").warning("more")
    finally:
        logging.getLogger().removeHandler(handler)
    assert f"loading{ERASE}news\nmore\n" in terminal.getvalue()
