"""`POST /models/reload`: the file of presets, read again while requests run."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.engine.service import Service, command_line
from tests.fake_engine import x_fake
from tests.patience import PATIENCE, on_a_clock
from tests.wire.service import until
from tests.wire.several import CHAT, MESSAGES, chat, client_of, engines_of, release, several

Presets = dict[str, dict[str, Any]]


def toml_of(presets: Presets) -> str:
    """Values of JSON are values of TOML, but for tables."""
    lines = []
    for name, preset in presets.items():
        engine = preset.get("engine", {})
        lines += [f"[{name}]"]
        lines += [f"{key} = {json.dumps(preset[key])}" for key in preset if key != "engine"]
        lines += [f"[{name}.engine]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in engine.items()]
    return "\n".join(lines)


class Reloaded:
    """A sidecar whose models a file says, and the file."""

    def __init__(self, service: Service, file: Path, presets: Presets) -> None:
        self.service = service
        self.file = file
        self.presets = presets

    def reload(self, **presets: dict[str, Any] | None) -> httpx.Response:
        """With these presets written over those of the file; None takes one out."""
        changed = {**self.presets, **presets}
        self.presets = {name: preset for name, preset in changed.items() if preset is not None}
        self.file.write_text(toml_of(self.presets))
        return self.order()

    def order(self) -> httpx.Response:
        return self.service.client.post("/models/reload", timeout=PATIENCE)

    def rows(self) -> dict[str, Any]:
        rows = self.service.client.get("/models").json()["models"]
        return {row["name"]: row for row in rows}

    def are_ready(self, *names: str) -> None:
        def statuses() -> list[str]:
            rows = self.rows()
            return [rows[name]["status"] for name in names]

        until(lambda: statuses() == ["ready"] * len(names), f"{names} are ready")

    def listed(self) -> list[str]:
        with openai.OpenAI(base_url=f"{self.service.url}/v1", api_key="-") as client:
            return [each.id for each in client.models.list()]

    def arguments(self, name: str) -> str:
        return command_line(engines_of(self.service)[name])


@contextmanager
def reloaded(folder: Path, **environ: str) -> Iterator[Reloaded]:
    """`one`, served as `uno` too, and `two`."""
    file, repository = folder / "models.toml", str(folder / "model")
    presets: Presets = {
        "one": {"repository": repository, "served_names": ["one", "uno"]},
        "two": {"repository": repository, "served_names": ["two"]},
    }
    file.write_text(toml_of(presets))
    given = {"MODEL_NAME": "*", "MODELS_INLINE": "", "MODELS_FILE": str(file), "API_KEYS": ""}
    with several(folder, **{**given, **environ}) as service:
        service.wait_for("ready", PATIENCE)
        yield Reloaded(service, file, presets)


@contextmanager
def a_stream(service: Service, model: str, **fake: Any) -> Iterator[Iterator[str]]:
    """Its lines; the first token is there."""
    body = {"model": model, "messages": MESSAGES, "stream": True}
    with (
        client_of(service) as client,
        client.stream("POST", CHAT, json=body, headers=x_fake(**fake)) as stream,
    ):
        assert stream.status_code == 200
        lines = stream.iter_lines()
        next(lines)
        yield lines


def changes(
    added: str = "", removed: str = "", changed: str = "", unchanged: str = ""
) -> dict[str, list[str]]:
    return {
        "added": added.split(),
        "removed": removed.split(),
        "changed": changed.split(),
        "unchanged": unchanged.split(),
    }


def test_what_stays_is_not_touched_and_what_goes_finishes_its_streams(tmp_path: Path) -> None:
    with reloaded(tmp_path) as there:
        there.are_ready("one", "two")
        service, before = there.service, engines_of(there.service)
        with (
            a_stream(service, "one", hold_at=3) as staying,
            a_stream(service, "two", hold_at=3) as going,
        ):
            three = {**there.presets["two"], "served_names": ["three"]}
            answer = there.reload(two=None, three=three)
            assert answer.status_code == 202
            assert answer.json() == changes("three", "two", unchanged="one")
            assert there.listed() == ["one", "uno", "three"]
            unknown = chat(service, model="two")
            assert (unknown.status_code, unknown.json()["error"]["code"]) == (
                404,
                "model_not_found",
            )
            assert "There is: one, uno, three." in unknown.json()["error"]["message"]
            for name, running in (("two", going), ("one", staying)):
                release(service, name)
                assert "data: [DONE]" in list(running)
        until(lambda: "two" not in engines_of(service), "the end of the engine that is gone")
        assert chat(service, model="three").json()["model"] == "three"
        assert engines_of(service)["one"] == before["one"]
        until(lambda: 'model="two"' not in service.client.get("/metrics").text, "no series of it")
        assert 'sidecar_model_state{model="three"' in service.client.get("/metrics").text
        expected = "models reloaded by this machine: three added; two removed; 1 unchanged"
        until(lambda: messages(service).count(expected) == 1, "the line of the reload")


def messages(service: Service) -> list[str]:
    return [line["message"] for line in service.lines("proxy.pool")]


def test_a_changed_model_is_loaded_anew_with_what_its_preset_says_now(tmp_path: Path) -> None:
    with reloaded(tmp_path) as there:
        there.are_ready("one", "two")
        service, before = there.service, engines_of(there.service)
        two = {**there.presets["two"], "engine": {"MAX_MODEL_LEN": 2048}}
        with a_stream(service, "two", hold_at=3) as running:
            assert there.reload(two=two).json() == changes(changed="two", unchanged="one")
            assert there.rows()["two"]["in_flight"] == 1
            waiting: list[httpx.Response] = []
            late = threading.Thread(target=lambda: waiting.append(chat(service, model="two")))
            late.start()
            release(service, "two")
            assert "data: [DONE]" in list(running)
        late.join(PATIENCE)
        assert waiting[0].json()["model"] == "two"
        after = engines_of(service)
        assert after["one"] == before["one"]
        assert after["two"] != before["two"]
        assert "--max-model-len 2048" in there.arguments("two")
        assert service.client.get("/health").status_code == 200
        assert there.reload().json() == changes(unchanged="one two")


def test_keys_and_places_change_without_another_engine(tmp_path: Path) -> None:
    with reloaded(
        tmp_path, API_KEYS="alice:sk-alice,bob:sk-bob", ADMIN_KEYS="ops:sk-ops-0123456789"
    ) as there:
        service = there.service
        until(lambda: {"one", "two"} <= engines_of(service).keys(), "both engines")
        assert chat(service, model="two").status_code == 200
        before = engines_of(service)
        assert there.order().status_code == 401
        two = {**there.presets["two"], "keys": ["alice"], "max_in_flight": 1, "pin": True}
        there.presets["two"] = two
        there.file.write_text(toml_of(there.presets))
        with client_of(service, "sk-ops-0123456789") as client:
            answer = client.post("/models/reload").json()
            assert answer == changes(changed="two", unchanged="one")
            assert client.get("/models/two").json()["pinned"] is True
        assert chat(service, "sk-bob", model="two").status_code == 404
        assert chat(service, "sk-alice", model="two").status_code == 200
        assert engines_of(service) == before


@pytest.mark.parametrize("changed", ["removed", "changed"])
def test_what_does_not_end_in_time_is_cut(tmp_path: Path, changed: str) -> None:
    with reloaded(tmp_path, DRAIN_SECONDS="0.5") as there:
        there.are_ready("one", "two")
        other = {**there.presets["two"], "engine": {"MAX_MODEL_LEN": 2048}}
        with a_stream(there.service, "two", stall_at=3) as running:
            there.reload(two=None if changed == "removed" else other)
            rest = "".join(running)
        assert "The model was removed or changed before the answer was whole" in rest
        if changed == "changed":
            there.are_ready("two")
            assert chat(there.service, model="two").json()["model"] == "two"


def test_who_waits_for_a_model_that_is_gone_is_told_which_there_are(tmp_path: Path) -> None:
    with reloaded(tmp_path, MAX_LOADED_MODELS="1", SWAP_MAX_WAIT_SECONDS="3600") as there:
        service = there.service
        with a_stream(service, "one", stall_at=3):
            waiting: list[httpx.Response] = []
            thread = threading.Thread(target=lambda: waiting.append(chat(service, model="two")))
            thread.start()
            until(lambda: there.rows()["two"]["waiting"] == 1, "a request that waits")
            assert there.reload(two=None).json() == changes(removed="two", unchanged="one")
            thread.join(PATIENCE)
        error = waiting[0].json()["error"]
        assert (waiting[0].status_code, error["code"]) == (404, "model_not_found")
        assert "There is: one, uno." in error["message"]


def test_the_next_one_is_the_default_where_the_first_is_gone(tmp_path: Path) -> None:
    with reloaded(tmp_path, MAX_LOADED_MODELS="1") as there:
        service = there.service
        assert there.reload(one=None).json() == changes(removed="one", unchanged="two")
        assert service.client.get("/health").status_code == 200
        assert chat(service).json()["model"] == "two"
        assert service.client.get("/health").json()["model"] == "two"


def test_a_file_that_is_wrong_changes_nothing(tmp_path: Path) -> None:
    with reloaded(tmp_path) as there:
        there.are_ready("one", "two")
        service, before = there.service, engines_of(there.service)
        good = there.file.read_text()
        one, two = there.presets["one"], there.presets["two"]
        for text, says in (
            ("[one", "no TOML"),
            ("", "there is none"),
            (toml_of({"one": two, "two": two}), "one and two are both served as two"),
            (toml_of({"one": {**two, "keys": ["bob"]}}), "there are no keys"),
            (toml_of({"two": two, "one": {**one, "gpus": [7]}}), "there is no GPU"),
            (toml_of({"one": {**two, "engine": {"PORT": 1}}}), "engine.PORT is no variable"),
        ):
            there.file.write_text(text)
            answer = there.order()
            message = answer.json()["error"]["message"]
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
            assert message.startswith("Nothing has changed: ")
            assert says in message
            assert "\n" not in message
        assert there.listed() == ["one", "uno", "two"]
        there.file.write_text(good)
        assert there.order().json() == changes(unchanged="one two")
        assert engines_of(service) == before


def test_a_single_model_gets_what_its_preset_says_now(tmp_path: Path) -> None:
    with reloaded(tmp_path, MODEL_NAME="one", HOLD_SECONDS="600") as there:
        service = there.service
        assert chat(service).status_code == 200
        one = {**there.presets["one"], "engine": {"MAX_MODEL_LEN": 2048}}
        assert there.reload(one=one).json() == changes(changed="one")
        assert chat(service).json()["model"] == "one"
        assert "--max-model-len 2048" in there.arguments("one")
        assert there.reload(one=None).status_code == 400
        alone = {**one, "keys": ["bob"]}
        assert "there are no keys" in there.reload(one=alone).json()["error"]["message"]


def test_a_model_that_has_failed_comes_back_when_its_preset_is_mended(tmp_path: Path) -> None:
    with reloaded(tmp_path) as there:
        service, one = there.service, there.presets["one"]
        there.reload(one={**one, "repository": "/nowhere"})
        until(lambda: there.rows()["one"]["status"] == "failed", "a folder that is not there")
        assert service.client.get("/health").status_code == 503
        assert there.reload(one=one).json() == changes(changed="one", unchanged="two")
        there.are_ready("one")
        assert service.client.get("/health").status_code == 200


@on_a_clock("a change comes while an engine starts, which takes seconds")
def test_a_model_that_loads_or_drains_may_change_again(tmp_path: Path) -> None:
    with reloaded(tmp_path, FAKE_ENGINE_PHASE_SECONDS="0.5") as there:
        service, two = there.service, there.presets["two"]

        def change(length: int) -> None:
            engine = {"engine": {"MAX_MODEL_LEN": length}}
            assert there.reload(two={**two, **engine}).json()["changed"] == ["two"]

        loads = ("loading", "compiling", "warming", "ready")
        until(lambda: there.rows()["two"]["phase"] in loads, "its load")
        change(2048)
        assert chat(service, model="two").json()["model"] == "two"
        assert "--max-model-len 2048" in there.arguments("two")
        with a_stream(service, "two", hold_at=3) as running:
            change(512)
            change(1024)
            assert there.order().json() == changes(unchanged="one two")
            release(service, "two")
            assert "data: [DONE]" in list(running)
        assert chat(service, model="two").json()["model"] == "two"
        assert "--max-model-len 1024" in there.arguments("two")


def test_orders_that_come_at_once_are_taken_one_after_the_other(tmp_path: Path) -> None:
    with reloaded(tmp_path) as there:
        there.are_ready("one", "two")
        there.presets["two"] = {**there.presets["two"], "engine": {"MAX_MODEL_LEN": 2048}}
        there.file.write_text(toml_of(there.presets))
        answers: list[dict[str, list[str]]] = []
        orders = [
            threading.Thread(target=lambda: answers.append(there.order().json())) for _ in range(5)
        ]
        for order in orders:
            order.start()
        for order in orders:
            order.join(PATIENCE)
        assert answers.count(changes(changed="two", unchanged="one")) == 1
        assert answers.count(changes(unchanged="one two")) == 4
        assert chat(there.service, model="two").json()["model"] == "two"
        assert "--max-model-len 2048" in there.arguments("two")


def test_a_model_comes_to_sleep_and_stops_to_by_a_reload_also_while_it_sleeps(
    tmp_path: Path,
) -> None:
    with reloaded(tmp_path) as there:
        there.are_ready("one", "two")
        own = there.presets["two"]
        sleepy = {**own, "sleep": "level1", "idle_unload_seconds": 1}
        assert there.reload(two=sleepy).json()["changed"] == ["two"]
        until(lambda: there.rows()["two"]["status"] == "asleep", "its sleep")
        words = there.arguments("two").split()
        socket = Path(words[words.index("--uds") + 1])
        assert chat(there.service, model="two").json()["model"] == "two"
        until(lambda: there.rows()["two"]["status"] == "asleep", "its sleep")
        assert there.reload(two=own).json()["changed"] == ["two"]
        assert chat(there.service, model="two").json()["model"] == "two"
        assert "--uds" not in there.arguments("two")
        until(lambda: not socket.parent.exists(), "no socket is left")
