"""A span for each request, made of its record. Imported only where spans are wanted."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from threading import Thread
from time import monotonic_ns, time_ns

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from proxy import __version__
from proxy.telemetry.record import Record, TraceContext
from proxy.telemetry.span_attributes import attributes, events, has_failed, span_name

# The last spans are worth no more of a drain than this.
STOP_SECONDS = 3.0
_NANOSECONDS = 1_000_000_000

_context = TraceContextTextMapPropagator()


class Spans:
    """Begun when a request's record is, ended when it is finished; sent by a thread of the SDK.

    They are made of records, and change nothing in them."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("vllm-sidecar", __version__)
        self._open: dict[int, tuple[Span, int]] = {}

    def begin(self, record: Record) -> TraceContext:
        """Begin a span below the client's; what it returns puts the engine's below it."""
        # One look at both clocks for the whole span: a clock that is set does not bend it.
        since_epoch = time_ns() - monotonic_ns()
        parent = {"traceparent": record.traceparent or "", "tracestate": record.tracestate or ""}
        span = self._tracer.start_span(
            record.route,
            _context.extract(parent, Context()),
            SpanKind.SERVER,
            start_time=_wall_clock(record.started, since_epoch),
        )
        headers: dict[str, str] = {}
        _context.inject(headers, set_span_in_context(span, Context()))
        if span.is_recording():
            self._open[id(record)] = span, since_epoch
        pairs = tuple((name.encode(), text.encode()) for name, text in headers.items())
        return TraceContext(headers.get("traceparent"), pairs)

    def end(self, record: Record, model: str) -> None:
        """`model` as it is in metrics: one that is served, or `other`."""
        span, since_epoch = self._open.pop(id(record), (None, 0))
        if span is None:
            return
        assert record.finished is not None
        span.update_name(span_name(record, model))
        span.set_attributes(attributes(record))
        for name, moment in events(record):
            span.add_event(name, timestamp=_wall_clock(moment, since_epoch))
        if has_failed(record):
            span.set_status(Status(StatusCode.ERROR, record.error))
        span.end(_wall_clock(record.finished, since_epoch))

    async def stop(self) -> None:
        """Send what is left, for `STOP_SECONDS` at most; what has not gone by then is lost."""
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop is closed: `stop` waits no more
                loop.call_soon_threadsafe(gone.set)

        # A thread that the end of the process does not wait for.
        Thread(target=shut_down, name="last spans", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(gone.wait(), STOP_SECONDS)


def _wall_clock(moment: float, since_epoch: int) -> int:
    """Nanoseconds since 1970 of a moment in monotonic seconds."""
    return int(moment * _NANOSECONDS) + since_epoch
