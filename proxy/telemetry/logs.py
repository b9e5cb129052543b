"""Logging: JSON lines, or text for a terminal. Never a prompt, an answer, a key or a token."""

from __future__ import annotations

import logging
import logging.config
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from pythonjsonlogger.json import JsonFormatter

from proxy.settings import LogFormat
from proxy.telemetry.log_file import open_log_file
from proxy.telemetry.record import Record

# What is said of a request that was running when the engine died; never what was in it.
_FLIGHT_FIELDS = (
    *("request_id", "trace_id", "method", "path", "route", "model", "stream", "modalities"),
    *("images", "videos", "audios", "bytes_in", "bytes_out", "completion_tokens"),
)
MAX_FLIGHTS = 50

# What browsers, tools and platforms ask for by themselves, whoever serves: Claude Code sends
# `HEAD /` at each start. It is nobody's mistake, and a line at level debug only.
_PROBED = (
    "/",
    "/v1",
    "/v1/",
    "/favicon.ico",
    "/robots.txt",
    "/apple-touch-icon.png",
    "/apple-touch-icon-precomposed.png",
)

_encode = msgspec.json.Encoder().encode
_access = logging.getLogger("proxy.access")
_flights = logging.getLogger("proxy.flights")

# An answer whose declared length cannot be kept is ended by returning early, which is
# what makes the server close the connection; a WebSocket handshake that is answered by
# HTTP ends early too. Our own line already tells why.
_EXPECTED = (
    "ASGI callable returned without completing response.",
    "ASGI callable returned without completing handshake.",
)


def _is_news(record: logging.LogRecord) -> bool:
    return record.getMessage() not in _EXPECTED


class TextFormatter(logging.Formatter):
    """One readable line; the fields of a request follow its message."""

    default_time_format = "%H:%M:%S"
    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)-14s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields: dict[str, Any] = getattr(record, "fields", {})
        return line + "".join(f" {name}={_on_a_line(value)}" for name, value in fields.items())


def _on_a_line(value: Any) -> str:
    """A client's words must not look like a line of ours, nor move the cursor."""
    text = ",".join(value) if isinstance(value, list) else str(value)
    return text if text.isprintable() and " " not in text else repr(text)


class FieldsFormatter(JsonFormatter):
    """JSON whose `fields` stand beside `message`, not under a key of their own."""

    def __init__(self) -> None:
        super().__init__(
            ["levelname", "name", "message"],
            timestamp=True,
            rename_fields={"levelname": "level", "name": "logger"},
            json_ensure_ascii=False,
        )

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        if fields is None or record.exc_info:
            return super().format(record)
        # The same line for a sixth of the time: there is one of these for every request.
        head = {
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
        }
        return _encode(head | fields).decode()

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = log_data.pop("fields", {})
        return log_data | fields


class Once(logging.Formatter):
    """Makes a line once for all who ask: stdout, the file, and the file's look at its length."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        line: str | None = record.__dict__.get("_line")
        if line is None:
            line = record.__dict__["_line"] = self._formatter.format(record)
        return line


def configure(log_format: LogFormat, level: str, file: str | None = None) -> None:
    """Set up all loggers of this process, uvicorn's too: on stdout, and in a file.

    Raises:
        SettingsError: the file cannot be written.
    """
    # Nobody prints these, and looking them up for every line costs (Python's logging howto).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    formatter = FieldsFormatter if log_format is LogFormat.JSON else TextFormatter
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"()": formatter}},
            "handlers": {
                "stdout": {
                    "class": "logging.StreamHandler",
                    "stream": "ext://sys.stdout",
                    "formatter": "line",
                }
            },
            "root": {"level": level.upper(), "handlers": ["stdout"]},
            "loggers": {
                # One INFO line for each of our own health probes would be noise.
                "httpx": {"level": "WARNING"},
                "httpcore": {"level": "WARNING"},
                "urllib3": {"level": "WARNING"},  # spans are sent by it
                # Below that it writes heads and messages of sessions: keys, questions, answers.
                "websockets": {"level": "WARNING"},
                "uvicorn": {"level": "WARNING"},
                "asyncio": {"level": "WARNING"},
            },
        }
    )

    logging.getLogger("uvicorn.error").addFilter(_is_news)
    if file is not None:
        _write_also(file, Once(formatter()))


def _write_also(file: str, formatter: logging.Formatter) -> None:
    root = logging.getLogger()
    root.addHandler(open_log_file(file))
    for handler in root.handlers:
        handler.setFormatter(formatter)


def log_request(record: Record) -> None:
    """The one line of a request."""
    if not _access.isEnabledFor(logging.INFO):
        return
    fields = record.fields()
    asked = f"{record.method} {fields['path']}" if record.method else "unreadable request"
    message = f"{asked} {record.status} {record.outcome}"
    is_probe = record.route == "unknown" and record.path in _PROBED
    level = logging.DEBUG if is_probe else logging.INFO
    _access.log(level, message, extra={"fields": fields})


def log_flights(records: Sequence[Record]) -> None:
    """The engine has died: a line for each request that was in flight, then how many more."""
    for record in records[:MAX_FLIGHTS]:
        known = record.fields()
        fields = {name: known[name] for name in _FLIGHT_FIELDS if name in known}
        # Where the engine has not counted them: an event holds one token, or a few.
        fields.setdefault("completion_tokens", record.generated_events)
        fields["age_ms"] = known["duration_ms"]
        text = f"in flight when the engine died: {record.method} {fields['path']}"
        _flights.warning(text, extra={"fields": fields})
    if (more := len(records) - MAX_FLIGHTS) > 0:
        _flights.warning("in flight when the engine died: %d more", more)
