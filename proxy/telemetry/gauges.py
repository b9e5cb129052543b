"""Gauges that may not be known: a family without a sample, never a made-up 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from proxy.machine.reading import DiskReading, GpuReading
from proxy.telemetry.loop_lag import LoopLag
from proxy.vllm.reading import EngineReading

_ENGINE = {
    "requests_running": ("Requests in the engine's batch.", "running"),
    "requests_waiting": ("Requests in the engine's queue.", "waiting"),
    "kv_cache_usage_ratio": ("Share of the engine's KV cache in use.", "kv_cache_usage"),
}
_GPU = {
    "utilization_ratio": ("Share of the time the GPU was busy.", "utilization"),
    "memory_used_bytes": ("Memory of the GPU in use.", "memory_used_bytes"),
    "memory_total_bytes": ("Memory of the GPU.", "memory_total_bytes"),
    "temperature_celsius": ("Temperature of the GPU.", "temperature_celsius"),
    "power_watts": ("Power the GPU draws.", "power_watts"),
}


class Gauges(Collector):
    """Asks for the newest values at each scrape; whoever is asked answers from memory."""

    def __init__(self) -> None:
        self.engine: Callable[[], EngineReading] = EngineReading
        self.gpus: Callable[[], Iterable[GpuReading]] = tuple
        self.disk: Callable[[], DiskReading] = DiskReading
        self.downloaded_bytes: int | None = None
        self.price_per_hour: float | None = None
        self.loop_lag = LoopLag()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        engine, gpus = self.engine(), tuple(self.gpus())
        for name, (text, field) in _ENGINE.items():
            yield _family(f"engine_{name}", text, getattr(engine, field))
        for name, (text, field) in _GPU.items():
            family = GaugeMetricFamily(f"sidecar_gpu_{name}", text, labels=["gpu"])
            for gpu in gpus:
                if (value := getattr(gpu, field)) is not None:
                    family.add_metric([str(gpu.index)], value)
            yield family
        price = "What one GPU costs an hour, as GPU_PRICE_PER_HOUR says."
        yield _family("gpu_price_per_hour_dollars", price, self.price_per_hour)
        yield _family("model_download_bytes", "Bytes of the model on disk.", self.downloaded_bytes)
        lag = "The longest delay of the event loop in the last 15 to 30 s."
        yield _family("event_loop_lag_seconds", lag, self.loop_lag.seconds)
        disk = self.disk()
        yield _family("model_disk_free_bytes", "Room on the volume of models.", disk.free_bytes)
        yield _family("model_disk_total_bytes", "Size of that volume.", disk.total_bytes)


def _family(name: str, text: str, value: float | None) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"sidecar_{name}", text, value=value)
