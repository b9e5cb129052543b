"""The example of docs/protocols.md, as a file beside a running sidecar."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.service import PROJECT
from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE
from tests.wire.client import Answer
from tests.wire.service import Sidecar, ending, fields, until

PATH = "/api/generate"
BROKEN = """
from mine.ollama import Ollama


class Broken(Ollama):
    paths = ("/broken",)

    def request_in(self, path, body):
        return super().request_in(path, body | {"prompt": body["prompt"] + "!"})

    def events_out(self, ask, events):
        raise RuntimeError("a fault of theirs")


class Odd(Ollama):
    # Returns what is nothing: `prompt` says where.

    paths = ("/odd",)

    def request_in(self, path, body):
        ask = super().request_in(path, body)
        if body["prompt"] == "no ask":
            return None
        if body["prompt"] == "exit":
            raise SystemExit(0)
        if body["prompt"] == "no route of text":
            ask.route = "embeddings"
        if body["prompt"] == "no JSON":
            ask.body["stop"] = {object()}
        ask.notes["prompt"] = body["prompt"]
        return ask

    def events_out(self, ask, events):
        if ask is None:
            return super().events_out(ask, events)
        if ask.notes["prompt"] == "a text":
            return "a text"
        if ask.notes["prompt"] == "nothing":
            return None
        if ask.notes["prompt"] == "late exit":
            raise SystemExit(0)
        late = any(type(event).__name__ == "Usage" for event in events)
        return ["late"] if late else super().events_out(ask, events)
