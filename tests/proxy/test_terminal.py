"""What a terminal is shown and a pipe is not."""

from __future__ import annotations

import io

import pytest

from proxy.terminal import can_rewrite_a_line, takes_colours


class Stream(io.StringIO):
    def __init__(self, *, is_terminal: bool) -> None:
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
