"""`python3 -m proxy models`: the presets as a table, with what fits this machine's GPUs.

`python3 -m proxy models NAME`: all of one. `--gpu-gb 24`, or `24,24`: for GPUs of that size, as if
they were here. Exit codes: 0, 2 an argument, a variable or the file of presets is wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from typing import NoReturn

from proxy.errors import SettingsError
from proxy.installation import COMMAND
from proxy.machine.hardware import VISIBLE, Gpu, Hardware, detect
from proxy.models.fit import fit
from proxy.models.preset_choice import presets_of
from proxy.settings import Settings
from proxy.settings.environment import did_you_mean
from proxy.settings.preset import Preset

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
        lines = table(presets.values(), hardware)
    elif given.name in presets:
        lines = description(presets[given.name], hardware)
    else:
        hint = did_you_mean(given.name, presets)
        raise SettingsError(f"{given.name!r} is no preset; allowed are {', '.join(presets)}.{hint}")
    print("\n".join(lines))
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
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
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
