"""The names that `/generate` hands on are names that both of the engine's routes know."""

from __future__ import annotations

import ast
import gc
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.access.routes import Route
from proxy.engine.phase import Phase
from proxy.errors import InvalidRequest
from proxy.protocols import generate as generate_module
from proxy.protocols.generate import SAMPLING, Generate
from proxy.protocols.openai import events_of_answer, events_of_stream
from proxy.protocols.protocol import Ask, Done, Error, Event, Finish, Text, Usage
from proxy.relay.translation import Translation
from tests.fuzz.making import repeatable
from tests.proxy.house import house
from tests.tools import installed

ROOT = Path(__file__).resolve().parents[3]
REQUESTS = {"completion": "CompletionRequest", "chat_completion": "ChatCompletionRequest"}


def fields(package: str, name: str) -> set[str]:
    """The fields of a request of the installed vLLM; its source is read, not run."""
    file = installed("vllm") / "entrypoints" / "openai" / package / "protocol.py"
    (found,) = [
        node
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == name
    ]
    return {
        node.target.id
        for node in found.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


@pytest.mark.parametrize("package", REQUESTS)
def test_vllm_takes_every_sampling_parameter_on_both_routes(package: str) -> None:
    assert fields(package, REQUESTS[package]) >= SAMPLING


def test_a_name_of_megabytes_is_not_compared_with_those_that_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That would take seconds, in which no stream goes on."""
    compared: list[str] = []

    def close_matches(word: str, *_: object, **__: object) -> list[str]:
        compared.append(word)
        return []

    monkeypatch.setattr(generate_module, "get_close_matches", close_matches)
    with pytest.raises(InvalidRequest, match="is not known"):
        Generate().request_in("/generate", {"prompt": "x", "x" * 10_000_000: 1})
    assert [len(word) for word in compared] == [100]


def test_the_document_names_them_all() -> None:
    page = (ROOT / "docs" / "protocols.md").read_text()
    (row,) = re.findall(r"^\| sampling parameters \| (.*) \|$", page, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == SAMPLING


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
_NAMES = st.sampled_from(
    ["prompt", "prompts", "system_info", "history_input", "history_output", "n", "stream", "x"]
)


def asked(path: str, body: dict[str, Any]) -> Ask | InvalidRequest:
    try:
        return Generate().request_in(path, body)
    except InvalidRequest as refused:
        return refused


@repeatable
@given(st.sampled_from(Generate.paths), st.dictionaries(_NAMES, _JSON))
def test_any_object_is_asked_or_refused_by_the_name_of_a_field(
    path: str, body: dict[str, Any]
) -> None:
    said = asked(path, body)
    if isinstance(said, InvalidRequest):
        assert said.param in {*body, "prompt", "prompts", "history_output"}
        assert said.message.startswith(f"{said.param}: ")
        return
    assert isinstance(said.body.get("prompt", said.body.get("messages")), str | list)
    assert said.streams is (path == "/generate_stream")


@repeatable
@given(st.binary(max_size=60) | _JSON.map(msgspec.json.encode), st.sampled_from([200, 400, 503]))
def test_any_answer_is_read_or_said_to_be_unreadable(body: bytes, status: int) -> None:
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        events = events_of_answer(status, body)
        assert isinstance(events[0] if status >= 400 else events[-1], Error | Done)
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        events_of_stream(body)


async def test_a_request_leaves_no_circle_for_the_garbage_collector() -> None:
    async with house(Phase.READY) as there:
        gc.collect()
        gc.disable()
        try:
            answer = await there.http.post("/generate", json={"prompt": "a"})
            assert (answer.status_code, answer.json()["code"]) == (503, "engine_unreachable")
            left = [one for one in gc.get_objects() if isinstance(one, Translation)]
            assert left == []
        finally:
            gc.enable()


def test_an_answer_without_a_word_is_told_as_one() -> None:
    ask = Generate().request_in("/generate", {"prompt": ""})
    assert ask.route is Route.COMPLETIONS
    events: list[Event] = [Finish(0, "stop"), Usage(1, 0), Done()]
    assert Generate().events_out(ask, events) == (
        b'{"text":"","texts":[""],"finish_reasons":["stop"],'
        b'"usage":{"prompt_tokens":1,"completion_tokens":0,"total_tokens":1}}'
    )


def test_empty_histories_make_it_a_chat_all_the_same() -> None:
    ask = Generate().request_in("/generate", {"prompt": "a", "history_input": []})
    assert (ask.route, ask.body) == (Route.CHAT, {"messages": [{"role": "user", "content": "a"}]})


def test_a_stream_that_breaks_off_says_no_more_than_it_knows() -> None:
    ask = Generate().request_in("/generate_stream", {"prompt": "a"})
    said = Generate().events_out(ask, [Text(0, "b"), Error(None, "gone", "engine_died"), Done()])
    assert said == (
        b'data: {"text":"b","index":0}\n\n'
        b'data: {"error":"gone","code":"engine_died","field":null}\n\n'
        b"data: [DONE]\n\n"
    )
