"""What the engine prints: passed on with a tag, kept for a diagnosis, read for progress."""

from __future__ import annotations

import logging
from collections import deque

from proxy.engine.log_lines import clean_lines, parse_line, shorten, tells_of_lost_spans

# A start that fails prints a few hundred lines; an engine that dies under load, thousands.
KEPT_LINES = 4000


def hide(secret: str | None, line: str) -> str:
    """Libraries that are told to debug print the headers they send, the hub's token too."""
    return line.replace(secret, "***") if secret else line


class Output:
    """The newest lines of one engine process."""

    def __init__(self, secret: str | None = None, logger_name: str = "vllm") -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._secret = secret
        self._log = logging.getLogger(logger_name)
        self._told_of_spans = False

    def take(self, raw: bytes) -> list[str]:
        """Log what was read and keep it; returns the clean lines in it."""
        lines = [hide(self._secret, line) for line in clean_lines(raw)]
        for line in lines:
            self.lines.append(line)
            self._pass_on(line)
        return lines

    def _pass_on(self, line: str) -> None:
        said = parse_line(line)
        if tells_of_lost_spans(said.message):
            # Every few seconds, for as long as nobody takes them: one line is enough.
            if self._told_of_spans:
                return
            self._told_of_spans = True
        level = logging.getLevelNamesMapping().get(said.level, logging.INFO)
        if not self._log.isEnabledFor(level):
            return
        tags = {"process": said.process, "source": said.source}
        fields = {name: value for name, value in tags.items() if value}
        self._log.log(level, "%s", shorten(said.message), extra={"fields": fields})
