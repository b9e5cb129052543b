"""Every check of the preflight, one after the other, without starting anything.

The same functions that a start calls; what would end a start is a row that fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from proxy.engine.server import ModelsUnknown
from proxy.errors import Cause, EngineFailure, SettingsError
from proxy.machine.checks import check_disk, check_executable, check_port
from proxy.machine.hardware import VISIBLE, Hardware, detect, engine_version
from proxy.models.demo import DEMO_MODEL_NAME, is_complete
from proxy.models.events import Plan
from proxy.models.fetch import data_directory, describe, look_up, model_cache, served_names
from proxy.models.hub_cache import write_problem
from proxy.models.kind import ModelKind, check_local_model, kind_of, repository_of
from proxy.preflight.finding import Finding, Result
from proxy.settings import Settings
from proxy.vllm.architectures import check_architecture
from proxy.vllm.command import DEFAULT_GPU_MODEL, engine_command, warnings_about
from proxy.vllm.description import Description, describe_folder
from proxy.vllm.flags import gpus_taken, is_changed, value_of
from proxy.vllm.memory import check_memory
from proxy.vllm.probe import Probe

_GB = 1e9
_WARNING = "warning: "


def model_name(settings: Settings, hardware: Hardware) -> str:
    """The model that MODEL_NAME means, or what is served without one. Raises EngineFailure."""
    if settings.model_name:
        return repository_of(settings.model_name, settings.model_revision)
    return DEFAULT_GPU_MODEL if hardware.has_gpu else DEMO_MODEL_NAME


def check_arguments(settings: Settings, name: str, hardware: Hardware) -> None:
    """Raises SettingsError where the engine's command cannot be made."""
    names = served_names(settings, name)
    engine_command(settings, model_path=name, served_names=names, has_gpu=hardware.has_gpu)


def check_gpus(settings: Settings, hardware: Hardware) -> None:
    """Raises SettingsError where a preset asks for a GPU that is not here, or for too few."""
    count = len(hardware.gpus)
    for each in settings.models:
        if not each.gpus:
            continue
        place = f"preset {each.short_name}: gpus"
        if (missing := [gpu for gpu in each.gpus if gpu >= count]) or not count:
            allowed = f"0 to {count - 1}" if count else "none, for there is no GPU"
            number = (missing or each.gpus)[0]
            raise SettingsError(f"{place}: there is no GPU {number} here; allowed are {allowed}")
        taken = gpus_taken(each)
        if taken is not None and len(each.gpus) < taken:
            raise SettingsError(
                f"{place}: {len(each.gpus)} are fewer than the {taken} that its engine takes, as "
                "TENSOR_PARALLEL_SIZE and its like say; allowed are as many"
            )


def hardware_of(settings: Settings, hardware: Hardware) -> Hardware:
    """The machine as the model's engine sees it."""
    gpus = tuple(hardware.gpus[each] for each in settings.gpus if each < len(hardware.gpus))
    return replace(hardware, gpus=gpus) if settings.gpus else hardware


def devices_of(settings: Settings, hardware: Hardware) -> tuple[int, ...]:
    """NVML indices of the GPUs that the model's engine takes.

    Raises:
        SettingsError: VLLM_EXTRA_ARGS cannot be read.
    """
    gpus = hardware_of(settings, hardware).gpus[: gpus_taken(settings)]
    return tuple(gpu.index for gpu in gpus)


def inspect(model: Description, settings: Settings, hardware: Hardware) -> list[Finding]:
    """What can be judged of a model before its weights are here.

    Raises:
        EngineFailure: vLLM certainly cannot run it.
    """
    findings = (check_architecture(model, settings), check_memory(model, settings, hardware))
    return [finding for finding in findings if finding is not None]


