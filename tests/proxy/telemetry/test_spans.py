"""A span for each record: its place in the trace, its times, and what the engine is told."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic, time_ns
from typing import Any

import pytest
from msgspec.structs import asdict, replace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from proxy.errors import Source
from proxy.telemetry.record import Outcome, Record
from proxy.telemetry.spans import Spans

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def begin(spans: Spans, record: Record) -> None:
    """As the request's lifecycle does."""
    record.traceparent, record.span_headers = spans.begin(record)


class Kept:
    """Spans, and those that were made."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.spans = Spans(self.provider)

    def made(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def through(self, **known: Any) -> tuple[Record, ReadableSpan]:
        record = Record("POST", "/v1/chat/completions", "chat", **known)
        begin(self.spans, record)
        record.finish()
        self.spans.end(record, "demo")
        return record, self.made()[-1]


@pytest.fixture
def kept() -> Iterator[Kept]:
    kept = Kept()
    yield kept
    kept.provider.shutdown()


def told(record: Record) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in record.span_headers}


def test_a_span_is_below_the_clients_and_above_the_engines(kept: Kept) -> None:
    record, span = kept.through(traceparent=PARENT, tracestate="a=1,b=2")
    assert span.context is not None
    assert span.parent is not None
    assert span.kind is SpanKind.SERVER
    assert span.name == "chat demo"
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
    assert f"{span.context.trace_id:032x}" == TRACE == record.trace_id
    _, trace, own, flags = told(record)["traceparent"].split("-")
    assert (trace, own, int(flags, 16) & 1) == (TRACE, f"{span.context.span_id:016x}", 1)
    assert told(record)["tracestate"] == "a=1,b=2"
    assert record.is_sampled


def test_without_a_client_that_traces_a_trace_begins_here(kept: Kept) -> None:
    record, span = kept.through()
    assert span.parent is None
    assert span.context is not None
    assert record.trace_id == f"{span.context.trace_id:032x}"
    assert set(told(record)) == {"traceparent"}


def test_a_trace_that_nobody_keeps_is_passed_on_as_such(kept: Kept) -> None:
    record = Record("POST", "/x", "chat", traceparent=PARENT[:-1] + "0")
    begin(kept.spans, record)
    record.finish()
    kept.spans.end(record, "demo")
    assert not kept.made()
    assert record.trace_id == TRACE
    assert not record.is_sampled
    assert told(record)["traceparent"] == record.traceparent
    assert not record.traceparent.startswith(PARENT[:-2])


def test_a_span_has_the_records_times(kept: Kept) -> None:
    before = time_ns() - 500_000_000
    record = Record("POST", "/v1/completions", "completions", started=monotonic() - 0.5)
    begin(kept.spans, record)
    record.sent = record.started + 0.1
    record.first_token = record.started + 0.2
    record.finish()
    kept.spans.end(record, "demo")
    (span,) = kept.made()
    assert span.start_time is not None
    assert span.end_time is not None
    assert abs(span.start_time - before) < 60_000_000_000
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(
        record.duration_seconds, abs=1e-6
    )
    since = {each.name: (each.timestamp - span.start_time) / 1e9 for each in span.events}
    assert since == pytest.approx({"sidecar.sent": 0.1, "sidecar.first_token": 0.2}, abs=1e-6)


@pytest.mark.parametrize(
    ("outcome", "source", "status", "text"),
    [
        (Outcome.ENGINE_DIED, Source.UPSTREAM, StatusCode.ERROR, "engine_died"),
        (Outcome.CLIENT_ERROR, Source.CLIENT, StatusCode.UNSET, None),
    ],
)
def test_the_status_says_whether_the_server_failed(
    kept: Kept, outcome: Outcome, source: Source, status: StatusCode, text: str | None
) -> None:
    _, span = kept.through(outcome=outcome, error_source=source, error=outcome.value)
    assert (span.status.status_code, span.status.description) == (status, text)
    assert span.attributes is not None
    assert span.attributes["error.type"] == outcome.value


def test_a_span_changes_nothing_in_its_record(kept: Kept) -> None:
    record = Record("POST", "/v1/chat/completions", "chat", traceparent=PARENT)
    before = replace(record)
    kept.spans.begin(record)
    assert asdict(record) == asdict(before)
    record.finish()
    before = replace(record)
    kept.spans.end(record, "demo")
    assert asdict(record) == asdict(before)


def test_nothing_is_kept_of_requests_that_are_over(kept: Kept) -> None:
    kept.through()
    assert not kept.spans._open


def test_words_of_any_kind_are_taken(kept: Kept) -> None:
    _, span = kept.through(model="\U0001f98a\x00" * 400, user_agent="é" * 100, client="::1")
    assert span.attributes is not None
    assert span.attributes["gen_ai.request.model"] == ("\U0001f98a\x00" * 400)[:512]
