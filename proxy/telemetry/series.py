"""The metrics of requests: one `Series` for each route and model."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum
from functools import cached_property

from proxy.telemetry import catalogue
from proxy.telemetry.catalogue import LONG_SECONDS
from proxy.telemetry.family import Buckets, Families, Value
from proxy.telemetry.record import Outcome, Record

OTHER_MODEL = "other"


class Modality(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


class Series:
    """What a route and a model count. A series that is not asked for is not made, unless
    `zero` makes them all."""

    def __init__(self, families: Families, route: str, model: str) -> None:
        self._families = families
        self._labels = (route, model)
        self._model = model
        self._requests: dict[Outcome, Value] = {}
        self._duration = families[catalogue.DURATION].child(route)
        self._long = families[catalogue.LONG].child(route)
        self._response_bytes = families[catalogue.RESPONSE_BYTES].child(route)
        self._stall = families[catalogue.STALL].child()
        self._request_bytes = families[catalogue.REQUEST_BYTES].child()
        self._overhead = families[catalogue.OVERHEAD].child()
        self._rate = families[catalogue.RATE].child()

    @cached_property
    def _prompt_tokens(self) -> Value:
        return self._families[catalogue.PROMPT_TOKENS].child(*self._labels)

    @cached_property
    def _cached_tokens(self) -> Value:
        return self._families[catalogue.CACHED_TOKENS].child(*self._labels)

    @cached_property
    def _completion_tokens(self) -> Value:
        return self._families[catalogue.COMPLETION_TOKENS].child(*self._labels)

    @cached_property
    def _ttft(self) -> Buckets:
        return self._families[catalogue.TTFT].child(self._model)

    @cached_property
    def _itl(self) -> Buckets:
        return self._families[catalogue.ITL].child(self._model)

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
            counter = self._families[catalogue.REQUESTS].child(*self._labels, outcome)
            self._requests[outcome] = counter
        return counter


class RequestSeries:
    """Counts requests as they begin and end."""

    def __init__(self, families: Families, routes: Iterable[str] = ()) -> None:
        """`routes` are there from the start, with every model that is served."""
        self._routes = tuple(routes)
        self._served_models: tuple[str, ...] = ()
        self._series: dict[tuple[str, str], Series] = {}
        self._families = families
        self._in_flight = families[catalogue.IN_FLIGHT]
        self._inputs = families[catalogue.INPUTS]
        for route in self._routes:
            self._in_flight.child(route)
        for modality in Modality:
            self._inputs.child(modality)

    @property
    def served_models(self) -> tuple[str, ...]:
        """The names that the engine answers to, empty until they are known."""
        return self._served_models

    @served_models.setter
    def served_models(self, names: tuple[str, ...]) -> None:
        if names == self._served_models:
            return
        self._served_models = names
        if names:  # an engine may not say them for a while
            self._forget({model for _, model in self._series} - {*names, OTHER_MODEL})
        for route in self._routes:
            for name in names:
                self._of(route, name).zero()

    def began(self, record: Record) -> None:
        self._in_flight.child(record.route).value += 1

    def ended(self, record: Record) -> None:
        self._in_flight.child(record.route).value -= 1
        self._of(record.route, self.model_label(record.model)).add(record)
        if record.images or record.videos or record.audios:
            self._inputs.child(Modality.IMAGE).value += record.images
            self._inputs.child(Modality.VIDEO).value += record.videos
            self._inputs.child(Modality.AUDIO).value += record.audios

    def model_label(self, model: str | None) -> str:
        """The name to count a request by, of those that are served, else `other`."""
        served = self._served_models
        if model in served:
            return model
        # The engine answers a request without a model by its first name.
        return OTHER_MODEL if model is not None or not served else served[0]

    def _forget(self, names: Collection[str]) -> None:
        self._families.forget("model", names)
        self._series = {key: each for key, each in self._series.items() if key[1] not in names}

    def _of(self, route: str, model: str) -> Series:
        if (series := self._series.get((route, model))) is None:
            series = self._series[route, model] = Series(self._families, route, model)
        return series
