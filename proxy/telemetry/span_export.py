"""How spans leave the process: OpenTelemetry's SDK, which reads its own variables (`OTEL_*`).

A batch is sent by a thread of the SDK. Where nobody takes it, it is lost, and the log says so once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from proxy import __version__
from proxy.settings.tracing import OtlpProtocol, TraceTarget

SERVICE_NAME = "vllm-sidecar"
_MAX_REASON_CHARS = 300

_log = logging.getLogger("proxy.tracing")


def tracer_provider(target: TraceTarget) -> TracerProvider:
    """Makes spans, and a thread that sends them.

    Raises:
        ImportError: the exporter is not installed.
        ValueError: a variable of the SDK's holds what it cannot use.
    """
    exporter = ToldOnce(_exporter(target), target)
    # Not at the end of the process: `Spans.stop` ends it, and waits no longer than it may.
    provider = TracerProvider(resource=_resource(os.environ), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    exporter.listen()
    return provider


class ToldOnce(SpanExporter):
    """Tells when spans begin to be lost and when they are taken again: a line each.

    The SDK has two or three for each attempt; they are on level `debug` here.
    """

    def __init__(self, exporter: SpanExporter, target: TraceTarget) -> None:
        self._exporter = exporter
        self._target = target
        self._sdk = _SdkLines()
        self._lost = 0

    def listen(self) -> None:
        """From now on the SDK's own lines are not for everybody."""
        sdk = logging.getLogger("opentelemetry")
        sdk.handlers = [self._sdk]
        sdk.propagate = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._sdk.first = None
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            if not self._lost:
                self._tell()
            self._lost += len(spans)
        elif self._lost:
            _log.info("spans are taken again; %d were lost", self._lost)
            self._lost = 0
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def _tell(self) -> None:
        where = urlsplit(self._target.url)
        _log.warning(
            "spans are lost until somebody takes them: %s://%s does not, by %s: %s. "
            "Check OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_PROTOCOL: "
            "collectors mostly take http/protobuf on port 4318 and grpc on 4317",
            where.scheme,
            where.netloc,
            self._target.protocol,
            (self._sdk.first or "no reason is known")[:_MAX_REASON_CHARS],
        )


class _SdkLines(logging.Handler):
    """Keeps the first line of an attempt: it has the reason."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if self.first is None:
            self.first = text
        _log.debug("%s", text)


def _exporter(target: TraceTarget) -> SpanExporter:
    """Each brings its own libraries: only one is imported."""
    if target.protocol is OtlpProtocol.GRPC:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        return Grpc(endpoint=target.url)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

    return Http(endpoint=target.url)


def _resource(environ: Mapping[str, str]) -> Resource:
    """Who we are; what the SDK's own variables say of it goes before."""
    named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    ours = {"service.version": __version__}
    return Resource.create(ours if named else {**ours, "service.name": SERVICE_NAME})
