"""How spans leave the process: by OpenTelemetry's SDK.

A batch is sent by a thread of the SDK. Where the collector fails it is dropped: one
log line.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from urllib.parse import urlsplit

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from proxy.settings.otlp import OtlpTarget
from proxy.telemetry.sdk import SDK_LOG, exporter, resource

_log = logging.getLogger("proxy.tracing")


def tracer_provider(target: OtlpTarget) -> TracerProvider:
    """Makes spans, and a thread that sends them.

    Raises:
        ImportError: the exporter is not installed.
        ValueError: a variable of the SDK's holds what it cannot use.
    """
    sdks = exporter(target, "trace_exporter", "OTLPSpanExporter")
    # Not at the end of the process: `Spans.stop` ends it, and waits no longer than it may.
    provider = TracerProvider(resource=resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(FailureReportingExporter(sdks, target)))
    return provider


class FailureReportingExporter(SpanExporter):
    """Logs when spans begin to be dropped and when they are taken again: a line each."""

    def __init__(self, exporter: SpanExporter, target: OtlpTarget) -> None:
        self._exporter = exporter
        self._target = target
        self._dropped = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        SDK_LOG.begin_attempt()
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            if not self._dropped:
                where = urlsplit(self._target.url)
                _log.warning(
                    "OTLP export to %s://%s (%s) fails, dropping spans: %s. "
                    "Check %s: collectors mostly take http/protobuf on "
                    "port 4318 and grpc on 4317",
                    where.scheme,
                    where.netloc,
                    self._target.protocol,
                    SDK_LOG.reason,
                    self._target.variables,
                )
            self._dropped += len(spans)
        elif self._dropped:
            _log.info("OTLP export works again; %d spans were dropped", self._dropped)
            self._dropped = 0
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
