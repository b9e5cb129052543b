"""What a reload finds in the file: which models are new, gone and changed, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.engine.phase import Phase
from proxy.machine.hardware import Gpu, Hardware
from tests.patience import PATIENCE
from tests.proxy.house import House, house
from tests.proxy.telemetry.records import finished

ONE = {"repository": "org/one"}
TWO = {"repository": "org/two", "served_names": ["two", "zwei"], "engine": {"MAX_MODEL_LEN": 1024}}


def write(file: Path, **presets: dict[str, Any]) -> None:
    lines = []
    for name, preset in presets.items():
        plain = {key: value for key, value in preset.items() if key != "engine"}
        lines += [f"[{name}]", *(f"{key} = {json.dumps(plain[key])}" for key in plain)]
        lines += [f"engine.{key} = {value}" for key, value in preset.get("engine", {}).items()]
    file.write_text("\n".join(lines))


@asynccontextmanager
async def loaded(folder: Path, **environ: str) -> AsyncIterator[tuple[House, Path]]:
    """A sidecar with `one` and `two`, both loaded, and its file."""
    file = folder / "models.toml"
    write(file, one=ONE, two=TWO)
    given = {"MODEL_NAME": "*", "MODELS_FILE": str(file), "API_KEYS": "alice:sk-alice"}
    given |= {"ADMIN_KEYS": "ops:sk-ops", "DRAIN_SECONDS": "3600"}
    async with house(**{**given, **environ}) as there:
        for model in there.sidecar.models:
            for phase in (Phase.LOADING, Phase.WARMING, Phase.READY):
                model.state.enter(phase)
        yield there, file


def two_gpus() -> Hardware:
    return Hardware((Gpu("A", 1, 0), Gpu("A", 1, 1)))


async def reload(there: House) -> Any:
    answer = await there.http.post("/models/reload", headers={"x-api-key": "sk-ops"})
    return answer.json() if answer.status_code == 202 else answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        ({"repository": "org/other"}, True),
        ({"served_names": ["two"]}, True),
        ({"engine": {"MAX_MODEL_LEN": 2048}}, True),
        ({"sleep": "level1"}, True),
        ({"keys": ["alice"]}, False),
        ({"max_in_flight": 3}, False),
        ({"pin": True}, False),
        ({"idle_unload_seconds": 60}, False),
        ({"gpu_memory_gb": 60}, False),
    ],
)
async def test_an_engine_ends_only_for_what_it_is_made_of(
    tmp_path: Path, change: dict[str, Any], ends: bool
) -> None:
    async with loaded(tmp_path) as (there, file):
        one, two = there.sidecar.models
        write(file, one=ONE, two={**TWO, **change})
        answer = await reload(there)
        assert (answer["changed"], answer["unchanged"]) == (["two"], ["one"])
        assert (one.is_leaving, two.is_leaving) == (False, ends)
        assert (await reload(there))["unchanged"] == ["one", "two"]
        if "keys" in change:
            assert not two.may_be_used_by("bob")
        assert two.view.pinned is ("pin" in change)
        assert two.view.idle_unload_seconds == change.get("idle_unload_seconds", 0)


async def test_what_no_one_could_notice_is_no_change(tmp_path: Path) -> None:
    async with loaded(tmp_path, MAX_MODEL_LEN="512") as (there, file):
        write(file, one={**ONE, "sources": ["https://example.com"]}, two={**TWO, "engine": {}})
        assert await reload(there) == {
            "added": [],
            "removed": [],
            "changed": [],
            "unchanged": ["one", "two"],
        }


async def test_a_new_model_has_a_port_of_its_own_and_the_others_keep_theirs(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (there, file):
        models = there.sidecar.models
        ports = {each.name: each.settings.upstream_port for each in models}
        write(file, three={"repository": "org/three"}, two=TWO)
        assert (await reload(there))["added"] == ["three"]
        three, two = models
        assert models.default is three
        assert two.settings.upstream_port == ports["two"]
        assert three.settings.upstream_port not in ports.values()  # the one that goes is there yet
        assert three.view.state == "unloaded"


async def test_a_model_that_still_ends_is_not_added_again(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (there, file):
        _, two = there.sidecar.models
        await two.admission.enter()
        write(file, one=ONE)
        assert (await reload(there))["removed"] == ["two"]
        write(file, one=ONE, two=TWO)
        assert "two was removed a moment ago" in await reload(there)
        assert [each.name for each in there.sidecar.models] == ["one"]


async def test_what_is_left_out_of_a_list_of_names_is_refused(tmp_path: Path) -> None:
    async with loaded(tmp_path, MODEL_NAME="two,one") as (there, file):
        write(file, two=TWO)
        assert "MODEL_NAME has one, a preset that is not there any more" in await reload(there)
        write(file, two=TWO, one=ONE, three={"repository": "org/three"})
        assert (await reload(there))["unchanged"] == ["two", "one"]


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"MODEL_NAME": "demo"}, "MODELS_FILE is not set"),
        ({"UPSTREAM_URL": "http://127.0.0.1:9"}, "UPSTREAM_URL"),
    ],
)
async def test_where_no_file_says_which_models_there_are_it_is_refused(
    environ: dict[str, str], says: str
) -> None:
    async with house(**environ, ADMIN_KEYS="ops:sk-ops") as there:
        assert says in await reload(there)
        there.lifecycle.announce_stop()
        assert "shut" in await reload(there)


async def test_a_model_that_is_not_loaded_is_renewed_at_once(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (there, file):
        _, two = there.sidecar.models
        for phase in (Phase.DRAINING, Phase.STOPPED):
            two.state.enter(phase)
        two.state.update(model_path="/model")
        two.hardware = two_gpus
        before = two.view.gpus
        engine = {"MAX_MODEL_LEN": 2048, "TENSOR_PARALLEL_SIZE": 2}
        write(file, one=ONE, two={**TWO, "engine": engine})
        await reload(there)
        async with asyncio.timeout(PATIENCE):
            while two.is_leaving:  # noqa: ASYNC110 (another task's state)
                await asyncio.sleep(0)
        assert two.settings.max_model_len == "2048"
        two.hardware = two_gpus
        assert (before, two.view.gpus) == ((0,), (0, 1))
        assert not two.is_here
        assert two.wants_files


async def test_the_series_of_a_name_that_is_dropped_end_with_the_engine_that_had_it(
    tmp_path: Path,
) -> None:
    def count(name: str) -> float | None:
        return there.metric("sidecar_requests_total", route="chat", model=name, outcome="ok")

    async with loaded(tmp_path) as (there, file):
        _, two = there.sidecar.models
        write(file, one=ONE, two={**TWO, "served_names": ["two", "deux"]})
        await reload(there)
        there.sidecar.service.metrics.requests.ended(finished(model="zwei"))
        assert (count("zwei"), count("deux")) == (1, 0), "it had begun before"
        for phase in (Phase.DRAINING, Phase.STOPPED):
            two.state.enter(phase)
        async with asyncio.timeout(PATIENCE):
            while two.is_leaving:  # noqa: ASYNC110 (another task's state)
                await asyncio.sleep(0)
        assert (count("zwei"), count("deux"), count("two")) == (None, 0, 0)


async def test_the_series_of_a_name_that_the_engine_has_no_more_end() -> None:
    async with house() as there:
        for names in (("demo", "old"), ("demo", "new"), ()):
            there.state.update(served_names=names)
        counts = [
            there.metric("sidecar_requests_total", route="chat", model=name, outcome="ok")
            for name in ("demo", "new", "old")
        ]
        assert counts == [0, 0, None], "of an engine that does not say its names they stay"
