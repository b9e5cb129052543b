"""What the engine said, as a diagnosis needs it: its errors, its last words, a quotation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from proxy.vllm.diagnosis.facts import clip, redact
from proxy.vllm.diagnosis.rule import EXCEPTION
from proxy.vllm.log_lines import LogLine

MAX_QUOTED_LINES = 3
MAX_QUOTED_CHARS = 300
_ERROR = re.compile(rf"(?P<name>{EXCEPTION}):? ?(?P<text>.*)|\s+Value error, (?P<value>.+)")
# Errors that only tell of another one.
_CONSEQUENCE = re.compile(
    r".*(?:EngineDeadError|BrokenPipeError|CancelledError|SystemExit|KeyboardInterrupt)\b"
    r"|RuntimeError: (?:Engine core initialization failed|cancelled$|Caught handled exception)"
    r"|Exception: WorkerProc initialization failed"
    r"|AsyncLLM output_handler failed"
    r"|.*ValidationError: \d+ validation errors? for "
)
_NO_WORDS = re.compile(
    r"\s|nanobind: |See https://nanobind|.*resource_tracker|usage: |Traceback |Process \w+:$"
    r"|(?:During handling|The above exception)|\W*$|\[shutdown\]|Loading .*%|Dumping "
)
_QUOTED_ERROR = re.compile(
    r"RuntimeError: Worker failed with error ['\"](?P<text>.*)['\"], please.*"
)
# The directories of a path say nothing to a user, and may say too much to others.
_DIRECTORIES = re.compile(r"(?<![\w:/.])/(?:[\w.@+-]+/)+(?=[\w.@+-])")


def index(words: Sequence[LogLine], mark: re.Pattern[str]) -> int | None:
    """Where the first message stands that begins with `mark`."""
    # uvicorn's access log repeats what a client sent; vLLM's own marks stand at the beginning.
    return next((i for i, word in enumerate(words) if mark.match(word.message)), None)


def errors(words: Iterable[LogLine]) -> str:
    """What may be an error: not what vLLM or uvicorn call by a lower level."""
    return "\n".join(
        word.message for word in words if not word.source or word.level in ("ERROR", "CRITICAL")
    )


def root_errors(words: Iterable[LogLine]) -> list[str]:
    """The last lines of tracebacks that explain something, oldest first, each once."""
    texts: dict[str, str] = {}
    for message in errors(words).splitlines():
        message = _QUOTED_ERROR.sub(r"\g<text>", message)
        found = _ERROR.match(message)
        if found and not _CONSEQUENCE.match(message):
            texts.setdefault(found["value"] or found["text"] or message, message.strip())
    return list(texts.values())


def last_words(words: Sequence[LogLine]) -> list[str]:
    """The newest lines that say something, oldest first."""
    spoken = [word.message for word in words if word.source != "uvicorn"]
    told = [text for text in spoken if not (_NO_WORDS.match(text) or _CONSEQUENCE.match(text))]
    return told[-MAX_QUOTED_LINES:]


def quote(messages: Sequence[str]) -> str:
    """Their text on one short line, without secrets and without directories."""
    quoted = " | ".join(_DIRECTORIES.sub("…/", redact(message)) for message in messages)
    return clip(quoted, MAX_QUOTED_CHARS)