"""


@pytest.fixture(scope="module")
def sidecar(
    shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    folder = tmp_path_factory.mktemp("protocols")
    (folder / "mine").mkdir()
    (example,) = re.findall(
        r"```python\n(.*?)```", (PROJECT / "docs/protocols.md").read_text(), re.DOTALL
    )
    (folder / "mine" / "ollama.py").write_text(example)
    (folder / "mine" / "broken.py").write_text(BROKEN)
    environ = {
        "PYTHONPATH": str(folder),
        "PROTOCOL_MODULES": "mine",
        "PROTOCOLS": "mine.ollama:Ollama, mine.broken:Broken, mine.broken:Odd",
        "API_KEYS": "alice:sk-alice-0123456789",
    }
    with Sidecar(folder, shared_engine, **environ) as sidecar:
        sidecar.wait_until_ready()
        yield sidecar


@pytest.fixture(autouse=True)
def fresh(sidecar: Sidecar) -> None:
    sidecar.engine.reset()


def ask(sidecar: Sidecar, body: Any, path: str = PATH, **more: Any) -> Answer:
    key = ("authorization", "Bearer sk-alice-0123456789")
    return sidecar.ask(path, body, headers=[key], **more)


def lines(answer: Answer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.body.splitlines()]


def test_the_example_streams(sidecar: Sidecar) -> None:
    body = {"model": "tiny", "prompt": "Why?", "options": {"num_predict": 2}}
    answer = ask(sidecar, body, fake={"text": ["Be", "cause."]})
    assert answer.header("content-type") == "application/x-ndjson"
    *said, last = lines(answer)
    assert "".join(line["response"] for line in (*said, last)) == "Because."
    assert all(set(line.items()) >= {("model", "tiny"), ("done", False)} for line in said)
    assert (last["done"], last["done_reason"]) == (True, "length")
    assert (last["prompt_eval_count"], last["eval_count"]) == (14, 2)
    line = sidecar.record(answer)
    assert fields(line, "route", "path", "key") == ("protocol", PATH, "alice")
    assert fields(line, "outcome", "stream", "completion_tokens") == ("ok", True, 2)


def test_the_example_answers_at_once(sidecar: Sidecar) -> None:
    body = {"prompt": "Why?", "system": "Be short.", "stream": False, "options": {"num_predict": 2}}
    answer = ask(sidecar, body, fake={"text": ["Be", "cause."]})
    assert answer.header("content-type") == "application/json"
    (said,) = lines(answer)
    assert (said["response"], said["done"], said["eval_count"]) == ("Because.", True, 2)
    (received,) = sidecar.seen(answer)
    assert json.loads(received.body)["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Why?"},
    ]


def test_errors_come_in_the_examples_own_shape(sidecar: Sidecar) -> None:
    answer = ask(sidecar, {"prompt": 1})
    assert (answer.status, lines(answer)) == (400, [{"error": "prompt: must be a text"}])
    answer = ask(sidecar, {"prompt": "a", "options": {"mirostat": 1}})
    assert lines(answer) == [{"error": "options.mirostat: is not known"}]
    answer = ask(sidecar, {"prompt": "a", "options": 3})
    assert (answer.status, lines(answer)) == (400, [{"error": "options: must be an object"}])
    answer = ask(sidecar, {"prompt": "a", "model": "nope"})
    assert answer.status == 404
    assert "does not exist" in lines(answer)[0]["error"]
    answer = sidecar.ask(PATH, {"prompt": "a"}, headers=[("authorization", "Bearer no")])
    assert (answer.status, set(lines(answer)[0])) == (401, {"error"})
    answer = ask(sidecar, {"prompt": "a"}, fake={"die": "between_events:3", "text": "a"})
    assert "error" in lines(answer)[-1]
    assert answer.whole
    assert ending(sidecar.record(answer)) == (200, "engine_died", "upstream", "engine_died")


def test_what_it_cannot_take_at_all_is_a_500_and_a_traceback(sidecar: Sidecar) -> None:
    answer = ask(sidecar, {"no prompt": "a"}, "/odd")
    assert (answer.status, lines(answer)) == (500, [{"error": "The protocol Odd failed."}])

    def is_logged() -> bool:
        lines = [line for line in sidecar.other_lines() if "KeyError: 'prompt'" in line]
        return any(json.loads(line)["request_id"] == answer.request_id for line in lines)

    until(is_logged, "the traceback")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("cut", [None, "at:180,600"])
def test_a_protocol_that_cannot_even_tell_an_error_has_it_told(
    sidecar: Sidecar, cut: str | None, stream: bool
) -> None:
    # However the engine's answer comes; also where its end is in the piece that fails.
    fake = {"text": "a", "tokens": 1, "glue": 9, "cut": cut, "cut_ms": 20 if cut else 0}
    answer = ask(sidecar, {"prompt": "a", "stream": stream}, "/broken", fake=fake)
    text = answer.body.decode().removeprefix("data: ").partition("\n\n")[0]
    assert json.loads(text)["error"]["code"] == "internal_error"
    assert answer.whole
    line = sidecar.record(answer)
    assert fields(line, "outcome", "error") == ("proxy_error", "internal_error")
    until(lambda: "a fault of theirs" in "".join(sidecar.other_lines()), "the traceback")
    assert ask(sidecar, {"prompt": "a"}).status == 200, "the others go on"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("prompt", ["no ask", "no route of text", "no JSON", "exit"])
def test_an_ask_that_is_none_is_told_in_the_protocols_words(
    sidecar: Sidecar, prompt: str, stream: bool
) -> None:
    answer = ask(sidecar, {"prompt": prompt, "stream": stream}, "/odd")
    assert (answer.status, lines(answer)) == (500, [{"error": "The protocol Odd failed."}])
    assert ending(sidecar.record(answer)) == (500, "proxy_error", "proxy", "internal_error")
    assert sidecar.seen(answer) == []


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("prompt", ["a text", "nothing", "late"])
def test_what_is_no_bytes_is_told_as_a_fault_and_the_log_says_what_it_was(
    sidecar: Sidecar, prompt: str, stream: bool
) -> None:
    answer = ask(sidecar, {"prompt": prompt, "stream": stream}, "/odd", fake={"text": "a"})
    assert answer.whole
    assert answer.status == (200 if stream else 500)
    assert "The protocol Odd failed." in answer.body.decode()
    assert sidecar.record(answer)["outcome"] == "proxy_error"
    until(lambda: "events_out has returned" in "".join(sidecar.other_lines()), "the traceback")


def test_a_protocol_that_leaves_ends_its_own_request_alone(sidecar: Sidecar) -> None:
    for stream, status in ((True, 200), (False, 500)):
        answer = ask(sidecar, {"prompt": "late exit", "stream": stream}, "/odd")
        assert (answer.status, answer.whole) == (status, True)
        assert sidecar.record(answer)["outcome"] == "proxy_error"


def test_a_protocol_is_not_served_without_leave(tmp_path: Path) -> None:
    with FakeEngine() as engine, Sidecar(tmp_path, engine, PROTOCOLS="os:path") as sidecar:
        assert sidecar.process.wait(PATIENCE) == 2
    said = sidecar.log.read_text()
    assert "PROTOCOLS=os:path: the module os is not in PROTOCOL_MODULES" in said
