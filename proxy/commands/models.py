"""`python3 -m proxy models`: the presets as a table, with what fits this machine's GPUs.

`python3 -m proxy models NAME`: all of one. Exit codes: 0, 2 a variable, the file of presets or the
name is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

from proxy.errors import SettingsError
from proxy.machine.hardware import Hardware, detect
from proxy.models.preset_choice import presets_of
from proxy.settings import Settings
from proxy.settings.preset import Preset

_HEAD = ("MODEL_NAME", "NEEDS", "FITS", "REPOSITORY", "SETS")
_GB = 1e9
# As vLLM wants it: a number that divides a model's heads.
_PARALLEL_SIZES = (1, 2, 4, 8)


def main(environ: Mapping[str, str], name: str | None = None) -> int:
    try:
        presets = presets_of(Settings.load(environ))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    hardware = detect()
    if name is None:
        print("\n".join(table(presets.values(), hardware)))
        return 0
    if name not in presets:
        near = get_close_matches(name, presets, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        print(f"{name!r} is no preset; allowed are {', '.join(presets)}.{hint}", file=sys.stderr)
        return 2
    print("\n".join(description(presets[name], hardware)))
    return 0


def table(presets: Iterable[Preset], hardware: Hardware) -> Iterator[str]:
    """A sentence on the machine, then a line for each preset, as wide as it is."""
    yield _machine(hardware)
    yield ""
    rows = [_HEAD, *(_row(preset, hardware) for preset in presets)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def description(preset: Preset, hardware: Hardware) -> Iterator[str]:
    """Lines as an environment has them, and what else is known as comments."""
    yield f"# {preset.name} of {preset.file}"
    yield f"# needs {_needs(preset)}; here: {fits(preset, hardware)}; {_machine(hardware)}"
    yield from (f"# source: {source}" for source in preset.sources)
    yield from (f"{name}={text}" for name, text in preset.variables.items())


def fits(preset: Preset, hardware: Hardware) -> str:
    """`yes`, `no`, `with` what would make it fit, or `-` where it cannot be said."""
    sizes = [gpu.memory_bytes for gpu in hardware.gpus if gpu.memory_bytes]
    if preset.gpu_memory_gb is None or not sizes or len(sizes) < len(hardware.gpus):
        return "-"
    own = Settings.load(preset.engine_variables).tensor_parallel_size  # `4.0` is 4 there
    # More GPUs than the file says is the next best; fewer are enough where they are large.
    for count in sorted(_PARALLEL_SIZES, key=lambda size: (size != own, size)):
        if count <= len(sizes) and min(sizes) * count >= preset.gpu_memory_gb * _GB:
            return "yes" if count == own else f"with TENSOR_PARALLEL_SIZE={count}"
    return "no"


def _machine(hardware: Hardware) -> str:
    if hardware.has_gpu:
        return f"{hardware.sentence()}."
    return "No GPU here: what each model needs is told, not what fits."


def _row(preset: Preset, hardware: Hardware) -> tuple[str, ...]:
    sets = " ".join(f"{name}={text}" for name, text in preset.engine_variables.items())
    return (preset.name, _needs(preset), fits(preset, hardware), preset.repository, sets)


def _needs(preset: Preset) -> str:
    return "-" if preset.gpu_memory_gb is None else f"{preset.gpu_memory_gb:g} GB"
