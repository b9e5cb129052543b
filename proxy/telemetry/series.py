"""The metrics of requests: one `Series` for each route and model.

They are plain numbers, and made into samples when somebody asks: counters and histograms of
prometheus_client take a lock for each number and look a bucket up one by one, for each request.

A histogram is a series for each bucket. So each is labelled by what its question is about, and
by no more: how long work takes depends on its kind (`route`), the speed of tokens on the model,
our own share on neither. docs/metrics.md counts what that makes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from math import inf
from time import time
from typing import Generic, TypeVar, cast

from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

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


class Value:
    """One number, with its labels: of a counter, or of a gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def samples(self, name: str, labels: dict[str, str]) -> list[Sample]:
        return [Sample(name, labels, self.value)]


class Buckets:
    """The observations of a histogram with the same labels."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_le", "_sum")

    def __init__(self, bounds: tuple[float, ...], le: tuple[str, ...]) -> None:
        self._bounds, self._le = bounds, le
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, trace_id: str | None = None) -> None:
        """Count it in the first bucket whose bound is not below it."""
        index = bisect_left(self._bounds, value)
        self._counts[index] += 1
        self._sum += value
        if trace_id is not None:
            self._exemplars[index] = Exemplar({"trace_id": trace_id}, value, time())

    def samples(self, name: str, labels: dict[str, str]) -> list[Sample]:
        samples, total = [], 0
        for index, (count, le) in enumerate(zip(self._counts, self._le, strict=True)):
            total += count
            exemplar = self._exemplars.get(index)
            samples.append(Sample(f"{name}_bucket", {**labels, "le": le}, total, None, exemplar))
        samples.append(Sample(f"{name}_count", labels, total))
        samples.append(Sample(f"{name}_sum", labels, self._sum))
        return samples


Child = TypeVar("Child", Value, Buckets)


class Family(Collector, Generic[Child]):
    """A metric: a child for each set of label values that was asked for."""

    def __init__(
        self, kind: str, name: str, text: str, labels: tuple[str, ...], make: Callable[[], Child]
    ) -> None:
        self._kind, self._name, self._text = kind, f"sidecar_{name}", text
        self._labels = labels
        self._make: Callable[[], Child] = make
        self._children: dict[tuple[str, ...], Child] = {}
        if not labels:
            self.child()

    def child(self, *labels: str) -> Child:
        if (child := self._children.get(labels)) is None:
            child = self._children[labels] = self._make()
        return child

    def collect(self) -> Iterable[Metric]:
        metric = Metric(self._name, self._text, self._kind)
        # There may be very many: they are made while they are read.
        metric.samples = cast("list[Sample]", self)
        return [metric]

    def __iter__(self) -> Iterator[Sample]:
        name = f"{self._name}_total" if self._kind == "counter" else self._name
        for labels, child in list(self._children.items()):
            yield from child.samples(name, dict(zip(self._labels, labels, strict=True)))


def counter(name: str, text: str, labels: tuple[str, ...]) -> Family[Value]:
    return Family("counter", name, text, labels, Value)


def gauge(name: str, text: str, labels: tuple[str, ...]) -> Family[Value]:
    return Family("gauge", name, text, labels, Value)


def histogram(
    name: str, text: str, bounds: tuple[float, ...], labels: tuple[str, ...] = ()
) -> Family[Buckets]:
    le = tuple(floatToGoString(bound) for bound in (*bounds, inf))  # type: ignore[no-untyped-call]
    return Family("histogram", name, text, labels, lambda: Buckets(bounds, le))


class Families(Collector):
    """The families of requests."""

    def __init__(self) -> None:
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

    def collect(self) -> Iterator[Metric]:
        for family in vars(self).values():
            yield from family.collect()


class Series:
    """What a route and a model count. A series that is not asked for is not made, unless
    `zero` makes them all."""

    def __init__(self, families: Families, route: str, model: str) -> None:
        self._families = families
        self._labels = (route, model)
        self._model = model
        self._requests: dict[Outcome, Value] = {}
        self._duration = families.duration.child(route)
        self._long = families.long.child(route)
        self._response_bytes = families.response_bytes.child(route)
        self._stall = families.stall.child()
        self._request_bytes = families.request_bytes.child()
        self._overhead = families.overhead.child()
        self._rate = families.rate.child()

    @cached_property
    def _prompt_tokens(self) -> Value:
        return self._families.prompt_tokens.child(*self._labels)

    @cached_property
    def _cached_tokens(self) -> Value:
        return self._families.cached_tokens.child(*self._labels)

    @cached_property
    def _completion_tokens(self) -> Value:
        return self._families.completion_tokens.child(*self._labels)

    @cached_property
    def _ttft(self) -> Buckets:
        return self._families.ttft.child(self._model)

    @cached_property
    def _itl(self) -> Buckets:
        return self._families.itl.child(self._model)

    def zero(self) -> None:
        """All of them, from now on: a rate needs the 0 before the 1."""
        for outcome in Outcome:
            self._requests_of(outcome)
        _ = (self._prompt_tokens, self._cached_tokens, self._completion_tokens)
        _ = (self._ttft, self._itl)

    def add(self, record: Record) -> None:
        """Count a record that is finished."""
        assert record.outcome is not None
        # An exemplar leads to a trace: there is none where nobody keeps it.
        trace_id = record.trace_id if record.is_sampled else None
        self._requests_of(record.outcome).value += 1
        duration = record.duration_seconds
        self._duration.observe(duration, trace_id)
        if duration > LONG_SECONDS:
            self._long.value += 1
        self._stall.observe(record.client_stall_seconds)
        self._request_bytes.observe(record.bytes_in)
        self._response_bytes.value += record.bytes_out
        if (overhead := record.overhead_seconds) is not None:
            self._overhead.observe(overhead)
        if (ttft := record.ttft_seconds) is not None:
            self._ttft.observe(ttft, trace_id)
        if (itl := record.itl_mean_seconds) is not None:
            self._itl.observe(itl)
        if (rate := record.tokens_per_second) is not None:
            self._rate.observe(rate)
        if record.prompt_tokens:
            self._prompt_tokens.value += record.prompt_tokens
        if record.cached_tokens:
            self._cached_tokens.value += record.cached_tokens
        if record.completion_tokens:
            self._completion_tokens.value += record.completion_tokens

    def _requests_of(self, outcome: Outcome) -> Value:
        if (counter := self._requests.get(outcome)) is None:
            counter = self._families.requests.child(*self._labels, outcome)
            self._requests[outcome] = counter
        return counter
