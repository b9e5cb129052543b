"""Logging: JSON lines, or text for a terminal. Never a prompt, an answer, a key or a token."""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
from typing import Any

from proxy.settings import LogFormat
from proxy.settings.otlp import OtlpTarget
from proxy.tasks import model_of_task
from proxy.telemetry.log_file import open_log_file
from proxy.telemetry.log_output import Descriptor, Output, OutputHandler, Target, instant, timestamp
from proxy.telemetry.tracing import open_log_export
from proxy.terminal import Colour, coloured, takes_colours

# How long the end of the process waits for lines to be written.
FLUSH_SECONDS = 2.0
_STDOUT = 1

_STANDARD_ATTRIBUTES = frozenset(
    {*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName"}
)
# One INFO line for each of our own health probes would be noise. Spans are sent by urllib3.
_LIBRARIES = ("httpx", "httpcore", "urllib3", "asyncio")

_COLOURS = {logging.WARNING: Colour.YELLOW, logging.ERROR: Colour.RED}

_root = logging.getLogger()

_handler: OutputHandler | None = None  # set by `configure`


class TextFormatter(logging.Formatter):
    """One readable line; the fields of a request follow its message, paler on a terminal."""

    default_time_format = "%H:%M:%S"
    default_msec_format = "%s.%03d"

    def __init__(self, *, in_colour: bool = False) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)-14s %(message)s")
        self._in_colour = in_colour

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        texts = []
        for name, value in (_fields_of(record) or {}).items():
            text = ",".join(value) if isinstance(value, list) else str(value)
            # A client's words must not look like a line of ours, nor move the cursor.
            is_plain = text.isprintable() and " " not in text
            texts.append(f"{name}={text if is_plain else repr(text)}")
        fields = " ".join(texts)
        if self._in_colour:
            if (colour := _COLOURS.get(record.levelno)) is not None:
                line = line.replace(record.levelname, coloured(record.levelname, colour), 1)
            fields = fields and coloured(fields, Colour.DIM)
        return f"{line} {fields}" if fields else line


class JsonFormatter(logging.Formatter):
    """JSON whose `fields` stand beside `message`, not under a key of their own."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["exc_info"] = self.formatException(record.exc_info)
        extras = {
            name: value for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES
        }
        extras.pop("fields", None)
        fields = _fields_of(record)
        line |= {**extras, "timestamp": timestamp(record.created), **(fields or {})}
        separators = None if fields is None or record.exc_info else (",", ":")
        return json.dumps(line, ensure_ascii=False, separators=separators, default=str)


def _fields_of(record: logging.LogRecord) -> dict[str, Any] | None:
    """Those that it was given, and of several models the one that its task takes care of."""
    fields: dict[str, Any] | None = getattr(record, "fields", None)
    model = model_of_task.get()
    if model is None or (fields is not None and "model" in fields):
        return fields
    return {**(fields or {}), "model": model}


def configure(
    log_format: LogFormat, level: str, file: str | None = None, otlp: OtlpTarget | None = None
) -> None:
    """Set up all loggers of this process: on stdout, in a file, and at a collector.

    Raises:
        SettingsError: the file cannot be written, or OpenTelemetry is not installed.
    """
    global _handler
    log_file = None if file is None else open_log_file(file)
    log_export = None if otlp is None else open_log_export(otlp)
    # No formatter prints these, and looking them up for every line costs (Python's logging howto).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    reports_errors = log_file is not None or log_export is not None
    stdout = Descriptor(_STDOUT)
    targets = [Target("stdout", stdout, instant(_STDOUT), reports_errors=reports_errors)]
    if log_file is not None:
        targets.append(Target(f"LOG_FILE={file!r}", log_file, None, reports_errors=True))
    if log_export is not None:
        targets.append(log_export)
    # A terminal is shared with the progress bar, which makes way for one line at a time.
    output = Output(targets, by_turns=not os.isatty(_STDOUT))
    in_colour = file is None and otlp is None and takes_colours(sys.stdout, os.environ)
    is_json = log_format is LogFormat.JSON
    formatter = JsonFormatter() if is_json else TextFormatter(in_colour=in_colour)
    if _handler is None:
        atexit.register(flush)
    else:
        _handler.close()
    _handler = OutputHandler(output, formatter, writes_json=is_json)
    _root.handlers[:] = [_handler]
    _root.setLevel(level.upper())
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


def flush(seconds: float = FLUSH_SECONDS) -> None:
    """Wait until what was logged is written, but no longer than that."""
    if _handler is not None:
        _handler.output.flush(seconds)


def dropped_lines() -> int:
    """How many lines no target, or not all of them, have taken."""
    return 0 if _handler is None else _handler.output.dropped_lines
