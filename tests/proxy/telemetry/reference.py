"""The metrics of requests by prometheus_client's own counters and histograms."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from proxy.access.routes import GENERATING
from proxy.telemetry import series
from proxy.telemetry.record import Outcome, Record

_ROUTE, _MODEL, _BOTH = ("route",), ("model",), ("route", "model")


class Reference:
    """The families in the order of the page, each with the labels it has there."""

    def __init__(self, models: tuple[str, ...]) -> None:
        self.registry = CollectorRegistry()
        self._models = models
        self.in_flight = Gauge(
            "sidecar_requests_in_flight", "Requests not yet over.", _ROUTE, registry=self.registry
        )
        self.requests = self._counter("requests", "Requests that ended.", *_BOTH, "outcome")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens read.", *_BOTH)
        self.cached_tokens = self._counter(
            "cached_prompt_tokens", "Tokens read from the prefix cache.", *_BOTH
        )
        self.completion_tokens = self._counter("completion_tokens", "Tokens generated.", *_BOTH)
        self.response_bytes = self._counter("response_body_bytes", "Response bodies.", *_ROUTE)
        self.duration = self._histogram("request_duration_seconds", *_ROUTE)
        text = "Requests that took longer than 100 s."
        self.long = self._counter("requests_over_100_seconds", text, *_ROUTE)
        self.ttft = self._histogram("time_to_first_token_seconds", *_MODEL)
        self.itl = self._histogram("inter_token_latency_seconds", *_MODEL)
        self.rate = self._histogram("output_tokens_per_second")
        self.overhead = self._histogram("overhead_seconds")
        self.stall = self._histogram("client_stall_seconds")
        self.request_bytes = self._histogram("request_body_bytes")
        self.inputs = self._counter("inputs", "Images, videos and audio clips.", "modality")
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
        if record.duration_seconds > series.LONG_SECONDS:
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

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"sidecar_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, *labels: str) -> Histogram:
        text, bounds = _HISTOGRAMS[name]
        return Histogram(f"sidecar_{name}", text, labels, registry=self.registry, buckets=bounds)


_HISTOGRAMS = {
    "request_duration_seconds": ("First byte in to last byte out.", series.DURATION_BUCKETS),
    "time_to_first_token_seconds": ("First byte in to first token.", series.TTFT_BUCKETS),
    "inter_token_latency_seconds": ("Mean time between tokens of a request.", series.ITL_BUCKETS),
    "output_tokens_per_second": ("Output rate after the first token.", series.RATE_BUCKETS),
    "overhead_seconds": ("The sidecar's own share of a request.", series.OVERHEAD_BUCKETS),
    "client_stall_seconds": ("Time spent waiting for the client to read.", series.STALL_BUCKETS),
    "request_body_bytes": ("Request bodies.", series.BODY_BUCKETS),
}
