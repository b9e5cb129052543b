"""The metrics of requests: one `Series` for each route and model.

`labels()` of prometheus_client takes a lock and builds a tuple; eleven of them cost more
than all the observing. A series keeps the children it needs.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from proxy.telemetry.record import Outcome, Record

# vLLM's own bounds (v1/metrics/buckets.py), so that "sidecar minus engine" is a
# subtraction at equal `le`; duration has a low end added.
TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5),
    *(10, 20, 40, 80, 160, 640, 2560),
)
ITL_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5),
    *(10, 20, 40, 80),
)
DURATION_BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20),
    *(30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680),
)
RATE_BUCKETS = (1, 2.5, 5, 10, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000)
OVERHEAD_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1)
STALL_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1, 5, 10, 60)
BODY_BUCKETS = tuple(1024 * 4**power for power in range(10))

_LABELS = ("route", "model")


class Families:
    """The families that are labelled by route and model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *more_labels: str) -> Counter:
            return Counter(f"sidecar_{name}", text, (*_LABELS, *more_labels), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"sidecar_{name}", text, _LABELS, registry=registry, buckets=buckets)

        self.requests = counter("requests", "Requests that ended.", "outcome")
        self.response_bytes = counter("response_body_bytes", "Response bodies.")
        self.prompt_tokens = counter("prompt_tokens", "Tokens read.")
        self.completion_tokens = counter("completion_tokens", "Tokens generated.")
        self.cached_tokens = counter("cached_prompt_tokens", "Tokens read from the prefix cache.")
        self.duration = histogram(
            "request_duration_seconds", "First byte in to last byte out.", DURATION_BUCKETS
        )
        self.ttft = histogram(
            "time_to_first_token_seconds", "First byte in to first token.", TTFT_BUCKETS
        )
        self.itl = histogram(
            "inter_token_latency_seconds", "Mean time between tokens of a request.", ITL_BUCKETS
        )
        self.rate = histogram(
            "output_tokens_per_second", "Output rate after the first token.", RATE_BUCKETS
        )
        self.overhead = histogram(
            "overhead_seconds", "The sidecar's own share of a request.", OVERHEAD_BUCKETS
        )
        self.stall = histogram(
            "client_stall_seconds", "Time spent waiting for the client to read.", STALL_BUCKETS
        )
        self.request_bytes = histogram("request_body_bytes", "Request bodies.", BODY_BUCKETS)


class Series:
    """All of them for one route and model."""

    def __init__(self, families: Families, route: str, model: str) -> None:
        labels = (route, model)
        self._requests = {
            outcome: families.requests.labels(*labels, outcome) for outcome in Outcome
        }
        self._response_bytes = families.response_bytes.labels(*labels)
        self._prompt_tokens = families.prompt_tokens.labels(*labels)
        self._completion_tokens = families.completion_tokens.labels(*labels)
        self._cached_tokens = families.cached_tokens.labels(*labels)
        self._duration = families.duration.labels(*labels)
        self._ttft = families.ttft.labels(*labels)
        self._itl = families.itl.labels(*labels)
        self._rate = families.rate.labels(*labels)
        self._overhead = families.overhead.labels(*labels)
        self._stall = families.stall.labels(*labels)
        self._request_bytes = families.request_bytes.labels(*labels)

    def add(self, record: Record) -> None:
        """Count a record that is finished."""
        assert record.outcome is not None
        self._requests[record.outcome].inc()
        self._duration.observe(record.duration_seconds)
        self._stall.observe(record.client_stall_seconds)
        self._request_bytes.observe(record.bytes_in)
        for histogram, value in (
            (self._ttft, record.ttft_seconds),
            (self._itl, record.itl_mean_seconds),
            (self._rate, record.tokens_per_second),
            (self._overhead, record.overhead_seconds),
        ):
            if value is not None:
                histogram.observe(value)
        for counter, amount in (
            (self._response_bytes, record.bytes_out),
            (self._prompt_tokens, record.prompt_tokens),
            (self._completion_tokens, record.completion_tokens),
            (self._cached_tokens, record.cached_tokens),
        ):
            if amount:
                counter.inc(amount)
