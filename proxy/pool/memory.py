"""What the models of one sidecar take of its devices, and what they may take together.

Nobody says how much memory an engine takes: in a container the driver shows no processes. So the
memory of the whole device is read before and after a start, and what came in between is the
engine's, if no other engine has started or ended on that device meanwhile. On a CPU the engine's
own processes are asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Protocol

from proxy.machine.memory import MACHINE, DeviceMemory, gpu_memory, machine_memory, process_memory
from proxy.pool.plan import Budget, ModelState, ModelView
from proxy.preflight.sizing import Sizing
from proxy.settings import Settings

_log = logging.getLogger("proxy.pool")

RELEASE_SECONDS = 30.0
"""For so long the memory of an engine that has ended is waited for."""
_POLL_SECONDS = 0.25
# CUDA gives back the last of it late, and a neighbour takes some meanwhile.
_RELEASED_SHARE = 0.75
# A driver in trouble may hold a question for minutes.
_READ_SECONDS = 5.0
_GIB = 1024**3
# One that takes more of its GPUs leaves room for no other.
_FULL_SHARE = 0.9

Reading = Mapping[int, DeviceMemory]
"""By device: an NVML index, or `MACHINE`."""


class Tenant(Protocol):
    """A model, as far as its memory goes."""

    @property
    def name(self) -> str: ...
    @property
    def view(self) -> ModelView: ...
    @property
    def sizing(self) -> Sizing | None:
        """None until its files are here."""

    @property
    def kv_cache_bytes(self) -> int | None:
        """What its engine has printed."""

    @property
    def pid(self) -> int | None:
        """Its engine's process, with all others of it below."""


@dataclass(frozen=True, slots=True)
class _Start:
    """The devices just before a start, and who else was on them: name, process, and state."""

    devices: frozenset[int]
    reading: Reading
    """Of those of them whose memory is sure to be others'."""
    others: frozenset[tuple[str, int | None, ModelState]]
    has_slept: bool = False
    """Since then, at least once."""


