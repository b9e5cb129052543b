"""The model to serve: brought to this machine where it is not there yet."""

from __future__ import annotations

import asyncio
import os
import site
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from proxy.engine.process import Process
from proxy.errors import Cause, EngineFailure
from proxy.models.demo import DEMO_TEXT_NAME
from proxy.models.events import Done, Event, Failed, Plan, Progress, decode_event
from proxy.models.folder import at_home
from proxy.models.kind import ModelKind, check_local_model, kind_of
from proxy.settings import Settings
from proxy.vllm.description import Description, describe_folder
from proxy.vllm.log_lines import clean_lines

_PROJECT = Path(__file__).parents[2]
_DOWNLOAD = "proxy.models.download"
# A check reports sooner than a start that a hub does not answer.
CHECK_METADATA_SECONDS = 12.0
# A download that gets SIGTERM takes its partial files with it: nothing goes on from them.
_STOP_GRACE_SECONDS = 2.0


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


OnFound = Callable[[Description], None]
OnTransfer = Callable[[Transfer], None]
OnLine = Callable[[str], None]


def hf_home(settings: Settings) -> Path:
    """As huggingface_hub finds it."""
    default = f"{settings.environ.get('XDG_CACHE_HOME', '~/.cache')}/huggingface"
    return at_home(os.path.expandvars(settings.hf_home or default))


def model_cache(settings: Settings) -> Path:
    """Where models lie: elsewhere than in HF_HOME where a variable of huggingface_hub says so."""
    names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
    given = next((settings.environ[name] for name in names if name in settings.environ), None)
    return at_home(os.path.expandvars(given)) if given else hf_home(settings)


def data_directory(settings: Settings) -> Path:
    """Where the sidecar keeps what it makes: beside the model cache, on the same volume."""
    return hf_home(settings).parent / "sidecar"


def served_names(settings: Settings, model_name: str) -> tuple[str, ...]:
    return settings.served_model_names or (model_name,)


async def fetch(
    settings: Settings,
    model_name: str,
    on_found: OnFound,
    on_transfer: OnTransfer,
    on_line: OnLine,
) -> Model:
    """Bring the model here.

    `on_found` is called once, when it is clear what the model is and before its weights are
    fetched; what it raises ends the fetch.

    Raises:
        EngineFailure: it cannot be had, with cause and remedy.
    """
    names = served_names(settings, model_name)
    match await asyncio.to_thread(kind_of, model_name):
        case ModelKind.DEMO:
            on_found(Description(model_name))
            path = await _build_demo(settings, model_name, on_line)
            return Model(str(path), names, demo=True)
        case ModelKind.LOCAL:
            path = await asyncio.to_thread(check_local_model, model_name, settings)
            on_found(await asyncio.to_thread(describe_folder, model_name, path))
            return Model(str(path), names)
        case ModelKind.HUB:
            done = await _download(settings, model_name, on_found, on_transfer, on_line)
            return Model(done.path, names, revision=done.revision)
        case ModelKind.OTHER:
            on_found(Description(model_name))
            revision = settings.model_revision
            return Model(model_name, names, revision=revision, fetched_by_engine=True)


async def _build_demo(settings: Settings, name: str, on_line: OnLine) -> Path:
    directory = data_directory(settings) / name
    last_line = ""
    options = ("--text-only",) if name == DEMO_TEXT_NAME else ()
    async with _child(settings, "proxy.models.demo", str(directory), *options) as child:
        async for raw in child.lines():
            for last_line in clean_lines(raw):
                if last_line != str(directory):  # its result, for a shell
                    on_line(last_line)
        if (code := await child.wait()) != 0:
            if "cannot write" in last_line:
                remedy = "Set HF_HOME to a folder that can be written to."
                raise EngineFailure(
                    Cause.CACHE_NOT_WRITABLE, last_line, remedy=remedy, permanent=True
                )
            reason = last_line or "without output"
            text = f"The demo model could not be built (code {code}): {reason}"
            raise EngineFailure(Cause.UNKNOWN, text, permanent=False)
    return directory


