"""Prometheus families of the sidecar; one registry for each app.

Every label value comes from a closed set, and every series that is known from the start
is there from the start, as 0.
"""

from __future__ import annotations

import platform
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from proxy import __version__
from proxy.engine.phase import Phase
from proxy.errors import Cause
from proxy.telemetry.record import Record

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

OTHER_MODEL = "other"


class Modality(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


class Metrics:
    """Renders records and engine states as Prometheus families."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.served_models: tuple[str, ...] = ()
        self._requests = self._counter(
            "requests", "Requests that ended.", "route", "model", "outcome"
        )
        self._in_flight = self._gauge("requests_in_flight", "Requests not yet over.", "route")
        self._duration = self._histogram(
            "request_duration_seconds", "First byte in to last byte out.", DURATION_BUCKETS
        )
        self._ttft = self._histogram(
            "time_to_first_token_seconds", "First byte in to first token.", TTFT_BUCKETS
        )
        self._itl = self._histogram(
            "inter_token_latency_seconds", "Mean time between tokens of a request.", ITL_BUCKETS
        )
        self._rate = self._histogram(
            "output_tokens_per_second", "Output rate after the first token.", RATE_BUCKETS
        )
        self._overhead = self._histogram(
            "overhead_seconds", "The sidecar's own share of a request.", OVERHEAD_BUCKETS
        )
        self._stall = self._histogram(
            "client_stall_seconds", "Time spent waiting for the client to read.", STALL_BUCKETS
        )
        self._body_in = self._histogram("request_body_bytes", "Request bodies.", BODY_BUCKETS)
        self._body_out = self._counter("response_body_bytes", "Response bodies.", "route", "model")
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens read.", "route", "model")
        self._completion_tokens = self._counter(
            "completion_tokens", "Tokens generated.", "route", "model"
        )
        self._cached_tokens = self._counter(
            "cached_prompt_tokens", "Tokens read from the prefix cache.", "route", "model"
        )
        self._inputs = self._counter("inputs", "Images, videos and audio clips.", "modality")
        self._state = self._gauge("engine_state", "1 for the phase the engine is in.", "phase")
        self._restarts = self._counter("engine_restarts", "Engine restarts.", "cause")
        self._phase_seconds = self._gauge(
            "engine_phase_seconds", "Seconds the last start spent in a phase.", "phase"
        )
        self._download = self._gauge("model_download_bytes", "Bytes of the model on disk.")
        self._zero()

    def began(self, record: Record) -> None:
        self._in_flight.labels(record.route).inc()

    def ended(self, record: Record) -> None:
        route, model = record.route, self._model_label(record.model)
        self._in_flight.labels(route).dec()
        self._requests.labels(route, model, record.outcome).inc()
        _observe(self._duration, route, model, record.duration_seconds)
        _observe(self._ttft, route, model, record.ttft_seconds)
        _observe(self._itl, route, model, record.itl_mean_seconds)
        _observe(self._rate, route, model, record.tokens_per_second)
        _observe(self._overhead, route, model, record.overhead_seconds)
        _observe(self._stall, route, model, record.client_stall_seconds)
        _observe(self._body_in, route, model, record.bytes_in)
        self._body_out.labels(route, model).inc(record.bytes_out)
        self._prompt_tokens.labels(route, model).inc(record.prompt_tokens or 0)
        self._completion_tokens.labels(route, model).inc(record.completion_tokens or 0)
        self._cached_tokens.labels(route, model).inc(record.cached_tokens or 0)
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

    def _model_label(self, model: str | None) -> str:
        if model in self.served_models:
            return model
        # The engine answers a request without a model by its first name.
        return OTHER_MODEL if model is not None or not self.served_models else self.served_models[0]

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"sidecar_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"sidecar_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        labels = ("route", "model")
        return Histogram(f"sidecar_{name}", text, labels, registry=self.registry, buckets=buckets)

    def _zero(self) -> None:
        for modality in Modality:
            self._inputs.labels(modality)
        for cause in Cause:
            self._restarts.labels(cause)
        self.engine_phase(Phase.CHECKING)
        build = self._gauge("build_info", "Versions.", "version", "python")
        build.labels(__version__, platform.python_version()).set(1)


def _observe(family: Histogram, route: str, model: str, value: float | None) -> None:
    if value is not None:
        family.labels(route, model).observe(value)
