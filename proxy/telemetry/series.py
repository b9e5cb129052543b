"""The metrics of requests: one `Series` for each route and model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from prometheus_client import Metric
from prometheus_client.registry import Collector

from proxy.telemetry import catalogue
from proxy.telemetry.catalogue import LONG_SECONDS
from proxy.telemetry.family import Buckets, Family, Value
from proxy.telemetry.record import Outcome, Record


class Families(Collector):
    """The families of requests."""

    def __init__(self) -> None:
        self.requests = Family(catalogue.REQUESTS)
        self.prompt_tokens = Family(catalogue.PROMPT_TOKENS)
        self.cached_tokens = Family(catalogue.CACHED_TOKENS)
        self.completion_tokens = Family(catalogue.COMPLETION_TOKENS)
        self.response_bytes = Family(catalogue.RESPONSE_BYTES)
        self.duration = Family(catalogue.DURATION)
        self.long = Family(catalogue.LONG)
        self.ttft = Family(catalogue.TTFT)
        self.itl = Family(catalogue.ITL)
        self.rate = Family(catalogue.RATE)
        self.overhead = Family(catalogue.OVERHEAD)
        self.stall = Family(catalogue.STALL)
        self.request_bytes = Family(catalogue.REQUEST_BYTES)

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
        # An exemplar leads to a trace: there is none where the trace is not kept.
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