async def check_up(settings: Settings) -> list[Finding]:
    """All rows, in the order in which a start would come upon them.

    Raises:
        SettingsError: a variable holds what its flag cannot take.
    """
    if settings.upstream_url is not None:
        rows = _environment(settings)
        for each in settings.models:
            attached = await _attached(each, each.upstream_url or "")
            rows.append(_named(attached, each) if settings.others else attached)
        return rows
    hardware = await asyncio.to_thread(detect, settings.environ.get(VISIBLE))
    check_gpus(settings, hardware)
    rows = _environment(settings)
    with _failure_as_row(rows, "engine"):
        path, version = check_executable("vllm"), engine_version()
        text = f"vLLM {version} at {path}." if version else f"{path}."
        rows.append(Finding("engine", Result.OK, text))
    rows.append(hardware_finding(settings, hardware))
    _check_port(rows, settings)
    free = None
    with _failure_as_row(rows, "disk"):
        cache = model_cache(settings)
        free = check_disk(cache)
        text = f"{free / _GB:.1f} GB are free for the cache at {cache}."
        rows.append(Finding("disk", Result.OK, text))
    needed: dict[str, int] = {}
    await _check_model(rows, settings, hardware, needed)
    for each in settings.others:
        own: list[Finding] = []
        seen = hardware_finding(each, hardware_of(each, hardware))
        if seen.result is not Result.OK and not hardware.trouble:  # which has its row above
            own.append(seen)
        _check_port(own, each)
        await _check_model(own, each, hardware, needed)
        rows += [_named(row, each) for row in own]
    if settings.others and free is not None and (finding := _too_much(needed, free)) is not None:
        rows.append(finding)
    return rows


async def check_disk_for_all(models: Sequence[Settings]) -> Finding | None:
    """What is wrong where the files of all do not fit on the disk. Fetches none, but asks the hub:
    what cannot be looked up is not counted."""
    needed: dict[str, int] = {}
    with suppress(EngineFailure):  # each model tells of its own
        free = await asyncio.to_thread(check_disk, model_cache(models[0]))
        for each in models:
            with suppress(EngineFailure):
                name = model_name(each, Hardware())
                _, _, needed[_files_of(each, name)] = await _look_at(each, name)
        return _too_much(needed, free)
    return None


def _files_of(settings: Settings, name: str) -> str:
    """Models with the same files have them once."""
    return f"{name} at {settings.model_revision}"


def _too_much(needed: Mapping[str, int], free: int) -> Finding | None:
    total = sum(needed.values())
    if total <= free:
        return None
    text = f"The files of all models need {total / _GB:.1f} GB, and {free / _GB:.1f} are free."
    remedy = "Free some space, name fewer models, or set HF_HOME to a larger volume."
    return Finding("disk for all", Result.FAIL, text, remedy)


def _check_port(rows: list[Finding], settings: Settings) -> None:
    if settings.sleeps:  # its engine listens on a Unix socket
        return
    with _failure_as_row(rows, "engine port"):
        check_port(settings.upstream_port)
        text = f"{settings.upstream_port} on 127.0.0.1 is free."
        rows.append(Finding("engine port", Result.OK, text))


async def _check_model(
    rows: list[Finding], settings: Settings, hardware: Hardware, needed: dict[str, int]
) -> None:
    """Where it comes from, and what can be said of it. `needed` gets the bytes that are to be
    fetched.

    Raises:
        SettingsError: a variable holds what its flag cannot take.
    """
    hardware = hardware_of(settings, hardware)
    with _failure_as_row(rows, "model"):
        name = model_name(settings, hardware)
        check_arguments(settings, name, hardware)
        source, model, needed[_files_of(settings, name)] = await _look_at(settings, name)
        rows.append(source)
        with _failure_as_row(rows, "architecture"):
            rows += inspect(model, settings, hardware)


def _named(row: Finding, settings: Settings) -> Finding:
    """A row of one of several models."""
    return replace(row, check=f"{row.check} ({settings.short_name})")


def _environment(settings: Settings) -> list[Finding]:
    warnings = [Finding("environment", Result.WARN, text) for text in warnings_about(settings)]
    return warnings or [Finding("environment", Result.OK, "No variable looks misspelt.")]


@contextmanager
def _failure_as_row(rows: list[Finding], check: str) -> Iterator[None]:
    """What would end a start is a row that fails, and the next check follows."""
    try:
        yield
    except EngineFailure as failure:
        rows.append(Finding.of(check, failure))


