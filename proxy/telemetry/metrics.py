"""Prometheus families of the sidecar; one registry for each app.

Every label value comes from a closed set, and every series that is known from the start
is there from the start, as 0.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable
from itertools import islice
from time import monotonic

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.engine.phase import Phase
from proxy.errors import Cause
from proxy.telemetry import catalogue
from proxy.telemetry.family import Families
from proxy.telemetry.gauges import Gauges
from proxy.telemetry.key_series import KeySeries
from proxy.telemetry.record import Record
from proxy.telemetry.series import RequestSeries

# For so long the event loop is held by a page of metrics, and by so many samples at least.
_SLICE_SECONDS = 0.005
_SAMPLES_OF_A_PART = 200


class _Collected(Collector):
    """Families that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class Metrics:
    """All that is counted, and its page."""

    def __init__(self, routes: Iterable[str] = (), engines: Iterable[str] = ("",)) -> None:
        """`routes`: see `RequestSeries`; `engines` are the names of several models, or one empty
        name."""
        self.families = Families(catalogue.KEPT)
        self.requests = RequestSeries(self.families, routes)
        self.keys = KeySeries(self.families)
        self._engines: set[str] = set()
        self.gauges = Gauges()
        self.registry = CollectorRegistry()
        self.registry.register(self.families)
        self.registry.register(self.gauges)
        for engine in engines:
            self.add_engine(engine)
        self.families[catalogue.BUILD].child(__version__, platform.python_version()).value = 1

    def add_engine(self, model: str = "") -> None:
        """The series of an engine, from the start; `model` is empty where there is only one."""
        self._engines.add(model)
        for cause in Cause:
            self.families[catalogue.RESTARTS].child(model, cause)
        self.engine_phase(Phase.CHECKING, model)

    def remove_engine(self, model: str) -> None:
        """Its series end; those of its requests have, by its names (`RequestSeries`)."""
        self._engines.discard(model)
        self.families.forget("model", {model} - {*self.requests.served_models})
        self.gauges.downloaded_bytes.pop(model, None)

    def engine_phase(self, phase: Phase, model: str = "") -> None:
        for other in Phase:
            self.families[catalogue.STATE].child(model, other).value = float(other is phase)

    def engine_phase_seconds(self, phase: Phase, seconds: float, model: str = "") -> None:
        self.families[catalogue.PHASE_SECONDS].child(model, phase).value = seconds

    def engine_restarted(self, cause: Cause, model: str = "") -> None:
        self.families[catalogue.RESTARTS].child(model, cause).value += 1

    def model_downloaded(self, bytes_on_disk: int, model: str = "") -> None:
        self.gauges.downloaded_bytes[model] = bytes_on_disk

    def waited(self, record: Record) -> None:
        """Count how long a request that is over has waited for its model."""
        if record.model_wait_seconds is not None and record.engine in self._engines:
            waits = self.families[catalogue.MODEL_WAIT].child(record.engine)
            waits.observe(record.model_wait_seconds)

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, as the scraper asked for it.

        It is made in slices, with the event loop free between them: with a thousand served names
        it takes a second.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        self.keys.forget_removed()
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
