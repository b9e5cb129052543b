"""`python3 -m proxy models`: the presets as a table, with what fits this machine's GPUs; below it
the models of MODEL_NAME: what is here of each, and what it takes.

`python3 -m proxy models NAME`: all of one. `--gpu-gb 24`, or `24,24`: for GPUs of that size, as if
they were here. Exit codes: 0, 2 an argument, a variable or the file of presets is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from proxy.errors import Cause, EngineFailure, SettingsError
from proxy.installation import COMMAND
from proxy.machine.hardware import VISIBLE, Gpu, Hardware, detect
from proxy.machine.memory import MACHINE
from proxy.models.events import Done
from proxy.models.fetch import look_up
from proxy.models.fit import fit
from proxy.models.kind import ModelKind, check_local_model, kind_of, repository_of
from proxy.models.preset_choice import load_settings, presets_of
from proxy.models.several import names_of
from proxy.preflight.together import needs_of
from proxy.settings import Settings
from proxy.settings.environment import did_you_mean
from proxy.settings.preset import Preset

_CONFIGURED_HEAD = ("MODEL", "FILES", "MEMORY", "GPUS", "SERVED AS")
_HEAD = ("MODEL_NAME", "NEEDS", "FITS", "CONTEXT", "REPOSITORY", "SETS")
_GB = 10**9
_ALLOWED_SIZES = "GB above 0, a number for each GPU, as 24 or 24,24"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for any other bad input."""
        raise SettingsError(f"models: {message}; allowed are NAME and --gpu-gb 24")


def main(environ: Mapping[str, str], *arguments: str) -> int:
    """Print the table, or one preset. Raises SettingsError where an argument is wrong."""
    parser = _Parser(prog=f"{COMMAND} models", description=__doc__)
    parser.add_argument("name", nargs="?", help="a preset: all that it sets")
    parser.add_argument("--gpu-gb", metavar="GB", help="GPUs that are not here: 24, or 24,24")
    given = parser.parse_args(arguments)
    settings = Settings.load(environ)
    presets = presets_of(settings)
    visible = settings.environ.get(VISIBLE)
    hardware = detect(visible) if given.gpu_gb is None else imagined(given.gpu_gb)
    if given.name is None:
        print("\n".join(table(presets.values(), hardware)), flush=True)
        lines = configured(load_settings(environ), hardware)
    elif given.name in presets:
        lines = description(presets[given.name], hardware)
    else:
        hint = did_you_mean(given.name, presets)
        raise SettingsError(f"{given.name!r} is no preset; allowed are {', '.join(presets)}.{hint}")
    for line in lines:
        print(line)
    return 0


def imagined(sizes_gb: str) -> Hardware:
    """A machine with GPUs of these sizes.

    Raises:
        SettingsError: they are no sizes.
    """
    try:
        sizes = [float(size) for size in sizes_gb.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(0 < size < 1e6 for size in sizes):
        raise SettingsError(f"--gpu-gb {sizes_gb}: allowed are {_ALLOWED_SIZES}")
    return Hardware(tuple(Gpu(f"{size:g} GB", int(size * _GB)) for size in sizes))


def table(presets: Iterable[Preset], hardware: Hardware) -> Iterator[str]:
    """A sentence on the machine, then a line for each preset, as wide as it is."""
    yield _machine(hardware)
    yield ""
    rows = [_HEAD]
    for preset in presets:
        sets = " ".join(f"{name}={text}" for name, text in preset.engine_variables.items())
        fits, tokens = fitting(preset, hardware)
        rows.append((preset.name, _needs(preset), fits, tokens, preset.repository, sets))
    yield from _aligned(rows)


def configured(settings: Settings, hardware: Hardware) -> Iterator[str]:
    """A line for each model of MODEL_NAME, the default's first; none where it is unset, or someone
    else runs the engines. Asks no hub."""
    if settings.model_name is None or settings.upstream_url is not None:
        return
    files = asyncio.run(_files_of_all(settings.models))
    needs = {each.name: each for each in needs_of(settings, hardware)}
    rows = [_CONFIGURED_HEAD]
    for each, what in zip(settings.models, files, strict=True):
        name = each.short_name or ""
        memory, gpus = "-", "-"
        if (need := needs.get(name)) is not None:
            memory = "never measured"
            if (needed := need.sizing.needed_bytes) is not None:  # of each of its devices
                how = "measured" if need.sizing.footprint else "declared"
                memory = f"{needed / 1024**3:.1f} GiB, {how}"
            gpus = ",".join(str(device) for device in need.devices if device != MACHINE) or "-"
        rows.append((name, what, memory, gpus, " ".join(names_of(each))))
    yield ""
    yield "The models of MODEL_NAME:"
    yield ""
    yield from _aligned(rows)


async def _files_of_all(models: Iterable[Settings]) -> list[str]:
    return await asyncio.gather(*map(_files_of, models))


async def _files_of(settings: Settings) -> str:
    """What is here of its files."""
    offline = {**settings.environ, "HF_HUB_OFFLINE": "1"}
    settings = settings.model_copy(update={"environ": offline})
    try:
        name = repository_of(settings.model_name or "", settings.model_revision)
        kind = kind_of(name)
        if kind is ModelKind.LOCAL:
            return f"{_size(check_local_model(name, settings))} in a folder"
        if kind is not ModelKind.HUB:
            return "made at the start" if kind is ModelKind.DEMO else "fetched by vLLM"
        offer = await look_up(settings, name, lambda line: None)
        return f"{_size(Path(offer.path))} in the cache" if isinstance(offer, Done) else "not here"
    except EngineFailure as failure:
        return "not here" if failure.cause is Cause.MODEL_NOT_FOUND else failure.cause


def _size(path: Path) -> str:
    size = path.stat().st_size if path.is_file() else 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):  # gone since it was listed
                size += Path(folder, name).stat().st_size
    return f"{size / _GB:.1f} GB"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def description(preset: Preset, hardware: Hardware) -> Iterator[str]:
    """Lines as an environment has them; comments say what it needs, and where that is written."""
    fits, tokens = fitting(preset, hardware)
    context = "" if tokens == "-" else f", requests of up to {tokens} tokens"
    yield f"# {preset.name} of {preset.file}"
    yield f"# needs {_needs(preset)}; fits: {fits}{context}; {_machine(hardware)}"
    yield from (f"# source: {source}" for source in preset.sources)
    yield from (f"{name}={text}" for name, text in preset.variables.items())


def fitting(preset: Preset, hardware: Hardware) -> tuple[str, str]:
    """`yes`, `no`, `with` what would make it fit, or `-` where that is unknown; and the longest
    request in tokens, or `-`.
    """
    sizes = [gpu.memory_bytes / _GB for gpu in hardware.gpus if gpu.memory_bytes]
    if preset.gpu_memory_gb is None or not sizes or len(sizes) < len(hardware.gpus):
        return "-", "-"
    way = fit(preset, sizes)
    if way is None:
        return "no", "-"
    return f"with {' '.join(way.changes)}" if way.changes else "yes", str(way.tokens or "-")


def _machine(hardware: Hardware) -> str:
    if not hardware.has_gpu:
        return "No GPU here: --gpu-gb 24 shows what fits one of 24 GB."
    if hardware.driver is None:
        return f"As on {', '.join(gpu.name for gpu in hardware.gpus)}."
    return f"{hardware.sentence()}."


def _needs(preset: Preset) -> str:
    return "-" if preset.gpu_memory_gb is None else f"{preset.gpu_memory_gb:g} GB"
