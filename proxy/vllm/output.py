"""What one vLLM process prints: logged with a tag, read for progress, kept for a diagnosis."""

from __future__ import annotations

import logging
from collections import deque
from time import monotonic

from proxy.engine.phase import Phase
from proxy.engine.server import Progress, ServerOutput
from proxy.errors import EngineFailure
from proxy.settings.environment import without_secrets
from proxy.vllm.diagnosis import diagnose
from proxy.vllm.kv_cache import read_kv_cache
from proxy.vllm.log_lines import clean_lines, is_lost_span, parse_line, shorten
from proxy.vllm.progress import advance

# A start that fails prints a few hundred lines; an engine that dies under load, thousands.
KEPT_LINES = 4000
# More of one line is neither kept nor read; vLLM's longest, a list of architectures, has 10 KB.
MAX_KEPT_BYTES = 16 * 1024
# Lines passed on at once, and by the second thereafter; of long ones each KiB counts as one.
BURST_LINES = 4000
LINES_A_SECOND = 500
_LINE_BYTES = 1024
# How often the number of dropped lines is logged.
_DROP_SECONDS = 1.0


def hide(secret: str | None, line: str) -> str:
    """Without the secret and its like: libraries that debug print the headers they send."""
    return without_secrets(line.replace(secret, "***") if secret else line)


class Output(ServerOutput):
    """The newest lines of one engine process.

    An engine that prints without end costs a bounded part of a core: what is over
    `LINES_A_SECOND` is kept for a diagnosis, and otherwise only counted.
    """

    def __init__(
        self, secret: str | None = None, logger_name: str = "vllm", model: str | None = None
    ) -> None:
        """`model` is a tag of each line; None where there is only one."""
        self._model = model
        self._kept: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._secret = secret
        self._log = logging.getLogger(logger_name)
        self._progress = Progress(Phase.LOADING)
        self.kv_cache_bytes: int | None = None
        """What each GPU holds for the KV cache. 0: the model has none; None: unknown."""
        self._has_lost_spans = self._is_ending = False
        self._allowance = float(BURST_LINES)
        self._filled_at = monotonic()
        self._dropping_since: float | None = None
        self._dropped = 0

    @property
    def lines(self) -> list[str]:
        """The newest lines, clean, the newest last."""
        return [line for raw in self._kept for line in self._clean(raw)]

    @property
    def progress(self) -> Progress:
        return self._progress

    def take(self, raw: bytes) -> None:
        """Keep one line; log it and read it for progress unless it is dropped."""
        lost = max(0, len(raw) - MAX_KEPT_BYTES)
        raw = raw[:MAX_KEPT_BYTES]
        self._kept.append(raw)
        if not self._is_allowed(1 + len(raw) // _LINE_BYTES):
            self._dropped += 1
            return
        self.flush()
        for line in self._clean(raw):
            parsed = parse_line(line)
            if self._progress.phase is not Phase.WARMING:
                self.kv_cache_bytes = read_kv_cache(self.kv_cache_bytes, parsed.message)
            self._progress = advance(self._progress, parsed.message)
            if is_lost_span(parsed.message):
                # It comes every few seconds while the collector is away: one line is enough.
                if self._has_lost_spans:
                    continue
                self._has_lost_spans = True
            level = logging.getLevelNamesMapping().get(parsed.level, logging.INFO)
            if self._is_ending:
                level = min(level, logging.INFO)
            if self._log.isEnabledFor(level):
                own = {"process": parsed.process, "source": parsed.source}
                tags = {"model": self._model, **own}
                fields = {name: value for name, value in tags.items() if value}
                message = shorten(parsed.message, lost=lost)
                self._log.log(level, "%s", message, extra={"fields": fields})

    def expect_end(self) -> None:
        # Its server takes the end of its core, which it has ordered itself, for a death.
        self._is_ending = True

    def flush(self) -> None:
        """Log how many lines were dropped since the last time, if any."""
        if self._dropped:
            text = "%d lines of the engine's output were dropped: it prints more than %d a second"
            self._log.warning(text, self._dropped, LINES_A_SECOND)
            self._dropped = 0

    def diagnose(self, exit_code: int | None, *, was_ready: bool) -> EngineFailure:
        return diagnose(self.lines, exit_code, was_ready=was_ready)

    def _is_allowed(self, cost: int) -> bool:
        """Take `cost` from the allowance of lines, which fills with time."""
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
