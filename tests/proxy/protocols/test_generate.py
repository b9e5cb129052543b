"""The names that `/generate` hands on are names that both of the engine's routes know."""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from proxy.edge.routes import Route
from proxy.protocols.generate import SAMPLING, Generate
from proxy.protocols.protocol import Done, Error, Event, Finish, Text, Usage

ROOT = Path(__file__).resolve().parents[3]
REQUESTS = {
    "completion": "CompletionRequest",
    "chat_completion": "ChatCompletionRequest",
}


def fields(package: str, name: str) -> set[str]:
    """The fields of a request of the installed vLLM; its source is read, not run."""
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).parent / "entrypoints" / "openai" / package / "protocol.py"
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


def test_the_document_names_them_all() -> None:
    page = (ROOT / "docs" / "protocols.md").read_text()
    (row,) = re.findall(r"^\| sampling parameters \| (.*) \|$", page, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == SAMPLING


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
    assert (ask.route, ask.body) == (
        Route.CHAT,
        {"messages": [{"role": "user", "content": "a"}]},
    )


def test_a_stream_that_breaks_off_says_no_more_than_it_knows() -> None:
    ask = Generate().request_in("/generate_stream", {"prompt": "a"})
    said = Generate().events_out(ask, [Text(0, "b"), Error(None, "gone", "engine_died"), Done()])
    assert said == (
        b'data: {"text":"b","index":0}\n\n'
        b'data: {"error":"gone","code":"engine_died","field":null}\n\n'
        b"data: [DONE]\n\n"
    )
