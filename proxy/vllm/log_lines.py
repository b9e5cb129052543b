"""vLLM's output, taken apart line by line. Pure.

vLLM 0.32 writes `(EngineCore pid=123) INFO 11-20 10:46:45 [core.py:133] message` and
repeats that prefix on every line of a message (it breaks lines with CR LF). Uvicorn
(`INFO:     Started server process [1]`), tqdm (updates separated by CR), warnings and
the tracebacks of the main process carry no such prefix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_LOG_MESSAGE_CHARS = 2_000
"""Longer messages are cut in our log: the engine's config dump is 4 KB, a list of
architectures 10 KB, and both come with every start that goes wrong."""

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_BREAK = re.compile(r"[\r\n]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

_PROCESS = re.compile(r"\((?P<process>[A-Za-z][\w.:-]{0,63}) pid=\d+\) ?")
_VLLM = re.compile(
    r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d"
    r"(?:\.\d+)? \[(?P<source>[^\]\s]{1,200}:\d+)\] ?"
)
_UVICORN = re.compile(r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL):\s+")
_TORCH = re.compile(
    r"\[(?P<letter>[IWEF])\d{4} \d\d:\d\d:\d\d[.\d]* (?P<source>[^\]\s]{1,200}:\d+)\] ?"
)
_TORCH_LEVELS = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL"}
_TRACEBACK = re.compile(
    r"Traceback \(most recent call last\):"
    r'|  File "'
    r"|(?:[A-Za-z_]\w*\.){0,8}\w*(?:Error|Exception|Timeout|Interrupt|Exit)(?::|$)"
    r"|Fatal Python error|terminate called "
)
# OpenTelemetry's exporters in vLLM, 1.45: for each batch that nobody takes.
_LOST_SPANS = re.compile(
    r"(?:Failed to export|Transient error .{0,4000} while exporting) (?:traces|spans?) "
)
_PYTHON_WARNING = re.compile(r"\S+:\d+: (?P<kind>\w*Warning): ")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the engine; `process` and `source` are empty where vLLM gave none."""

    process: str
    level: str
    source: str
    message: str


def clean_lines(raw: bytes | str) -> list[str]:
    """The printable lines in what was read: bad UTF-8 replaced, no ANSI codes, no blank lines.

    A tqdm bar that was redrawn ten times gives ten lines.
    """
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    pieces = (_CONTROL.sub("", piece) for piece in _BREAK.split(_ANSI.sub("", text)))
    return [piece.rstrip() for piece in pieces if piece.strip()]


def parse_line(line: str) -> LogLine:
    """Take one clean line apart; what has no known form is INFO and keeps all its text."""
    tag = _PROCESS.match(line)
    process, rest = (tag["process"], line[tag.end() :]) if tag else ("", line)
    if match := _VLLM.match(rest):
        return LogLine(process, match["level"], match["source"], rest[match.end() :])
    if match := _UVICORN.match(rest):
        return LogLine(process, match["level"], "uvicorn", rest[match.end() :])
    if match := _TORCH.match(rest):
        level = _TORCH_LEVELS[match["letter"]]
        return LogLine(process, level, match["source"], rest[match.end() :])
    if _TRACEBACK.match(rest):
        return LogLine(process, "ERROR", "", rest)
    warns = _PYTHON_WARNING.match(rest) or is_lost_span(rest)
    return LogLine(process, "WARNING" if warns else "INFO", "", rest)


def is_lost_span(message: str) -> bool:
    """Whether OpenTelemetry reports spans that its collector did not take."""
    return _LOST_SPANS.match(message) is not None


def shorten(message: str, limit: int = MAX_LOG_MESSAGE_CHARS, *, lost: int = 0) -> str:
    """Cut a long message for the log, and say how much is missing; `lost` of it already was."""
    cut = len(message) - limit
    return message if cut <= 0 else f"{message[:limit]}… [{cut + lost} characters cut]"
