"""Which metrics a query asks for, and which there are."""

from __future__ import annotations

import re
from functools import cache

from prometheus_client import Metric

from proxy.access.routes import GENERATING
from proxy.pool.metrics import TransitionMetrics
from proxy.telemetry.metrics import Metrics
from tests.proxy.telemetry.records import full
from tests.tools import installed

PROMETHEUS = frozenset({"up"})
_PARTS = ("", "_total", "_bucket", "_sum", "_count")
_NAME = re.compile(r"(?<![\w:\"=~|])(?:up\b|(?:\w+:)?(?:sidecar_|vllm:)[\w:]+)")


def names_in(query: str) -> set[str]:
    """`rate(a_bucket{b="c"}[5m])` -> `a_bucket`."""
    return set(_NAME.findall(re.sub(r'"[^"]*"', '""', query)))


@cache
def known() -> frozenset[str]:
    """Every name that can be asked for."""
    return _sidecars() | _engines() | PROMETHEUS


def labels_of(name: str) -> frozenset[str]:
    """Of one of the sidecar's metrics; none for any other."""
    samples = (sample for family in _families() for sample in family.samples)
    return frozenset(label for sample in samples if sample.name == name for label in sample.labels)


def _sidecars() -> frozenset[str]:
    samples = {sample.name for family in _families() for sample in family.samples}
    return frozenset(samples | {family.name for family in _families()})


@cache
def _families() -> list[Metric]:
    metrics = Metrics(GENERATING)
    TransitionMetrics(metrics.families).add_model("demo")
    metrics.gauges.models = lambda: [("demo", "ready")]
    metrics.gauges.model_memory = lambda: [(("demo", "0"), 5e9)]
    record = full()
    metrics.requests.began(record)
    metrics.requests.ended(record)
    return list(metrics.registry.collect())


def _engines() -> frozenset[str]:
    """As the installed vLLM's source has them; it is read, not imported."""
    source = (installed("vllm") / "v1/metrics/loggers.py").read_text()
    bases = re.findall(r'"(vllm:\w+)"', source)
    return frozenset(base + part for base in bases for part in _PARTS)
