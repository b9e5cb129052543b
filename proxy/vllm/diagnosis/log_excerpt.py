"""Parts of the engine's output that a diagnosis needs: its errors, its last lines, a quotation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from proxy.settings.environment import without_secrets
from proxy.vllm.diagnosis.facts import clip
from proxy.vllm.diagnosis.rule import EXCEPTION
from proxy.vllm.log_lines import LogLine

MAX_QUOTED_LINES = 3
MAX_QUOTED_CHARS = 300
_ERROR = re.compile(rf"(?P<name>{EXCEPTION}):? ?(?P<text>.*)|\s+Value error, (?P<value>.+)")
# Errors that only report another one.
_CONSEQUENCE = re.compile(
    r".*(?:EngineDeadError|BrokenPipeError|CancelledError|SystemExit|KeyboardInterrupt)\b"
    r"|RuntimeError: (?:Engine core initialization failed|cancelled$|Caught handled exception)"
    r"|Exception: WorkerProc initialization failed"
    r"|AsyncLLM output_handler failed"
    r"|.*ValidationError: \d+ validation errors? for "
)
_NOISE = re.compile(
    r"\s|nanobind: |See https://nanobind|.*resource_tracker|usage: |Traceback |Process \w+:$"
    r"|(?:During handling|The above exception)|\W*$|\[shutdown\]|Loading .*%|Dumping "
)
_QUOTED_ERROR = re.compile(
    r"RuntimeError: Worker failed with error ['\"](?P<text>.*)['\"], please.*"
)
# The directories of a path say nothing to a user, and may say too much to others.
_DIRECTORIES = re.compile(r"(?<![\w:/.])/(?:[\w.@+-]+/)+(?=[\w.@+-])")


def index(output: Sequence[LogLine], mark: re.Pattern[str]) -> int | None:
    """Where the first message stands that begins with `mark`."""
    # uvicorn's access log repeats what a client sent; vLLM's own marks stand at the beginning.
    return next((i for i, line in enumerate(output) if mark.match(line.message)), None)


def errors(output: Iterable[LogLine]) -> str:
    """What may be an error: not what vLLM or uvicorn call by a lower level."""
    return "\n".join(
        line.message for line in output if not line.source or line.level in ("ERROR", "CRITICAL")
    )


def root_errors(output: Iterable[LogLine]) -> list[str]:
    """The last lines of tracebacks that explain something, oldest first, each once."""
    texts: dict[str, str] = {}
    for message in errors(output).splitlines():
        message = _QUOTED_ERROR.sub(r"\g<text>", message)
        match = _ERROR.match(message)
        if match and not _CONSEQUENCE.match(message):
            texts.setdefault(match["value"] or match["text"] or message, message.strip())
    return list(texts.values())


def last_lines(output: Iterable[LogLine]) -> list[str]:
    """The newest lines that say something, oldest first."""
    messages = (line.message for line in output if line.source != "uvicorn")
    telling = [text for text in messages if not (_NOISE.match(text) or _CONSEQUENCE.match(text))]
    return telling[-MAX_QUOTED_LINES:]


def quote(messages: Sequence[str]) -> str:
    """Their text on one short line, without secrets and without directories."""
    quoted = " | ".join(_DIRECTORIES.sub("…/", without_secrets(message)) for message in messages)
    return clip(quoted, MAX_QUOTED_CHARS)
