"""A metric: its declaration, and the numbers that are kept for it.

They are plain numbers, and made into samples by a scrape: counters and histograms of
prometheus_client take a lock for each number and look a bucket up one by one, for each request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import inf
from time import time
from typing import Any, Generic, TypeVar, cast

from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString


class Value:
    """One number, with its labels: of a counter, or of a gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def samples(self, name: str, labels: dict[str, str]) -> list[Sample]:
        return [Sample(name, labels, self.value)]


class Buckets:
    """The observations of a histogram with the same labels."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_le", "_sum")

    def __init__(self, bounds: tuple[float, ...], le: tuple[str, ...]) -> None:
        self._bounds, self._le = bounds, le
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, trace_id: str | None = None) -> None:
        """Count it in the first bucket whose bound is not below it."""
        index = bisect_left(self._bounds, value)
        self._counts[index] += 1
        self._sum += value
        if trace_id is not None:
            self._exemplars[index] = Exemplar({"trace_id": trace_id}, value, time())

    def samples(self, name: str, labels: dict[str, str]) -> list[Sample]:
        samples, total = [], 0
        for index, (count, le) in enumerate(zip(self._counts, self._le, strict=True)):
            total += count
            exemplar = self._exemplars.get(index)
            samples.append(Sample(f"{name}_bucket", {**labels, "le": le}, total, None, exemplar))
        samples.append(Sample(f"{name}_count", labels, total))
        samples.append(Sample(f"{name}_sum", labels, self._sum))
        return samples


Child = TypeVar("Child", Value, Buckets)


@dataclass(frozen=True, slots=True, eq=False)
class Declaration(Generic[Child]):
    """A metric. `name` is that of its samples, `kind` Prometheus' type, `text` Markdown."""

    name: str
    kind: str
    text: str
    unit: str
    labels: tuple[str, ...]
    make: Callable[[], Child]

    def metric(self, samples: Iterable[tuple[tuple[str, ...], float]] = ()) -> Metric:
        """The family on the page, with a sample for each set of label values."""
        metric = Metric(self.name.removesuffix("_total"), self.text, self.kind)
        for values, number in samples:
            metric.add_sample(self.name, _labels(self.labels, values), number)
        return metric

    def of_one(self, number: float | None) -> Metric:
        """The family with its one number; without a sample where that is not known."""
        return self.metric(() if number is None else [((), number)])

    def of_models(self, numbers: Iterable[tuple[str, float | None]]) -> Metric:
        """The family with a number for each model, where that is known."""
        return self.metric(((model,), number) for model, number in numbers if number is not None)


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> dict[str, str]:
    """A label with an empty value is none, to Prometheus too: `model`, where there is only one."""
    return {name: value for name, value in zip(names, values, strict=True) if value}


def counter(name: str, text: str, *labels: str, unit: str = "") -> Declaration[Value]:
    return Declaration(f"sidecar_{name}_total", "counter", text, unit, labels, Value)


def gauge(name: str, text: str, *labels: str, unit: str = "") -> Declaration[Value]:
    return Declaration(f"sidecar_{name}", "gauge", text, unit, labels, Value)


def histogram(
    name: str, text: str, bounds: tuple[float, ...], *labels: str, unit: str
) -> Declaration[Buckets]:
    le = tuple(floatToGoString(bound) for bound in (*bounds, inf))  # type: ignore[no-untyped-call]
    make = partial(Buckets, bounds, le)
    return Declaration(f"sidecar_{name}", "histogram", text, unit, labels, make)


class Family(Generic[Child]):
    """The numbers of a metric: a child for each set of label values that was asked for."""

    def __init__(self, declaration: Declaration[Child]) -> None:
        self._declaration: Declaration[Child] = declaration
        self._make: Callable[[], Child] = declaration.make
        self._children: dict[tuple[str, ...], Child] = {}
        if not declaration.labels:
            self.child()

    def child(self, *labels: str) -> Child:
        if (child := self._children.get(labels)) is None:
            child = self._children[labels] = self._make()
        return child

    def forget(self, place: int, values: Collection[str]) -> None:
        for labels in [each for each in self._children if each[place] in values]:
            del self._children[labels]

    def __iter__(self) -> Iterator[Sample]:
        name, names = self._declaration.name, self._declaration.labels
        for labels, child in list(self._children.items()):
            yield from child.samples(name, _labels(names, labels))


class Families(Collector):
    """The family of each declaration, on the page in their order."""

    def __init__(self, declarations: Iterable[Declaration[Any]]) -> None:
        self._families: dict[Declaration[Any], Family[Any]] = {
            each: Family(each) for each in declarations
        }

    def __getitem__(self, declaration: Declaration[Child]) -> Family[Child]:
        return self._families[declaration]

    def forget(self, label: str, values: Collection[str]) -> None:
        """Drop what is kept for these values of a label."""
        for declaration, family in self._families.items():
            if label in declaration.labels:
                family.forget(declaration.labels.index(label), values)

    def collect(self) -> Iterator[Metric]:
        for declaration, family in self._families.items():
            metric = declaration.metric()
            # There may be very many: they are made while they are read.
            metric.samples = cast("list[Sample]", family)
            yield metric
