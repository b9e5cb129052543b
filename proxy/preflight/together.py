"""Can the models of one sidecar be loaded as they are asked to be: beside pinned ones, in a budget.

Only what is known counts: what was measured, or is declared. Whatever is refused here could never
work; that it works is not promised.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from proxy.errors import EngineFailure, SettingsError
from proxy.machine.hardware import VISIBLE, Hardware, detect
from proxy.machine.memory import MACHINE
from proxy.preflight.checkup import check_gpus, devices_of, hardware_of, model_name
from proxy.preflight.finding import Finding, Result
from proxy.preflight.sizing import Sizing
from proxy.settings import Settings

_GIB = 1024**3


class Need(NamedTuple):
    """What one model takes, and of which devices."""

    settings: Settings
    devices: tuple[int, ...]
    sizing: Sizing

    @property
    def name(self) -> str:
        return self.settings.short_name or "the model"


def check_models(settings: Settings) -> None:
    """Whether this machine has what is said of its GPUs and of memory. Looks at it.

    Raises:
        SettingsError: it has not.
    """
    if settings.upstream_url is not None:
        return
    visible = settings.environ.get(VISIBLE)
    is_shared = bool(settings.others) or settings.memory_budget_gib is not None
    if is_shared or settings.gpus or visible:
        hardware = detect(visible)
        check_gpus(settings, hardware)
        if is_shared:
            check_together(settings, hardware)


def check_together(settings: Settings, hardware: Hardware) -> None:
    """Whether the first model, and all that are pinned, can be loaded at a time. Reads files.

    Raises:
        SettingsError: they never can.
    """
    needs = list(needs_of(settings, hardware))
    staying = [each for each in needs if each.settings.is_pinned or each.settings is settings]
    for device in {device for each in staying for device in each.devices}:
        own = [each for each in staying if device in each.devices and each.sizing.needed_bytes]
        # Of the device, whoever else holds some of it now.
        rooms = [settings.memory_budget_bytes, *(each.sizing.device_bytes for each in own)]
        room = min((size for size in rooms if size is not None), default=None)
        taken = sum(each.sizing.needed_bytes or 0 for each in own)
        if room is None or taken <= room:
            continue
        names = " and ".join(each.name for each in own)
        place = "the machine's memory" if device == MACHINE else f"GPU {device}"
        limit = settings.memory_budget_gib
        what = f"{names} {'takes' if len(own) == 1 else 'take'} {taken / _GIB:.1f} GiB of {place}"
        allowed = f"allowed are {room / _GIB:.1f}"
        if limit is not None:
            raise SettingsError(f"MEMORY_BUDGET_GIB={limit:g}: {what}; {allowed}; raise it")
        raise SettingsError(f"pin: {what}; {allowed}; pin fewer, or lower their GPU_MEMORY_UTIL")


def memory_rows(settings: Settings, hardware: Hardware) -> Iterator[Finding]:
    """For each of several models what it takes. Reads files."""
    for each in needs_of(settings, hardware):
        takes = "It was never measured, and starts alone on its GPUs."
        if (needed := each.sizing.needed_bytes) is not None:
            how = "as measured" if each.sizing.footprint else "as declared; it was never measured"
            takes = f"{needed / _GIB:.1f} GiB of each of its devices, {how}."
        yield Finding(f"memory ({each.name})", Result.OK, takes)


def needs_of(settings: Settings, hardware: Hardware) -> Iterator[Need]:
    """Of each model, as far as it can be judged here. Reads files."""
    for each in settings.models:
        with suppress(EngineFailure):  # told of when it is prepared
            seen = hardware_of(each, hardware)
            sizing = Sizing(each, model_name(each, seen), seen)
            yield Need(each, devices_of(each, hardware) or (MACHINE,), sizing)