def hardware_finding(settings: Settings, hardware: Hardware) -> Finding:
    """Are there as many GPUs as are asked for. Raises SettingsError, see `gpus_taken`."""
    if hardware.trouble:
        remedy = "See what nvidia-smi says, here and on the host: the container or the machine"
        text = f"{hardware.sentence()}."
        return Finding("hardware", Result.WARN, text, f"{remedy} may have to be started anew.")
    count, asked = len(hardware.gpus), gpus_taken(settings) or settings.tensor_parallel_size
    # An engine over several machines has GPUs that are not seen from here.
    backend = value_of(settings, "distributed-executor-backend")
    has_more_machines = backend == "ray" or is_changed(settings, "nnodes", "1")
    if 0 < count < asked and not has_more_machines:
        text = f"{hardware.sentence()}, and the engine would take {asked}."
        remedy = (
            f"Set TENSOR_PARALLEL_SIZE={count} or less (what is set by PIPELINE_PARALLEL_SIZE and "
            "DATA_PARALLEL_SIZE multiplies it), or NNODES if other machines have more."
        )
        return Finding("hardware", Result.WARN, text, remedy)
    return Finding("hardware", Result.OK, f"{hardware.sentence()}.")


async def _look_at(settings: Settings, name: str) -> tuple[Finding, Description, int]:
    """The last one is the bytes to fetch. Raises EngineFailure where the model cannot be had.

    What asks a volume is a thread's: a server looks for its next models while it serves.
    """
    match await asyncio.to_thread(kind_of, name):
        case ModelKind.DEMO:
            await asyncio.to_thread(_check_demo, data_directory(settings) / name)
            text = f"{name}: made on the spot, with random weights."
            return Finding("model", Result.OK, text), Description(name), 0
        case ModelKind.LOCAL:
            path = await asyncio.to_thread(check_local_model, name, settings)
            model = await asyncio.to_thread(describe_folder, name, path)
            return Finding("model", Result.OK, f"The folder {path} is served as it is."), model, 0
        case ModelKind.OTHER:
            text = f"{name} is fetched by vLLM itself; it is not checked here."
            return Finding("model", Result.WARN, text), Description(name), 0
        case ModelKind.HUB:
            lines: list[str] = []
            offer = await look_up(settings, name, lines.append)
            where = f"{name} at {offer.revision[:12]}"
            to_fetch = 0
            if isinstance(offer, Plan):
                to_fetch, total = offer.bytes_to_fetch, offer.bytes_total / _GB
                what = f"{to_fetch / _GB:.1f} of {total:.1f} GB are to be fetched"
                if not to_fetch:
                    what = f"all {total:.1f} GB are in the cache"
                source = Finding("model", Result.OK, f"{where} may be read; {what}.")
            else:
                text, result = f"{where} is complete in the cache.", Result.OK
                warning = next((line for line in lines if line.startswith(_WARNING)), None)
                if warning is not None:
                    reason = warning.removeprefix(_WARNING).partition("; serving ")[0]
                    text, result = f"{text} But {reason}.", Result.WARN
                source = Finding("model", result, text)
            return source, await describe(name, offer), to_fetch


def _check_demo(folder: Path) -> None:
    """Raises EngineFailure where it is not there, and could not be made."""
    if not is_complete(folder) and (problem := write_problem(folder)):
        text = f"The demo model cannot be made: {folder} cannot be written: {problem}."
        remedy = "Set HF_HOME to a folder that this user can write to."
        raise EngineFailure(Cause.CACHE_NOT_WRITABLE, text, remedy=remedy, permanent=True)


async def _attached(settings: Settings, url: str) -> Finding:
    """An engine that someone else runs."""
    probe = Probe(url.rstrip("/"))
    try:
        if not await probe.healthy():
            text = f"{url} does not answer its health check."
            return Finding("engine", Result.FAIL, text, "Start it, or correct UPSTREAM_URL.")
        models = await probe.served_models()
    except ModelsUnknown as failure:
        # With a name a start may work all the same, but not without the key that is asked for.
        is_fatal = failure.status in (401, 403) or not settings.served_model_names
        text = f"{url} is healthy, but does not list its models: {failure}."
        result = Result.FAIL if is_fatal else Result.WARN
        return Finding("engine", result, text, failure.remedy)
    finally:
        await probe.close()
    names = ", ".join(settings.served_model_names or models)
    return Finding("engine", Result.OK, f"{url} is healthy and serves {names}.")
