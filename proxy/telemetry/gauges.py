"""Numbers that a scrape reads: no sample where one is not known, never a made-up 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.registry import Collector

from proxy.machine.reading import DiskReading, GpuReading
from proxy.telemetry import catalogue
from proxy.telemetry.family import Declaration, Value
from proxy.telemetry.logs import dropped_lines
from proxy.telemetry.loop_lag import LoopLag
from proxy.vllm.reading import EngineReading

_OF_GPUS: tuple[tuple[Declaration[Value], Callable[[GpuReading], float | None]], ...] = (
    (catalogue.GPU_UTILIZATION, lambda gpu: gpu.utilization),
    (catalogue.GPU_MEMORY_USED, lambda gpu: gpu.memory_used_bytes),
    (catalogue.GPU_MEMORY_TOTAL, lambda gpu: gpu.memory_total_bytes),
    (catalogue.GPU_TEMPERATURE, lambda gpu: gpu.temperature_celsius),
    (catalogue.GPU_POWER, lambda gpu: gpu.power_watts),
)

# As proxy/pool/plan.py has them.
STATES = ("unloaded", "loading", "ready", "unloading", "asleep", "failed")


class Gauges(Collector):
    """Asks for the newest values at each scrape; each source answers from memory."""

    def __init__(self) -> None:
        # By model: an empty name where there is only one.
        self.waiting: Callable[[], Iterable[tuple[str, int]]] = lambda: [("", 0)]
        self.engines: Callable[[], Iterable[tuple[str, EngineReading]]] = tuple
        self.models: Callable[[], Iterable[tuple[str, str]]] = tuple
        """The states of several models."""
        self.model_memory: Callable[[], Iterable[tuple[tuple[str, str], float]]] = tuple
        """Bytes by model and GPU."""
        self.gpus: Callable[[], Iterable[GpuReading]] = tuple
        self.disk: Callable[[], DiskReading] = DiskReading
        self.downloaded_bytes: dict[str, int] = {}
        self.price_per_hour: float | None = None
        self.loop_lag = LoopLag()

    def collect(self) -> Iterator[Metric]:
        engines, gpus, disk = tuple(self.engines()), tuple(self.gpus()), self.disk()
        yield catalogue.WAITING.of_models(self.waiting())
        yield catalogue.ENGINE_RUNNING.of_models((model, now.running) for model, now in engines)
        yield catalogue.ENGINE_WAITING.of_models((model, now.waiting) for model, now in engines)
        yield catalogue.ENGINE_KV_CACHE.of_models(
            (model, now.kv_cache_usage) for model, now in engines
        )
        yield catalogue.MODEL_STATE.metric(
            ((model, state), float(state == now))
            for model, now in self.models()
            for state in STATES
        )
        yield catalogue.MODEL_MEMORY.metric(self.model_memory())
        for declaration, read in _OF_GPUS:
            readings = ((str(gpu.index), read(gpu)) for gpu in gpus)
            yield declaration.metric(
                ((index,), number) for index, number in readings if number is not None
            )
        yield catalogue.GPU_PRICE.of_one(self.price_per_hour)
        yield catalogue.MODEL_BYTES.of_models(self.downloaded_bytes.items())
        yield catalogue.LOOP_LAG.of_one(self.loop_lag.seconds)
        yield catalogue.DISK_FREE.of_one(disk.free_bytes)
        yield catalogue.DISK_TOTAL.of_one(disk.total_bytes)
        # Of the process, as logging is.
        yield catalogue.LOG_LINES_DROPPED.of_one(dropped_lines())