class PoolMemory:
    """Reads the devices around each start and after each end."""

    def __init__(self, models: Sequence[Tenant], settings: Settings) -> None:
        """`models` are read anew each time."""
        self._models = models
        self._settings = settings
        self._devices: dict[int, DeviceMemory] | None = None
        """What each has, and what is used by others than these models."""
        self._starts: dict[str, _Start] = {}
        self._has_warned = False

    async def look(self) -> None:
        """Read the devices before anything runs on them."""
        self._devices = dict(await _read(None))

    def budget(self) -> Budget:
        """What all models together may take, as of now."""
        settings = self._settings
        rooms = None  # nothing is loaded before the first look
        capacity = {}
        if self._devices is not None:
            rooms = {each: memory.total - memory.used for each, memory in self._devices.items()}
            capacity = {each: memory.total for each, memory in self._devices.items()}
            if (limit := settings.memory_budget_bytes) is not None:
                devices = {device for model in self._models for device in model.view.devices}
                rooms = {device: min(limit, rooms.get(device, limit)) for device in devices}
                capacity = {device: min(limit, capacity.get(device, limit)) for device in devices}
        most, seconds = settings.max_loaded_models, settings.swap_max_wait_seconds
        return Budget(rooms, capacity, most, seconds)

    async def before_start(self, model: Tenant) -> None:
        """To be called right before each start of its engine."""
        view = model.view
        others = self._others(view)
        reading = dict(await _read(view.devices))
        views = [each.view for each in self._models]
        there = {each.name: each for each in views if each.name != view.name and each.holds_memory}
        taken = {device for each in there.values() for device in each.devices}
        # What has died may hold its memory for a moment yet, which is neither others' nor there to
        # stay. Beside an engine that runs it cannot be told how much that is.
        unsure: set[int] = set()
        for name, start in [*self._starts.items()]:
            devices = start.devices & set(view.gpus)
            if name not in there and devices:
                self._starts[name] = replace(start, devices=start.devices - devices)
                unsure |= devices
        for device in unsure & taken:
            reading.pop(device, None)
        if self._devices is not None:
            for device in reading.keys() - taken:
                before = self._devices.get(device)
                if device in unsure and before is not None:
                    reading[device] = min(before, reading[device], key=lambda each: each.used)
                self._devices[device] = reading[device]
        self._starts[model.name] = _Start(frozenset(view.devices), reading, others)

    async def after_start(self, model: Tenant) -> None:
        """The engine is ready: what has it taken? Kept unless something else has changed."""
        start, sizing = self._starts.get(model.name), model.sizing
        if start is None or sizing is None:
            return
        taken = await _taken(model, start)
        if taken is not None and taken > 0 and start.others == self._others(model.view):
            await asyncio.to_thread(sizing.keep, taken, model.kv_cache_bytes)
            cache, where = model.kv_cache_bytes, _words(model.view.devices)
            of_it = f", {_gib(cache)} of it cache" if cache else ""
            _log.info("%s takes %s of %s%s", _name(model), _gib(taken), where, of_it)
            self._warn_of_full_device(model, sizing)

    async def after_sleep(self, model: Tenant) -> None:
        """The engine sleeps: what of its GPUs does it still hold? Kept the first time after a
        start, unless something else has changed since then."""
        start, sizing = self._starts.get(model.name), model.sizing
        if start is None or start.has_slept or sizing is None or not model.view.gpus:
            return
        self._starts[model.name] = replace(start, has_slept=True)
        held = await _taken(model, start)
        if held is not None and start.others == self._others(model.view):
            await asyncio.to_thread(sizing.keep_asleep, max(held, 0))
            where = _words(model.view.devices)
            _log.info("%s holds %s of %s while it sleeps", _name(model), _gib(held), where)

    def _others(self, view: ModelView) -> frozenset[tuple[str, int | None, ModelState]]:
        """Whose memory is on the devices of a model beside its own."""
        return frozenset(
            (each.name, each.pid, each.view.state)
            for each in self._models
            if each.name != view.name
            and each.view.holds_memory
            and not set(each.view.devices).isdisjoint(view.devices)
        )

    def _warn_of_full_device(self, model: Tenant, sizing: Sizing) -> None:
        """Once: whoever wants several loaded at a time has to say so."""
        view = model.view
        others = [
            each for each in self._models if not set(each.view.devices).isdisjoint(view.devices)
        ]
        is_full = sizing.share is not None and sizing.share >= _FULL_SHARE
        if is_full and len(others) > 1 and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "%s fills %s (a share of %g): models on it are loaded in turn, each in the place of"
                " the one before. For several at a time set MAX_LOADED_MODELS=%d, or"
                " GPU_MEMORY_UTIL in each one's preset",
                _name(model),
                _words(view.devices),
                sizing.share,
                len(others),
            )

    async def before_stop(self, model: Tenant) -> Reading:
        """To be handed to `after_stop`."""
        view = model.view
        # Else it holds little, or less than it may come to take.
        gives_memory_back = view.gpus and view.state is ModelState.READY
        return await _read(view.gpus) if gives_memory_back else {}

    async def after_stop(self, model: Tenant, before: Reading) -> None:
        """The engine is gone; wait until its GPUs have their memory back, within bounds.

        The driver may still be taking it back, and who is started meanwhile finds too little.
        """
        sizing = model.sizing
        if not before or sizing is None or sizing.footprint is None:
            return
        expected = sizing.footprint.device_bytes * _RELEASED_SHARE
        began = monotonic()
        while True:
            now = await _read(before)
            held = [
                device
                for device, memory in now.items()
                if before[device].used - memory.used < expected
            ]
            waited = monotonic() - began
            if not held or waited >= RELEASE_SECONDS:
                break
            await asyncio.sleep(_POLL_SECONDS)
        if held:
            _log.warning(
                "%s still holds memory %.0f s after the end of %s: %s is used. The next load may"
                " fail for want of memory",
                _words(held),
                waited,
                _name(model),
                _gib(max(now[device].used for device in held)),
            )
        else:
            self._starts.pop(model.name, None)
            if waited >= 1:
                _log.info("%s: its memory came back after %.1f s", _name(model), waited)


async def _read(devices: Collection[int] | None) -> Reading:
    """Of these devices, or of all; empty where none can be read."""

    def read() -> Reading:
        if devices is not None and MACHINE not in devices:
            return gpu_memory(devices)
        gpus = gpu_memory(None) if devices is None else {}
        machine = machine_memory()
        return gpus | ({} if gpus or machine is None else {MACHINE: machine})

    try:
        async with asyncio.timeout(_READ_SECONDS):
            return await asyncio.to_thread(read)
    except TimeoutError:
        return {}


async def _taken(model: Tenant, start: _Start) -> int | None:
    """The most that the engine takes of any of its devices."""
    if not model.view.gpus:
        return None if model.pid is None else await asyncio.to_thread(process_memory, model.pid)
    after = await _read(model.view.gpus)
    if not after or after.keys() != start.reading.keys():
        return None
    return max(memory.used - start.reading[device].used for device, memory in after.items())


def _name(model: Tenant) -> str:
    return model.name or "the model"


def _words(devices: Collection[int]) -> str:
    if MACHINE in devices:
        return "the machine's memory"
    return f"GPU {', '.join(map(str, sorted(devices)))}"


def _gib(count: int) -> str:
    return f"{count / _GIB:.1f} GiB"
