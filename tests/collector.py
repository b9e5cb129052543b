"""A collector of spans and log lines: OTLP over HTTP and gRPC, decoded by OpenTelemetry's messages.

with Collector() as collector:
    ...                               # OTEL_EXPORTER_OTLP_ENDPOINT=collector.url
    spans = collector.spans()
    lines = collector.lines()         # with OTLP_LOGS_ENDPOINT=collector.url
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2

ERROR = trace_pb2.Status.STATUS_CODE_ERROR
UNSET = trace_pb2.Status.STATUS_CODE_UNSET
SERVER = trace_pb2.Span.SPAN_KIND_SERVER


@dataclass(frozen=True)
class TakenSpan:
    """One span as it came; ids are hexadecimal, times nanoseconds since 1970."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    status: int
    status_text: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    events: dict[str, int]


@dataclass(frozen=True)
class TakenLine:
    """One log line as it came; the time is nanoseconds since 1970."""

    time: int
    severity: str
    severity_number: int
    logger: str
    body: str
    trace_id: str
    attributes: dict[str, Any]
    resource: dict[str, Any]


@dataclass
class Collector:
    """Listens on 127.0.0.1. `status` is what it answers over HTTP; held, it answers nothing."""

    port: int = 0
    status: int = 200
    headers: list[dict[str, str]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    requests: int = 0

    def __post_init__(self) -> None:
        self._spans: list[TakenSpan] = []
        self._lines: list[TakenLine] = []
        self._released = threading.Event()
        self._released.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def spans(self, name: str = "") -> list[TakenSpan]:
        """All so far whose name begins so."""
        return [span for span in list(self._spans) if span.name.startswith(name)]

    def of(self, request_id: str) -> list[TakenSpan]:
        """The sidecar's spans of one request."""
        known = "sidecar.request_id"
        return [span for span in self.spans() if span.attributes.get(known) == request_id]

    def lines(self, logger: str = "") -> list[TakenLine]:
        """All so far of the loggers whose name begins so."""
        return [line for line in list(self._lines) if line.logger.startswith(logger)]

    def hold(self) -> None:
        """Take requests, and leave them without an answer."""
        self._released.clear()

    def take(self, path: str, headers: Iterable[tuple[str, str]], body: bytes) -> int:
        self.requests += 1
        self._released.wait()
        if self.status == 200:
            self.headers.append({name.lower(): value for name, value in headers})
            self.raw.append(body)
            if path == "/v1/traces":
                self._spans += _read(ExportTraceServiceRequest.FromString(body))
            else:
                assert path == "/v1/logs", path
                self._lines += _read_lines(ExportLogsServiceRequest.FromString(body))
        return self.status

    def __enter__(self) -> Self:
        collector = self

        class Export(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self.send_response(collector.take(self.path, self.headers.items(), body))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Export)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()


class GrpcCollector(Collector):
    """The same over gRPC; it always takes what comes."""

    def __enter__(self) -> Self:
        collector = self

        def take(path: str, request: Any, context: Any) -> None:
            collector.take(path, context.invocation_metadata(), request.SerializeToString())

        class ExportSpans(trace_service_pb2_grpc.TraceServiceServicer):
            def Export(self, request: Any, context: Any) -> ExportTraceServiceResponse:
                take("/v1/traces", request, context)
                return ExportTraceServiceResponse()

        class ExportLines(logs_service_pb2_grpc.LogsServiceServicer):
            def Export(self, request: Any, context: Any) -> ExportLogsServiceResponse:
                take("/v1/logs", request, context)
                return ExportLogsServiceResponse()

        self._grpc = grpc.server(ThreadPoolExecutor(2))
        add_spans = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add_spans(ExportSpans(), self._grpc)  # type: ignore[no-untyped-call]
        add_lines = logs_service_pb2_grpc.add_LogsServiceServicer_to_server
        add_lines(ExportLines(), self._grpc)  # type: ignore[no-untyped-call]
        self.port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._grpc.stop(None).wait()


def _read(message: ExportTraceServiceRequest) -> list[TakenSpan]:
    return [
        TakenSpan(
            name=span.name,
            kind=span.kind,
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            start=span.start_time_unix_nano,
            end=span.end_time_unix_nano,
            status=span.status.code,
            status_text=span.status.message,
            attributes=_values(span.attributes),
            resource=_values(resource.resource.attributes),
            events={event.name: event.time_unix_nano for event in span.events},
        )
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _read_lines(message: ExportLogsServiceRequest) -> list[TakenLine]:
    return [
        TakenLine(
            time=line.time_unix_nano,
            severity=line.severity_text,
            severity_number=line.severity_number,
            logger=scope.scope.name,
            body=_plain(line.body),
            trace_id=line.trace_id.hex(),
            attributes=_values(line.attributes),
            resource=_values(resource.resource.attributes),
        )
        for resource in message.resource_logs
        for scope in resource.scope_logs
        for line in scope.log_records
    ]


def _values(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: _plain(pair.value) for pair in pairs}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None
