"""Prometheus families of the sidecar; one registry for each app.

Every label value comes from a closed set, and every series that is known from the start
is there from the start, as 0.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from itertools import islice
from time import monotonic

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Metric,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.engine.phase import Phase
from proxy.errors import Cause
from proxy.telemetry.gauges import Gauges
from proxy.telemetry.key_series import KeySeries
from proxy.telemetry.logs import dropped_lines
from proxy.telemetry.record import Record
from proxy.telemetry.series import Families, Series, counter, gauge

OTHER_MODEL = "other"
# For so long the event loop is held by a page of metrics, and by so many samples at least.
_SLICE_SECONDS = 0.005
_SAMPLES_OF_A_PART = 200

# A `_created` series beside each counter and histogram would double the page.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Modality(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


class _Some(Collector):
    """Families that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class LogLines(Collector):
    """What the log has lost; it is the process's own, as logging is."""

    def collect(self) -> Iterable[CounterMetricFamily]:
        text = "Log lines that a target did not take."
        yield CounterMetricFamily("sidecar_log_lines_dropped", text, dropped_lines())


class Metrics:
    """Renders records and engine states as Prometheus families."""

    def __init__(self, routes: Iterable[str] = ()) -> None:
        """`routes` are there from the start, with every model that is served."""
        self.registry = CollectorRegistry()
        self._routes = tuple(routes)
        self._served_models: tuple[str, ...] = ()
        self._in_flight = gauge("requests_in_flight", "Requests not yet over.", ("route",))
        self.registry.register(self._in_flight)
        self._waiting = self._gauge("requests_waiting", "Requests that wait for a place.")
        self._families = Families()
        self.registry.register(self._families)
        self.keys = KeySeries()
        self.registry.register(self.keys)
        self._series: dict[tuple[str, str], Series] = {}
        self._inputs = counter("inputs", "Images, videos and audio clips.", ("modality",))
        self.registry.register(self._inputs)
        self._state = self._gauge("engine_state", "1 for the phase the engine is in.", "phase")
        self._restarts = self._counter("engine_restarts", "Engine restarts.", "cause")
        self._phase_seconds = self._gauge(
            "engine_phase_seconds", "Seconds the last start spent in a phase.", "phase"
        )
        self.gauges = Gauges()
        self.registry.register(LogLines())
        self.registry.register(self.gauges)
        self._zero()

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

    def waiting(self, count: Callable[[], int]) -> None:
        """Where it is read how many wait, when somebody asks."""
        self._waiting.set_function(count)

    def began(self, record: Record) -> None:
        self._in_flight.child(record.route).value += 1

    def ended(self, record: Record) -> None:
        self._in_flight.child(record.route).value -= 1
        self._of_series(record.route, self.model_label(record.model)).add(record)
        self.keys.add(record)
        if record.images or record.videos or record.audios:
            self._inputs.child(Modality.IMAGE).value += record.images
            self._inputs.child(Modality.VIDEO).value += record.videos
            self._inputs.child(Modality.AUDIO).value += record.audios

    def engine_phase(self, phase: Phase) -> None:
        for other in Phase:
            self._state.labels(other).set(other is phase)

    def engine_phase_seconds(self, phase: Phase, seconds: float) -> None:
        self._phase_seconds.labels(phase).set(seconds)

    def engine_restarted(self, cause: Cause) -> None:
        self._restarts.labels(cause).inc()

    def model_downloaded(self, bytes_on_disk: int) -> None:
        self.gauges.downloaded_bytes = bytes_on_disk

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
        parts, slice_ends = [], monotonic() + _SLICE_SECONDS
        for part in self._parts(encode):
            parts.append(part)
            if monotonic() >= slice_ends:
                await asyncio.sleep(0)
                slice_ends = monotonic() + _SLICE_SECONDS
        return b"".join(parts), content_type

    def _parts(self, encode: Callable[[Collector], bytes]) -> Iterator[bytes]:
        end = encode(_Some(()))
        for family in self.registry.collect():
            samples, head = iter(family.samples), b""
            while True:
                part = Metric(family.name, family.documentation, family.type)
                part.samples = list(islice(samples, _SAMPLES_OF_A_PART))
                if head and not part.samples:
                    break
                text = encode(_Some((part,))).removesuffix(end)
                yield text.removeprefix(head)
                head = head or encode(_Some((Metric(part.name, part.documentation, part.type),)))
                head = head.removesuffix(end)
        yield end

    def _of_series(self, route: str, model: str) -> Series:
        if (series := self._series.get((route, model))) is None:
            series = self._series[route, model] = Series(self._families, route, model)
        return series

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"sidecar_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"sidecar_{name}", text, labels, registry=self.registry)

    def _zero(self) -> None:
        for route in self._routes:
            self._in_flight.child(route)
        for modality in Modality:
            self._inputs.child(modality)
        for cause in Cause:
            self._restarts.labels(cause)
        self.engine_phase(Phase.CHECKING)
        build = self._gauge("build_info", "Versions.", "version", "python")
        build.labels(__version__, platform.python_version()).set(1)
