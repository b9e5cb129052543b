"""The model to serve: brought to this machine where it is not there yet."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from proxy.engine.log_lines import clean_lines
from proxy.engine.model.download import Done, Failed, Plan, Progress, decode_event
from proxy.engine.preflight import ModelKind, check_local_model, kind_of
from proxy.engine.process import Process
from proxy.errors import Cause, EngineFailure
from proxy.settings import Settings

_PROJECT = Path(__file__).parents[3]
_DEFAULT_HF_HOME = Path("~/.cache/huggingface")


@dataclass(frozen=True, slots=True)
class Model:
    """What `vllm serve` is given, and what clients may call it."""

    path: str
    served_names: tuple[str, ...]
    revision: str | None = None
    demo: bool = False
    fetched_by_engine: bool = False


@dataclass(frozen=True, slots=True)
class Transfer:
    """How far a download is; bytes, and bytes a second over the last seconds."""

    bytes_done: int
    bytes_total: int
    bytes_per_second: float | None = None

    @property
    def fraction(self) -> float:
        return min(1.0, self.bytes_done / self.bytes_total) if self.bytes_total else 1.0

    @property
    def eta_seconds(self) -> float | None:
        if not self.bytes_per_second:
            return None
        return max(0.0, (self.bytes_total - self.bytes_done) / self.bytes_per_second)


OnTransfer = Callable[[Transfer], None]
OnLine = Callable[[str], None]


def hf_home(settings: Settings) -> Path:
    return Path(settings.hf_home or _DEFAULT_HF_HOME).expanduser()


def data_directory(settings: Settings) -> Path:
    """Where the sidecar keeps what it makes: beside the model cache, on the same volume."""
    return hf_home(settings).parent / "sidecar"


def served_names(settings: Settings, model_name: str) -> tuple[str, ...]:
    return settings.served_model_names or (model_name,)


async def fetch(
    settings: Settings, model_name: str, on_transfer: OnTransfer, on_line: OnLine
) -> Model:
    """Bring the model here.

    Raises:
        EngineFailure: it cannot be had, with cause and remedy.
    """
    names = served_names(settings, model_name)
    match kind_of(model_name):
        case ModelKind.DEMO:
            path = await _build_demo(settings, on_line)
            return Model(str(path), names, demo=True)
        case ModelKind.LOCAL:
            return Model(str(check_local_model(model_name)), names)
        case ModelKind.HUB:
            done = await _download(settings, model_name, on_transfer, on_line)
            return Model(done.path, names, revision=done.revision)
        case ModelKind.OTHER:
            return Model(
                model_name, names, revision=settings.model_revision, fetched_by_engine=True
            )


async def _build_demo(settings: Settings, on_line: OnLine) -> Path:
    directory = data_directory(settings) / "demo"
    last_line = ""
    async with _child(settings, "proxy.engine.model.demo", str(directory)) as child:
        async for raw in child.lines():
            for last_line in clean_lines(raw):
                if last_line != str(directory):  # its result, for a shell
                    on_line(last_line)
        if await child.wait() != 0:
            remedy = "Set HF_HOME to a folder that can be written to."
            raise EngineFailure(Cause.UNKNOWN, last_line, remedy=remedy, permanent=True)
    return directory


async def _download(
    settings: Settings, repository: str, on_transfer: OnTransfer, on_line: OnLine
) -> Done:
    revision = ("--revision", settings.model_revision) if settings.model_revision else ()
    meter = _Meter(on_transfer)
    async with _child(settings, "proxy.engine.model.download", repository, *revision) as child:
        async for raw in child.lines():
            match decode_event(raw):
                case Plan() as plan:
                    meter.total = plan.bytes_total
                case Progress() as progress:
                    meter.read(progress.bytes)
                case Done() as done:
                    return done
                case Failed() as failed:
                    raise EngineFailure(
                        failed.cause,
                        failed.message,
                        remedy=failed.remedy,
                        permanent=failed.permanent,
                    )
                case None:
                    for line in clean_lines(raw):
                        on_line(line)
        code = await child.wait()
    raise EngineFailure(
        Cause.UNKNOWN, f"The download ended without a result (code {code}).", permanent=False
    )


class _Meter:
    """Bytes over time -> a rate over the last readings."""

    def __init__(self, on_transfer: OnTransfer) -> None:
        self.total = 0
        self._on_transfer = on_transfer
        self._readings: deque[tuple[float, int]] = deque(maxlen=20)

    def read(self, done: int) -> None:
        self._readings.append((monotonic(), done))
        (start, first), (end, last) = self._readings[0], self._readings[-1]
        rate = (last - first) / (end - start) if end > start else None
        self._on_transfer(Transfer(done, self.total, rate))


@asynccontextmanager
async def _child(settings: Settings, module: str, *arguments: str) -> AsyncIterator[Process]:
    """A module of ours in a process of its own, gone when the block is left."""
    environ = {**settings.environ, "PYTHONPATH": str(_PROJECT), "PYTHONUNBUFFERED": "1"}
    child = await Process.start((sys.executable, "-m", module, *arguments), environ)
    try:
        yield child
    finally:
        await asyncio.shield(child.discard())
