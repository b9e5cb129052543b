"""The metrics of models that are loaded and unloaded. Their names come from the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from prometheus_client import Metric
from prometheus_client.registry import Collector

from proxy.telemetry import catalogue
from proxy.telemetry.family import Family


class LoadKind(StrEnum):
    COLD = "cold"
    WAKE = "wake"
    """From sleep."""


class ModelSeries(Collector):
    """The name of a model is empty where there is only one."""

    def __init__(self) -> None:
        self.loads = Family(catalogue.MODEL_LOADS)
        self.load_seconds = Family(catalogue.MODEL_LOAD_SECONDS)
        self.evictions = Family(catalogue.MODEL_EVICTIONS)
        self.wait_seconds = Family(catalogue.MODEL_WAIT)

    def collect(self) -> Iterator[Metric]:
        for family in vars(self).values():
            yield from family.collect()
