"""The metrics of models that are loaded and unloaded. Their names come from the configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import StrEnum
from typing import Any

from prometheus_client import Metric
from prometheus_client.registry import Collector

from proxy.telemetry import catalogue
from proxy.telemetry.family import Family
from proxy.telemetry.record import Record


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
        self.names: set[str] = set()
        """Those of all models."""

    def add(self, record: Record) -> None:
        """Count how long a request that is over has waited for its model."""
        if record.model_wait_seconds is not None and record.engine in self.names:
            self.wait_seconds.child(record.engine).observe(record.model_wait_seconds)

    def forget_models(self, names: Collection[str]) -> None:
        for family in self._families():
            family.forget_models(names)

    def collect(self) -> Iterator[Metric]:
        for family in self._families():
            yield from family.collect()

    def _families(self) -> tuple[Family[Any], ...]:
        return (self.loads, self.load_seconds, self.evictions, self.wait_seconds)