async def look_up(settings: Settings, repository: str, on_line: OnLine) -> Plan | Done:
    """What a download would do, asked without one; Done where only the cache was asked.

    Raises:
        EngineFailure: the download would fail.
    """
    limit = ("--metadata-seconds", str(CHECK_METADATA_SECONDS))
    return await _ask_child(settings, repository, lambda _: None, on_line, "--check", *limit)


async def describe(name: str, offer: Plan | Done) -> Description:
    """The model as the hub, or in its place the cache, has it."""
    if isinstance(offer, Done):
        return await asyncio.to_thread(describe_folder, name, Path(offer.path))
    return _as_planned(name, offer)


def _as_planned(name: str, plan: Plan) -> Description:
    return Description(name, plan.config, plan.weights_bytes or None)


async def _download(
    settings: Settings,
    repository: str,
    on_found: OnFound,
    on_transfer: OnTransfer,
    on_line: OnLine,
) -> Done:
    meter = _Meter(on_transfer)
    planned = False

    def on_event(event: Event) -> None:
        nonlocal planned
        match event:
            case Plan():
                planned = True
                on_found(_as_planned(repository, event))
                meter.total = event.bytes_total
            case Progress():
                meter.read(event.bytes)

    result = await _ask_child(settings, repository, on_event, on_line)
    if isinstance(result, Plan):
        raise _no_result(0)
    if not planned:
        on_found(await describe(repository, result))
    return result


async def _ask_child(
    settings: Settings,
    repository: str,
    on_event: Callable[[Event], None],
    on_line: OnLine,
    *options: str,
) -> Plan | Done:
    """Run the download child; its last Plan or Done. Raises EngineFailure."""
    if settings.model_revision:
        options = ("--revision", settings.model_revision, *options)
    result: Plan | Done | None = None
    last_line = ""
    async with _child(settings, _DOWNLOAD, repository, *options) as child:
        async for raw in child.lines():
            match decode_event(raw):
                case Failed() as failed:
                    raise EngineFailure(
                        failed.cause,
                        failed.message,
                        remedy=failed.remedy,
                        permanent=failed.permanent,
                    )
                case Plan() | Done() as event:
                    result = event
                    on_event(event)
                case Progress() as event:
                    on_event(event)
                case None:
                    for last_line in clean_lines(raw):
                        on_line(last_line)
            if isinstance(result, Done):
                return result
        code = await child.wait()
    if result is None or code != 0:
        raise _no_result(code, last_line)
    return result


def _no_result(code: int, last_line: str = "") -> EngineFailure:
    reason = f": {last_line}" if last_line else "."
    text = f"The download ended without a result (code {code}){reason}"
    return EngineFailure(Cause.UNKNOWN, text, permanent=False)


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


def child_environ(ours: Mapping[str, str]) -> dict[str, str]:
    """For a module of ours; what it imports may be where our own PYTHONPATH leads."""
    # Where we are installed Python looks by itself, and only after the standard library.
    installed = str(_PROJECT) in (*site.getsitepackages(), site.getusersitepackages())
    places = filter(None, ("" if installed else str(_PROJECT), ours.get("PYTHONPATH")))
    return {**ours, "PYTHONPATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1"}


@asynccontextmanager
async def _child(settings: Settings, module: str, *arguments: str) -> AsyncIterator[Process]:
    """A module of ours in a process of its own, gone when the block is left."""
    environ = child_environ(settings.environ)
    # -P: not from the folder that we were started in, which may have a `proxy` of its own.
    child = await Process.start((sys.executable, "-P", "-m", module, *arguments), environ)
    try:
        yield child
    finally:
        await asyncio.shield(child.discard(_STOP_GRACE_SECONDS))
