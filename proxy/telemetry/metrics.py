"""Prometheus families of the sidecar; one registry for each app.

Every label value comes from a closed set, and every series that is known from the start
is there from the start, as 0.
"""

from __future__ import annotations

import platform
from enum import StrEnum

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from proxy import __version__
from proxy.engine.phase import Phase
from proxy.errors import Cause
from proxy.telemetry.record import Record
from proxy.telemetry.series import Families, Series

OTHER_MODEL = "other"

# A `_created` series beside each counter and histogram would double the page.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Modality(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


class Metrics:
    """Renders records and engine states as Prometheus families."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.served_models: tuple[str, ...] = ()
        self._in_flight = self._gauge("requests_in_flight", "Requests not yet over.", "route")
        self._in_flight_of: dict[str, Gauge] = {}
        self._families = Families(self.registry)
        self._series: dict[tuple[str, str], Series] = {}
        self._inputs = self._counter("inputs", "Images, videos and audio clips.", "modality")
        self._state = self._gauge("engine_state", "1 for the phase the engine is in.", "phase")
        self._restarts = self._counter("engine_restarts", "Engine restarts.", "cause")
        self._phase_seconds = self._gauge(
            "engine_phase_seconds", "Seconds the last start spent in a phase.", "phase"
        )
        self._download = self._gauge("model_download_bytes", "Bytes of the model on disk.")
        self._zero()

    def began(self, record: Record) -> None:
        self._of_route(record.route).inc()

    def ended(self, record: Record) -> None:
        self._of_route(record.route).dec()
        self._of_series(record.route, self._model_label(record.model)).add(record)
        for modality, count in (
            (Modality.IMAGE, record.images),
            (Modality.VIDEO, record.videos),
            (Modality.AUDIO, record.audios),
        ):
            if count:
                self._inputs.labels(modality).inc(count)

    def engine_phase(self, phase: Phase) -> None:
        for other in Phase:
            self._state.labels(other).set(other is phase)

    def engine_phase_seconds(self, phase: Phase, seconds: float) -> None:
        self._phase_seconds.labels(phase).set(seconds)

    def engine_restarted(self, cause: Cause) -> None:
        self._restarts.labels(cause).inc()

    def model_downloaded(self, bytes_on_disk: int) -> None:
        self._download.set(bytes_on_disk)

    def page(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, as the scraper asked for it."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _of_route(self, route: str) -> Gauge:
        if (gauge := self._in_flight_of.get(route)) is None:
            gauge = self._in_flight_of[route] = self._in_flight.labels(route)
        return gauge

    def _of_series(self, route: str, model: str) -> Series:
        if (series := self._series.get((route, model))) is None:
            series = self._series[route, model] = Series(self._families, route, model)
        return series

    def _model_label(self, model: str | None) -> str:
        if model in self.served_models:
            return model
        # The engine answers a request without a model by its first name.
        return OTHER_MODEL if model is not None or not self.served_models else self.served_models[0]

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"sidecar_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"sidecar_{name}", text, labels, registry=self.registry)

    def _zero(self) -> None:
        for modality in Modality:
            self._inputs.labels(modality)
        for cause in Cause:
            self._restarts.labels(cause)
        self.engine_phase(Phase.CHECKING)
        build = self._gauge("build_info", "Versions.", "version", "python")
        build.labels(__version__, platform.python_version()).set(1)
