"""docs/metrics.md lists what /metrics has: every family, its type, its labels and their values."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import Metric

from proxy.access.routes import GENERATING, Route
from proxy.engine.phase import Phase
from proxy.machine.reading import DiskReading, GpuReading
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.record import Outcome
from tests.proxy.telemetry.records import full

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "metrics.md").read_text()
WORD = re.compile(r"`([\w.]+)`")


def rows(title: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None, title
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def everything() -> list[Metric]:
    """A page with a sample in each family."""
    metrics = Metrics()
    metrics.served_models = ("demo",)
    metrics.keys.know(["alice"])
    record = full()
    metrics.began(record)
    metrics.ended(record)
    metrics.engine_phase_seconds(Phase.LOADING, 3)
    metrics.gauges.disk = lambda: DiskReading(1, 2)
    metrics.gauges.price_per_hour = 2.5
    metrics.gauges.gpus = lambda: (GpuReading(0, 0.5, 1, 2, 3, 4),)
    return list(metrics.registry.collect())


def test_every_family_is_listed_with_its_type_and_labels() -> None:
    listed = {
        WORD.findall(name)[0]: (kind, set(WORD.findall(labels)))
        for name, kind, labels, _ in rows("Families")
    }
    registered = {}
    for family in everything():
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        registered[name] = (family.type, labels)
    assert listed == registered


def test_every_label_is_listed_with_its_values() -> None:
    listed = {WORD.findall(label)[0]: set(WORD.findall(values)) for label, values in rows("Labels")}
    used = {label for f in everything() for s in f.samples for label in s.labels}
    assert set(listed) == used - {"le", "version", "python"}
    assert listed["outcome"] == set(Outcome)
    assert listed["phase"] == set(Phase)
    assert set(Route) <= listed["route"] <= {*Route, "EXTRA_ROUTES", "PROTOCOLS"}
    assert listed["modality"] == {"image", "video", "audio"}


def test_the_numbers_of_series_are_those_there_are() -> None:
    metrics = Metrics(GENERATING)
    metrics.served_models = ("demo",)
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    of_model = sum("model" in sample.labels for sample in samples)
    of_routes = sum("route" in sample.labels and "model" not in sample.labels for sample in samples)
    others = len(samples) - of_model - of_routes
    listed = [int(number) for _, number, _ in rows("How many series")]
    assert listed == [of_model, of_routes / len(GENERATING), others]
