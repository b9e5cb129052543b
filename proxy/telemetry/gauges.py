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


class Gauges(Collector):
    """Asks for the newest values at each scrape; each source answers from memory."""

    def __init__(self) -> None:
        self.waiting: Callable[[], int] = int
        self.engine: Callable[[], EngineReading] = EngineReading
        self.gpus: Callable[[], Iterable[GpuReading]] = tuple
        self.disk: Callable[[], DiskReading] = DiskReading
        self.downloaded_bytes: int | None = None
        self.price_per_hour: float | None = None
        self.loop_lag = LoopLag()

    def collect(self) -> Iterator[Metric]:
        engine, gpus, disk = self.engine(), tuple(self.gpus()), self.disk()
        yield catalogue.WAITING.known(self.waiting())
        yield catalogue.ENGINE_RUNNING.known(engine.running)
        yield catalogue.ENGINE_WAITING.known(engine.waiting)
        yield catalogue.ENGINE_KV_CACHE.known(engine.kv_cache_usage)
        for declaration, read in _OF_GPUS:
            readings = ((str(gpu.index), read(gpu)) for gpu in gpus)
            yield declaration.metric(
                ((index,), number) for index, number in readings if number is not None
            )
        yield catalogue.GPU_PRICE.known(self.price_per_hour)
        yield catalogue.MODEL_BYTES.known(self.downloaded_bytes)
        yield catalogue.LOOP_LAG.known(self.loop_lag.seconds)
        yield catalogue.DISK_FREE.known(disk.free_bytes)
        yield catalogue.DISK_TOTAL.known(disk.total_bytes)
        # Of the process, as logging is.
        yield catalogue.LOG_LINES_DROPPED.known(dropped_lines())
