"""Models that can never be loaded as they are asked to be: one line, before anything is fetched."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest

from proxy.errors import Cause, EngineFailure, SettingsError
from proxy.machine.hardware import Gpu, Hardware
from proxy.models.events import Plan
from proxy.models.preset_choice import load_settings
from proxy.preflight import checkup
from proxy.preflight.finding import Result
from proxy.preflight.sizing import Sizing
from proxy.preflight.together import check_together, memory_rows
from proxy.settings import Settings
from proxy.vllm.description import Description
from tests.patience import PATIENCE

GIB = 1024**3
TWO_GPUS = Hardware((Gpu("NVIDIA A40", 48 * GIB), Gpu("NVIDIA A40", 48 * GIB, 1)), "580.95")


def load(home: Path, pins: str = "", gpus: str = "", **environ: str) -> Settings:
    """Models a, b and c; those in `pins` are pinned, those in `gpus` have GPU 1 for themselves."""
    presets = {
        name: {"repository": f"org/{name}", "pin": name in pins, "gpus": [int(name in gpus)]}
        for name in "abc"
    }
    given = {"MODEL_NAME": "a,b,c", "MODELS_INLINE": json.dumps(presets), "HF_HOME": f"{home}/hf"}
    return load_settings({**given, **environ})


def measure(settings: Settings, gib: int) -> None:
    each = Hardware(TWO_GPUS.gpus[:1], "580.95")
    Sizing(settings, settings.model_name or "", each).keep(gib * GIB, 0)


def test_what_is_not_known_is_not_refused(tmp_path: Path) -> None:
    check_together(load(tmp_path, pins="b"), TWO_GPUS)
    check_together(load_settings({"HF_HOME": f"{tmp_path}/hf"}), TWO_GPUS)


def test_pins_that_take_more_than_their_gpu_has_are_refused(tmp_path: Path) -> None:
    check_together(load(tmp_path, pins="b", GPU_MEMORY_UTIL="0.5"), TWO_GPUS)
    wrong = load(tmp_path, pins="bc", GPU_MEMORY_UTIL="0.4")
    with pytest.raises(SettingsError) as refused:
        check_together(wrong, TWO_GPUS)
    assert str(refused.value) == (
        "pin: a and b and c take 57.6 GiB of GPU 0; allowed are 48.0; pin fewer, or lower their"
        " GPU_MEMORY_UTIL"
    )
    check_together(load(tmp_path, pins="bc", gpus="c", GPU_MEMORY_UTIL="0.4"), TWO_GPUS)


def test_a_budget_that_does_not_hold_the_first_model_is_refused(tmp_path: Path) -> None:
    settings = load(tmp_path, MEMORY_BUDGET_GIB="8")
    check_together(settings, TWO_GPUS)
    measure(settings, 12)
    with pytest.raises(SettingsError, match=r"MEMORY_BUDGET_GIB=8: a takes 12.0 GiB of GPU 0; all"):
        check_together(settings, TWO_GPUS)
    declared = load(tmp_path, MEMORY_BUDGET_GIB="8", GPU_MEMORY_UTIL="0.5")
    with pytest.raises(SettingsError, match=r"a takes 24.0 GiB of GPU 0; allowed are 8.0; raise"):
        check_together(declared, TWO_GPUS)


def test_more_pins_than_places_are_refused(tmp_path: Path) -> None:
    load(tmp_path, pins="ab", MAX_LOADED_MODELS="2")
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, pins="b", MAX_LOADED_MODELS="1")
    assert str(refused.value).startswith("MAX_LOADED_MODELS=1: a, b are to be loaded at a")


def test_check_has_a_row_for_each_model(tmp_path: Path) -> None:
    settings = load(tmp_path)
    measure(settings, 12)
    texts = [row.text for row in memory_rows(settings, TWO_GPUS)]
    assert texts[0] == "12.0 GiB of each of its devices, as measured."
    assert texts[1:] == ["It was never measured, and starts alone on its GPUs."] * 2
    settings = load(tmp_path, MAX_LOADED_MODELS="2")
    texts = [row.text for row in memory_rows(settings, TWO_GPUS)]
    assert texts[1] == "22.8 GiB of each of its devices, as declared; it was never measured."


async def test_the_disk_is_checked_for_the_files_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_up(*_: object) -> Plan:
        return Plan(2, 7 * 10**9, 6 * 10**9, 0, "0123456789abcdef")

    monkeypatch.setattr(checkup, "look_up", look_up)
    monkeypatch.setattr(checkup, "check_executable", lambda _: "/vllm")
    monkeypatch.setattr(checkup, "check_disk", lambda _: 10 * 10**9)
    environ = {"MODEL_NAME": "org/a,b", "HF_HOME": f"{tmp_path}/hf", "UPSTREAM_PORT": "18490"}
    environ["MODELS_INLINE"] = json.dumps({"b": {"repository": "org/b"}})
    rows = {row.check: row for row in await checkup.check_up(load_settings(environ))}
    # Each by its own name: a preset's is not that of its repository.
    assert rows["model (b)"].result is Result.OK
    assert rows["disk for all"].result is Result.FAIL
    text = "The files of all models need 12.0 GB, and 10.0 are free."
    assert rows["disk for all"].text == text
    models = load_settings(environ).models
    finding = await checkup.check_disk_for_all(models)
    assert finding is not None
    assert finding.sentence.startswith(text)
    monkeypatch.setattr(checkup, "check_disk", lambda _: 12 * 10**9)
    assert await checkup.check_disk_for_all(models) is None
    monkeypatch.setattr(checkup, "check_disk", lambda _: 10 * 10**9)
    del environ["MODEL_NAME"]
    alone = await checkup.check_up(load_settings({**environ, "MODEL_NAME": "org/a"}))
    assert "disk for all" not in {row.check for row in alone}


@pytest.mark.parametrize("trouble", ["", "NVML: driver not loaded"])
async def test_each_model_is_told_of_gpus_that_it_lacks_and_the_machines_trouble_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    here = Hardware(() if trouble else TWO_GPUS.gpus[:1], "580.95", trouble=trouble)
    monkeypatch.setattr(checkup, "detect", lambda _: here)
    big = {"repository": str(tmp_path), "engine": {"TENSOR_PARALLEL_SIZE": 4}}
    environ = {"MODEL_NAME": "demo,big,demo-text", "MODELS_INLINE": json.dumps({"big": big})}
    found = await checkup.check_up(load_settings({**environ, "HF_HOME": f"{tmp_path}/hf"}))
    rows = {row.check: row for row in found if row.check.startswith("hardware")}
    if trouble:
        assert list(rows) == ["hardware"]
    else:
        assert list(rows) == ["hardware", "hardware (big)"]
        assert rows["hardware"].result is Result.OK
        assert rows["hardware (big)"].result is Result.WARN
        assert rows["hardware (big)"].text.endswith("and the engine would take 4.")


async def test_a_folder_that_does_not_answer_holds_up_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server looks at the disk for all models while it serves the first."""
    loop, asked, answered = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def look(name: str, _: object) -> Description:
        loop.call_soon_threadsafe(asked.set)
        assert answered.wait(PATIENCE), "everything else stood still"
        return Description(name)

    monkeypatch.setattr(checkup, "describe_folder", look)
    (tmp_path / "config.json").write_text("{}")
    looking = asyncio.ensure_future(
        checkup.check_disk_for_all([Settings.load({"MODEL_NAME": str(tmp_path)})])
    )
    await asked.wait()
    answered.set()
    assert await looking is None


async def test_models_with_the_same_files_need_them_once_and_what_is_unknown_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_up(settings: Settings, repository: str, *_: object) -> Plan:
        if repository == "org/gone":
            raise EngineFailure(Cause.MODEL_NOT_FOUND, "gone", permanent=True)
        return Plan(2, 7 * 10**9, 6 * 10**9, 0, "0123456789abcdef")

    monkeypatch.setattr(checkup, "look_up", look_up)
    monkeypatch.setattr(checkup, "check_disk", lambda _: 10 * 10**9)
    presets = {
        "long": {"repository": "org/a", "served_names": ["l"]},
        "short": {"repository": "org/a", "served_names": ["s"]},
        "other": {"repository": "org/a", "served_names": ["o"], "revision": "v2"},
    }
    environ = {"MODELS_INLINE": json.dumps(presets), "HF_HOME": f"{tmp_path}/hf"}
    for names, fits in (("long,short,org/gone", True), ("long,other", False)):
        finding = await checkup.check_disk_for_all(
            load_settings({**environ, "MODEL_NAME": names}).models
        )
        assert (finding is None) == fits, names
