"""What the engine prints: passed on with a tag, kept for a diagnosis, read for progress."""

from __future__ import annotations

import logging
from collections import deque
from time import monotonic

from proxy.vllm.log_lines import clean_lines, parse_line, shorten, tells_of_lost_spans

# A start that fails prints a few hundred lines; an engine that dies under load, thousands.
KEPT_LINES = 4000
# More of one line is neither kept nor read; vLLM's longest, a list of architectures, has 10 KB.
MAX_KEPT_BYTES = 16 * 1024
# Lines passed on at once, and by the second thereafter; of long ones each KiB counts as one.
BURST_LINES = 4000
LINES_A_SECOND = 500
_LINE_BYTES = 1024
# How often lines that were dropped are told of.
_DROP_SECONDS = 1.0


def hide(secret: str | None, line: str) -> str:
    """Libraries that are told to debug print the headers they send, the hub's token too."""
    return line.replace(secret, "***") if secret else line


class Output:
    """The newest lines of one engine process.

    An engine that prints without end costs a bounded part of a core: what is over
    `LINES_A_SECOND` is kept for a diagnosis, and otherwise only counted.
    """

    def __init__(self, secret: str | None = None, logger_name: str = "vllm") -> None:
        self._kept: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._secret = secret
        self._log = logging.getLogger(logger_name)
        self._told_of_spans = False
        self._allowance = float(BURST_LINES)
        self._filled_at = monotonic()
        self._dropping_since: float | None = None
        self._dropped = 0

    @property
    def lines(self) -> list[str]:
        """The newest lines, clean, the newest last."""
        return [line for raw in self._kept for line in self._clean(raw)]

    def take(self, raw: bytes) -> list[str]:
        """Log what was read and keep it; returns the clean lines in it, none of what is dropped."""
        lost = max(0, len(raw) - MAX_KEPT_BYTES)
        raw = raw[:MAX_KEPT_BYTES]
        self._kept.append(raw)
        if not self._is_allowed(1 + len(raw) // _LINE_BYTES):
            self._dropped += 1
            return []
        self.tell_dropped()
        lines = self._clean(raw)
        for line in lines:
            self._pass_on(line, lost)
        return lines

    def tell_dropped(self) -> None:
        """Log how many lines were dropped since the last time, if any."""
        if self._dropped:
            text = "%d lines of the engine's output were dropped: it prints more than %d a second"
            self._log.warning(text, self._dropped, LINES_A_SECOND)
            self._dropped = 0

    def _is_allowed(self, cost: int) -> bool:
        now = monotonic()
        if self._dropping_since is not None:
            if now - self._dropping_since < _DROP_SECONDS:
                return False
            self._dropping_since = None
        filled = self._allowance + (now - self._filled_at) * LINES_A_SECOND
        self._allowance = min(filled, BURST_LINES) - cost
        self._filled_at = now
        if self._allowance < 0:
            self._dropping_since = now
            return False
        return True

    def _clean(self, raw: bytes) -> list[str]:
        return [hide(self._secret, line) for line in clean_lines(raw)]

    def _pass_on(self, line: str, lost: int) -> None:
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
        self._log.log(level, "%s", shorten(said.message, lost=lost), extra={"fields": fields})
