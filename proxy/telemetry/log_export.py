"""Log lines as OTLP logs, by OpenTelemetry's exporters. Imported only where they are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context

from proxy.settings.otlp import OtlpTarget
from proxy.telemetry.sdk import SDK_LOG, exporter, resource

# By default a collector takes 4 MiB at once over gRPC.
_MAX_BATCH_LINES = 512
_SEVERITIES = {
    "DEBUG": SeverityNumber.DEBUG,
    "INFO": SeverityNumber.INFO,
    "WARNING": SeverityNumber.WARN,
    "ERROR": SeverityNumber.ERROR,
    "CRITICAL": SeverityNumber.FATAL,
}
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_scope = lru_cache(maxsize=256)(InstrumentationScope)


class CollectorWriter:
    """Writes lines for a thread that may wait: as long as the exporter tries, 10 s at most."""

    inside_line = False

    def __init__(self, target: OtlpTarget) -> None:
        """
        Raises:
            ImportError: the exporter is not installed.
            ValueError: a variable of the SDK's holds what it cannot use.
        """
        self._exporter = exporter(target, "_log_exporter", "OTLPLogExporter")
        self._resource = resource()

    def write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """How many lines were lost, and why."""
        lost, error = 0, None
        for start in range(0, len(lines), _MAX_BATCH_LINES):
            batch = lines[start : start + _MAX_BATCH_LINES]
            SDK_LOG.begin_attempt()
            result = self._exporter.export([self._record(line) for line in batch])
            if result is not LogRecordExportResult.SUCCESS:
                lost, error = lost + len(batch), OSError(SDK_LOG.reason)
        return lost, error

    def _record(self, line: bytes) -> ReadableLogRecord:
        """A line as OTLP has it: the message is its body, the other fields are its attributes. One
        of LOG_FORMAT=text is all body."""
        try:
            fields = _decode(line)
            level, body = fields.pop("level"), fields.pop("message")
            written = datetime.fromisoformat(fields.pop("timestamp"))
            scope = _scope(fields.pop("logger"))
        except (msgspec.DecodeError, KeyError):
            text = line.decode("utf-8", "replace").rstrip("\n")
            return ReadableLogRecord(LogRecord(body=text), self._resource)
        if (traceback := fields.pop("exc_info", None)) is not None:
            fields["exception.stacktrace"] = traceback
        context = Context()
        if (trace_id := fields.get("trace_id")) is not None:
            # By it a backend finds the lines of a trace. The line knows no span.
            span = SpanContext(int(trace_id, 16), span_id=0, is_remote=False)
            context = set_span_in_context(NonRecordingSpan(span), context)
        record = LogRecord(
            timestamp=round(written.timestamp() * 1_000_000) * 1_000,
            context=context,
            severity_text=level,
            severity_number=_SEVERITIES.get(level),
            body=body,
            attributes=fields,
        )
        return ReadableLogRecord(record, self._resource, scope)
