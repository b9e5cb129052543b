"""The metrics of requests: one `Series` for each route and model.

`labels()` of prometheus_client takes a lock and builds a tuple; eleven of them cost more
than all the observing. A series keeps the children it needs.

A histogram is a series for each bucket. So each is labelled by what its question is about, and
by no more: how long work takes depends on its kind (`route`), the speed of tokens on the model,
our own share on neither. docs/metrics.md counts what that makes.
"""

from __future__ import annotations

from functools import cached_property

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
# Where Cloudflare, and with it RunPod's proxy of pods, cuts a connection on which nothing came.
LONG_SECONDS = 100

_ROUTE, _MODEL, _BOTH = ("route",), ("model",), ("route", "model")


class Families:
    """The families of requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...]) -> Counter:
            return Counter(f"sidecar_{name}", text, labels, registry=registry)

        def histogram(
            name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()
        ) -> Histogram:
            return Histogram(f"sidecar_{name}", text, labels, registry=registry, buckets=buckets)

        self.requests = counter("requests", "Requests that ended.", (*_BOTH, "outcome"))
        self.prompt_tokens = counter("prompt_tokens", "Tokens read.", _BOTH)
        self.cached_tokens = counter(
            "cached_prompt_tokens", "Tokens read from the prefix cache.", _BOTH
        )
        self.completion_tokens = counter("completion_tokens", "Tokens generated.", _BOTH)
        self.response_bytes = counter("response_body_bytes", "Response bodies.", _ROUTE)
        self.duration = histogram(
            "request_duration_seconds", "First byte in to last byte out.", DURATION_BUCKETS, _ROUTE
        )
        self.long = counter(
            "requests_over_100_seconds", "Requests that took longer than 100 s.", _ROUTE
        )
        self.ttft = histogram(
            "time_to_first_token_seconds", "First byte in to first token.", TTFT_BUCKETS, _MODEL
        )
        self.itl = histogram(
            "inter_token_latency_seconds",
            "Mean time between tokens of a request.",
            ITL_BUCKETS,
            _MODEL,
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
    """What a route and a model count. A series that is not asked for is not made, unless
    `zero` makes them all."""

    def __init__(self, families: Families, route: str, model: str) -> None:
        self._families = families
        self._labels = (route, model)
        self._model = model
        self._requests: dict[Outcome, Counter] = {}
        self._duration = families.duration.labels(route)
        self._long = families.long.labels(route)
        self._response_bytes = families.response_bytes.labels(route)

    @cached_property
    def _prompt_tokens(self) -> Counter:
        return self._families.prompt_tokens.labels(*self._labels)

    @cached_property
    def _cached_tokens(self) -> Counter:
        return self._families.cached_tokens.labels(*self._labels)

    @cached_property
    def _completion_tokens(self) -> Counter:
        return self._families.completion_tokens.labels(*self._labels)

    @cached_property
    def _ttft(self) -> Histogram:
        return self._families.ttft.labels(self._model)

    @cached_property
    def _itl(self) -> Histogram:
        return self._families.itl.labels(self._model)

    def zero(self) -> None:
        """All of them, from now on: a rate needs the 0 before the 1."""
        for outcome in Outcome:
            self._requests_of(outcome)
        _ = (self._prompt_tokens, self._cached_tokens, self._completion_tokens)
        _ = (self._ttft, self._itl)

    def add(self, record: Record) -> None:
        """Count a record that is finished."""
        assert record.outcome is not None
        families = self._families
        # An exemplar leads to a trace: there is none where nobody keeps it.
        trace_id = record.trace_id if record.is_sampled else None
        exemplar = {"trace_id": trace_id} if trace_id is not None else None
        self._requests_of(record.outcome).inc()
        duration = record.duration_seconds
        self._duration.observe(duration, exemplar)
        if duration > LONG_SECONDS:
            self._long.inc()
        families.stall.observe(record.client_stall_seconds)
        families.request_bytes.observe(record.bytes_in)
        if record.bytes_out:
            self._response_bytes.inc(record.bytes_out)
        if (overhead := record.overhead_seconds) is not None:
            families.overhead.observe(overhead)
        if (ttft := record.ttft_seconds) is not None:
            self._ttft.observe(ttft, exemplar)
        if (itl := record.itl_mean_seconds) is not None:
            self._itl.observe(itl)
        if (rate := record.tokens_per_second) is not None:
            families.rate.observe(rate)
        if record.prompt_tokens:
            self._prompt_tokens.inc(record.prompt_tokens)
        if record.cached_tokens:
            self._cached_tokens.inc(record.cached_tokens)
        if record.completion_tokens:
            self._completion_tokens.inc(record.completion_tokens)

    def _requests_of(self, outcome: Outcome) -> Counter:
        if (counter := self._requests.get(outcome)) is None:
            counter = self._families.requests.labels(*self._labels, outcome)
            self._requests[outcome] = counter
        return counter
