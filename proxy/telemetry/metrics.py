"""Prometheus families of the sidecar; one registry for each app.

Every label value comes from a closed set, and every series that is known from the start
is there from the start, as 0.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable
from enum import StrEnum
from itertools import islice
from time import monotonic

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.engine.phase import Phase
from proxy.errors import Cause
from proxy.telemetry import catalogue
from proxy.telemetry.family import Family
from proxy.telemetry.gauges import Gauges
from proxy.telemetry.key_series import KeySeries
from proxy.telemetry.model_series import ModelSeries
from proxy.telemetry.record import Record
from proxy.telemetry.series import Families, Series

OTHER_MODEL = "other"
# For so long the event loop is held by a page of metrics, and by so many samples at least.
_SLICE_SECONDS = 0.005
_SAMPLES_OF_A_PART = 200


class Modality(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


class _Collected(Collector):
    """Families that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class Metrics:
    """Renders records and engine states as Prometheus families."""

    def __init__(self, routes: Iterable[str] = (), engines: Iterable[str] = ("",)) -> None:
        """`routes` are there from the start, with every model that is served; `engines` are the
        names of several models, or one empty name."""
        self._routes = tuple(routes)
        self._engines: set[str] = set()
        self._served_models: tuple[str, ...] = ()
        self._series: dict[tuple[str, str], Series] = {}
        self._families = Families()
        self._in_flight = Family(catalogue.IN_FLIGHT)
        self._inputs = Family(catalogue.INPUTS)
        self._state = Family(catalogue.STATE)
        self._restarts = Family(catalogue.RESTARTS)
        self._phase_seconds = Family(catalogue.PHASE_SECONDS)
        self._build = Family(catalogue.BUILD)
        self.keys = KeySeries()
        self.models = ModelSeries()
        self.gauges = Gauges()
        self.registry = CollectorRegistry()
        for collector in (
            self._in_flight,
            self._families,
            self._inputs,
            self.keys,
            self.models,
            self._state,
            self._restarts,
            self._phase_seconds,
            self.gauges,
            self._build,
        ):
            self.registry.register(collector)
        for route in self._routes:
            self._in_flight.child(route)
        for modality in Modality:
            self._inputs.child(modality)
        for engine in engines:
            self.add_engine(engine)
        self._build.child(__version__, platform.python_version()).value = 1

    def add_engine(self, model: str = "") -> None:
        """The series of an engine, from the start; `model` is empty where there is only one."""
        self._engines.add(model)
        for cause in Cause:
            self._restarts.child(model, cause)
        self.engine_phase(Phase.CHECKING, model)

    def remove_engine(self, model: str, names: Iterable[str]) -> None:
        """Its series end; `names` are those that its requests were counted by."""
        self._engines.discard(model)
        gone = {model, *names} - {*self._served_models}
        self._series = {key: each for key, each in self._series.items() if key[1] not in gone}
        for collector in (self._families, self.models):
            for family in vars(collector).values():
                family.forget_models(gone)
        for family in (self._state, self._restarts, self._phase_seconds):
            family.forget_models(gone)
        self.gauges.downloaded_bytes.pop(model, None)

    @property
    def served_models(self) -> tuple[str, ...]:
        """The names that the engine answers to, empty until they are known."""
        return self._served_models

    @served_models.setter
    def served_models(self, names: tuple[str, ...]) -> None:
        if names == self._served_models:
            return
        self._served_models = names
        for route in self._routes:
            for name in names:
                self._of_series(route, name).zero()

    def request_started(self, record: Record) -> None:
        self._in_flight.child(record.route).value += 1

    def request_ended(self, record: Record) -> None:
        self._in_flight.child(record.route).value -= 1
        self._of_series(record.route, self.model_label(record.model)).add(record)
        self.keys.add(record)
        is_here = (record.engine or "") in self._engines
        if record.model_wait_seconds is not None and is_here:
            self.models.wait_seconds.child(record.engine or "").observe(record.model_wait_seconds)
        if record.images or record.videos or record.audios:
            self._inputs.child(Modality.IMAGE).value += record.images
            self._inputs.child(Modality.VIDEO).value += record.videos
            self._inputs.child(Modality.AUDIO).value += record.audios

    def engine_phase(self, phase: Phase, model: str = "") -> None:
        for other in Phase:
            self._state.child(model, other).value = float(other is phase)

    def engine_phase_seconds(self, phase: Phase, seconds: float, model: str = "") -> None:
        self._phase_seconds.child(model, phase).value = seconds

    def engine_restarted(self, cause: Cause, model: str = "") -> None:
        self._restarts.child(model, cause).value += 1

    def model_downloaded(self, bytes_on_disk: int, model: str = "") -> None:
        self.gauges.downloaded_bytes[model] = bytes_on_disk

    def model_label(self, model: str | None) -> str:
        """The name to count a request by, of those that are served, else `other`."""
        if model in self.served_models:
            return model
        # The engine answers a request without a model by its first name.
        return OTHER_MODEL if model is not None or not self.served_models else self.served_models[0]

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, as the scraper asked for it.

        It is made in slices, with the event loop free between them: with a thousand served names
        it takes a second.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        texts, slice_ends = [], monotonic() + _SLICE_SECONDS
        end = encode(_Collected(()))
        for family in self.registry.collect():
            samples, head = iter(family.samples), b""
            while True:
                part = Metric(family.name, family.documentation, family.type)
                part.samples = list(islice(samples, _SAMPLES_OF_A_PART))
                if head and not part.samples:
                    break
                text = encode(_Collected((part,))).removesuffix(end)
                texts.append(text.removeprefix(head))
                if not head:
                    empty = Metric(part.name, part.documentation, part.type)
                    head = encode(_Collected((empty,))).removesuffix(end)
                if monotonic() >= slice_ends:
                    await asyncio.sleep(0)
                    slice_ends = monotonic() + _SLICE_SECONDS
        return b"".join([*texts, end]), content_type

    def _of_series(self, route: str, model: str) -> Series:
        if (series := self._series.get((route, model))) is None:
            series = self._series[route, model] = Series(self._families, route, model)
        return series
