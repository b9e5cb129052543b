"""`pynvml` as far as the sidecar uses it."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

GIB = 1024**3


class NVMLError(Exception):
    """What pynvml raises."""


class DriverNotLoaded(NVMLError):
    """There is none."""


class LibraryNotFound(NVMLError):
    """There is not even that."""


@dataclass
class FakeGpu:
    """What one GPU says, in NVML's units; None: `Not Supported`."""

    name: str = "NVIDIA A40"
    memory_bytes: int | None = 48 * GIB
    used_bytes: int = 12 * GIB
    percent: int | None = 87
    celsius: int | None = 61
    milliwatts: int | None = 251_500
    lost: bool = False
    uuid: str = "GPU-00000000"


class FakeNvml(ModuleType):
    """It counts who still holds it open."""

    NVMLError = NVMLError
    NVMLError_DriverNotLoaded = DriverNotLoaded
    NVMLError_LibraryNotFound = LibraryNotFound
    NVML_TEMPERATURE_GPU = 0

    def __init__(
        self, *gpus: FakeGpu, driver: str | None = "580.95", trouble: Exception | None = None
    ) -> None:
        super().__init__("pynvml")
        self.gpus = gpus
        self.driver = driver
        self.trouble = trouble
        self.open = 0

    def nvmlInit(self) -> None:
        if self.trouble is not None:
            raise self.trouble
        if self.driver is None:
            raise DriverNotLoaded("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        assert self.driver is not None
        return self.driver

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        if self.gpus[index].lost:
            raise NVMLError("GPU is lost")
        return self.gpus[index]

    def nvmlDeviceGetName(self, handle: FakeGpu) -> str:
        return handle.name

    def nvmlDeviceGetUUID(self, handle: FakeGpu) -> str:
        return handle.uuid

    def nvmlDeviceGetMemoryInfo(self, handle: FakeGpu) -> SimpleNamespace:
        total = _value_of(handle.memory_bytes)
        return SimpleNamespace(total=total, used=handle.used_bytes, free=total - handle.used_bytes)

    def nvmlDeviceGetUtilizationRates(self, handle: FakeGpu) -> SimpleNamespace:
        return SimpleNamespace(gpu=_value_of(handle.percent), memory=3)

    def nvmlDeviceGetTemperature(self, handle: FakeGpu, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return _value_of(handle.celsius)

    def nvmlDeviceGetPowerUsage(self, handle: FakeGpu) -> int:
        return _value_of(handle.milliwatts)


def _value_of(value: int | None) -> int:
    if value is None:
        raise NVMLError("Not Supported")
    return value
