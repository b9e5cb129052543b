"""The metrics of requests by prometheus_client's own counters and histograms."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from proxy.access.routes import GENERATING
from proxy.telemetry import catalogue
from proxy.telemetry.family import Declaration
from proxy.telemetry.record import Outcome, Record

disable_created_metrics()  # type: ignore[no-untyped-call]


class Reference:
    """The families in the order of the page."""

    def __init__(self, models: tuple[str, ...]) -> None:
        self.registry = CollectorRegistry()
        self._models = models
        self.requests = self._counter(catalogue.REQUESTS)
        flight = catalogue.IN_FLIGHT
        self.in_flight = Gauge(flight.name, flight.text, flight.labels, registry=self.registry)
        self.duration = self._histogram(catalogue.DURATION, catalogue.DURATION_BUCKETS)
        self.long = self._counter(catalogue.LONG)
        self.ttft = self._histogram(catalogue.TTFT, catalogue.TTFT_BUCKETS)
        self.itl = self._histogram(catalogue.ITL, catalogue.ITL_BUCKETS)
        self.rate = self._histogram(catalogue.RATE, catalogue.RATE_BUCKETS)
        self.prompt_tokens = self._counter(catalogue.PROMPT_TOKENS)
        self.cached_tokens = self._counter(catalogue.CACHED_TOKENS)
        self.completion_tokens = self._counter(catalogue.COMPLETION_TOKENS)
        self.inputs = self._counter(catalogue.INPUTS)
        self.request_bytes = self._histogram(catalogue.REQUEST_BYTES, catalogue.BODY_BUCKETS)
        self.response_bytes = self._counter(catalogue.RESPONSE_BYTES)
        self.overhead = self._histogram(catalogue.OVERHEAD, catalogue.OVERHEAD_BUCKETS)
        self.stall = self._histogram(catalogue.STALL, catalogue.STALL_BUCKETS)
        for route in GENERATING:
            self.in_flight.labels(route)
        for modality in ("image", "video", "audio"):
            self.inputs.labels(modality)
        for route in GENERATING:
            for model in models:
                self._of_route(route)
                for outcome in Outcome:
                    self.requests.labels(route, model, outcome)
                for tokens in (self.prompt_tokens, self.cached_tokens, self.completion_tokens):
                    tokens.labels(route, model)
                self.ttft.labels(model)
                self.itl.labels(model)

    def add(self, record: Record) -> None:
        route = record.route
        model = record.model if record.model in self._models else "other"
        assert record.outcome is not None
        exemplar = {"trace_id": record.trace_id or ""} if record.is_sampled else None
        self.in_flight.labels(route).inc()
        self.in_flight.labels(route).dec()
        self._of_route(route)
        self.requests.labels(route, model, record.outcome).inc()
        self.duration.labels(route).observe(record.duration_seconds, exemplar)
        if record.duration_seconds > catalogue.LONG_SECONDS:
            self.long.labels(route).inc()
        self.stall.observe(record.client_stall_seconds)
        self.request_bytes.observe(record.bytes_in)
        self.response_bytes.labels(route).inc(record.bytes_out)
        if record.overhead_seconds is not None:
            self.overhead.observe(record.overhead_seconds)
        if record.ttft_seconds is not None:
            self.ttft.labels(model).observe(record.ttft_seconds, exemplar)
        if record.itl_mean_seconds is not None:
            self.itl.labels(model).observe(record.itl_mean_seconds)
        if record.tokens_per_second is not None:
            self.rate.observe(record.tokens_per_second)
        for counter, count in (
            (self.prompt_tokens, record.prompt_tokens),
            (self.cached_tokens, record.cached_tokens),
            (self.completion_tokens, record.completion_tokens),
        ):
            if count:
                counter.labels(route, model).inc(count)
        counts = {"image": record.images, "video": record.videos, "audio": record.audios}
        for modality, count in counts.items():
            self.inputs.labels(modality).inc(count)

    def _of_route(self, route: str) -> None:
        self.duration.labels(route)
        self.long.labels(route)
        self.response_bytes.labels(route)

    def _counter(self, each: Declaration[Any]) -> Counter:
        return Counter(each.name, each.text, each.labels, registry=self.registry)

    def _histogram(self, each: Declaration[Any], bounds: tuple[float, ...]) -> Histogram:
        return Histogram(each.name, each.text, each.labels, registry=self.registry, buckets=bounds)
