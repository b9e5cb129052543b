"""The fake engine is trusted by other tests: what it says is held against recorded vLLM."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.engine.service import wait_until
from tests.fake_engine import FakeEngine, x_fake
from tests.fake_engine.raw import (
    CHAT,
    COMPLETIONS,
    HI,
    MESSAGES,
    RESPONSES,
    STREAM,
    USAGE,
    dial,
    read_all,
    request,
    say,
    status,
    unchunked,
)
from tests.patience import PATIENCE

RECORDED = Path(__file__).parent / "fake_engine" / "recorded"
_BOTH = {"include_usage": True, "continuous_usage_stats": True}
CONTINUOUS = {"stream": True, "stream_options": _BOTH}


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    with FakeEngine("--served-model-name", "tiny", "tiny2", "--model", "./tiny") as engine:
        yield engine


def skeleton(value: Any) -> Any:
    """Keys in their order and types of the rest: the shape without the words."""
    if isinstance(value, dict):
        return [(key, skeleton(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [skeleton(item) for item in value[:1]]
    return type(value).__name__


def shapes(stream: bytes) -> list[Any]:
    """The shapes of the events, each where it first appears."""
    events = []
    for block in stream.decode().strip().split("\n\n"):
        name, _, data = block.rpartition("data: ")
        events.append((name, data if data == "[DONE]" else skeleton(json.loads(data))))
    return [event for index, event in enumerate(events) if event not in events[:index]]


def recorded(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


# -- shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "fake", "name"),
    [
        (CHAT, HI | USAGE, {}, "chat_stream_usage.txt"),
        (
            CHAT,
            HI | CONTINUOUS,
            {"finish_in_last": True, "tokens": 1},
            "chat_stream_continuous.txt",
        ),
        (CHAT, HI | STREAM, {"reasoning": 2, "tokens": 2}, "chat_stream_reasoning.txt"),
        (COMPLETIONS, {"prompt": ["a", "b"]} | USAGE, {}, "completions_stream_usage.txt"),
        (COMPLETIONS, {"prompt": "a"} | CONTINUOUS, {}, "completions_stream_continuous.txt"),
        (MESSAGES, HI | STREAM, {}, "messages_stream.txt"),
        (MESSAGES, HI | STREAM, {"reasoning": 2, "tokens": 2}, "messages_stream_thinking.txt"),
        (RESPONSES, {"input": "a", "max_output_tokens": 3} | STREAM, {}, "responses_stream.txt"),
        (
            RESPONSES,
            {"input": "a", "max_output_tokens": 3} | STREAM,
            {"reasoning": 3},
            "responses_stream_reasoning.txt",
        ),
    ],
)
def test_streams_have_the_recorded_shape(
    engine: FakeEngine, path: str, body: Any, fake: Any, name: str
) -> None:
    answer = say(engine, path, body, **fake)
    assert b"content-type: text/event-stream; charset=utf-8\r\n" in answer
    assert shapes(unchunked(answer)) == shapes(recorded(name))


def test_tool_call_events_have_the_recorded_shape(engine: FakeEngine) -> None:
    """The finish reason sat on the last fragment in the recording."""
    answer = say(engine, CHAT, HI | USAGE, tool=True, reasoning=0, finish_in_last=True)
    ours, theirs = shapes(unchunked(answer)), shapes(recorded("chat_stream_tool.txt"))
    assert ours[:4] == theirs[:4]


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        (CHAT, HI, "chat.json"),
        (COMPLETIONS, {"prompt": "a"}, "completions.json"),
        (MESSAGES, HI, "messages.json"),
        (RESPONSES, {"input": "a", "max_output_tokens": 3}, "responses.json"),
        ("/tokenize", {"prompt": "a b"}, "tokenize.json"),
        ("/v1/messages/count_tokens", HI, "count_tokens.json"),
    ],
)
def test_json_answers_have_the_recorded_shape(
    engine: FakeEngine, path: str, body: Any, name: str
) -> None:
    answer = say(engine, path, body)
    assert skeleton(json.loads(unchunked(answer))) == skeleton(json.loads(recorded(name)))


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        (CHAT, HI | {"model": "nope"}, "unknown_model.json"),
        (MESSAGES, HI | {"model": "nope"}, "unknown_model_messages.json"),
        (CHAT, HI | {"stream_options": {}}, "stream_options_without_stream.json"),
        (CHAT, HI | {"max_tokens": 5000}, "max_tokens_too_big.json"),
        (CHAT, {"model": "tiny"}, "missing_messages.json"),
    ],
)
def test_refusals_are_the_recorded_bytes(
    engine: FakeEngine, path: str, body: Any, name: str
) -> None:
    assert unchunked(say(engine, path, body)) == recorded(name)


def test_models_and_plain_paths(engine: FakeEngine) -> None:
    models = json.loads(unchunked(say(engine, "/v1/models", method="GET")))
    assert skeleton(models) == skeleton(json.loads(recorded("models.json")))
    assert [card["id"] for card in models["data"]] == ["tiny", "tiny2"]
    assert unchunked(say(engine, "/nope", method="GET")) == b'{"detail":"Not Found"}'
    assert status(say(engine, CHAT, method="GET")) == 405
    assert status(say(engine, "/health", method="HEAD")) == 405
    assert b"content-length: 0\r\n" in say(engine, "/health", method="GET")
    broken = dial(engine)
    broken.sendall(b"nonsense\r\n\r\n")
    assert read_all(broken).endswith(b"\r\n\r\nInvalid HTTP request received.")


def test_each_event_is_one_chunk_and_usage_comes_just_before_done(engine: FakeEngine) -> None:
    answer = say(engine, CHAT, HI | USAGE, tokens=3, comment=False)
    chunks = re.findall(rb"\r\n[0-9a-f]+\r\n(data: .*\n\n)", answer)
    assert len(chunks) == 1 + 3 + 1 + 1 + 1
    assert b'"choices":[],"usage":{"prompt_tokens":14,"total_tokens":17' in chunks[-2]
    assert b'"choices":[]' not in say(engine, CHAT, HI | STREAM)


def test_official_clients_understand_it(engine: FakeEngine) -> None:
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key="x") as client:
        chunks = list(
            client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": "hi"}],
                stream=True,
                stream_options={"include_usage": True},
                extra_headers=x_fake(tokens=4, text="é"),
            )
        )
        answer = client.responses.create(model="tiny2", input="hi")
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "éééé"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4
    assert answer.model == "tiny"
    with anthropic.Anthropic(base_url=engine.url, api_key="x") as claude:
        message = claude.messages.create(
            model="tiny", max_tokens=3, messages=[{"role": "user", "content": "hi"}]
        )
    assert message.stop_reason == "max_tokens"


# -- bytes -------------------------------------------------------------------------------------


def plain_body(answer: bytes) -> bytes:
    return re.sub(rb'"created":\d+', b"", unchunked(answer))


@pytest.mark.parametrize(
    "fake",
    [
        {"cut": "every:1"},
        {"cut": "every:7", "cut_ms": 0.1},
        {"cut": "at:3,200,205"},
        {"cut": "random:5:9"},
        {"chunk_bytes": 1},
        {"glue": 3, "chunk_extension": ";a=b"},
        {"interim": [103]},
    ],
)
def test_cuts_change_no_byte_of_the_body(engine: FakeEngine, fake: dict[str, Any]) -> None:
    def body(**fake: Any) -> bytes:
        connection = dial(engine)
        headers = {"Connection": "close", "X-Request-Id": "same"} | x_fake(**fake)
        connection.sendall(request(CHAT, HI | USAGE, **headers))
        answer = read_all(connection)
        return plain_body(answer.removeprefix(b"HTTP/1.1 103 Early Hints\r\n\r\n"))

    assert body(**fake) == body(tokens=8)


def test_cuts_reach_the_reader_as_cuts(engine: FakeEngine) -> None:
    headers = {"Connection": "close"} | x_fake(cut="every:50", cut_ms=5, tokens=1)

    def pieces() -> int:
        connection, read = dial(engine), list[bytes]()
        connection.sendall(request(CHAT, HI | STREAM, **headers))
        read_all(connection, read)
        return len(read)

    # The kernel joins those that a reader leaves lying for long.
    wait_until(lambda: pieces() > 10, PATIENCE, "pieces")


def test_styles(engine: FakeEngine) -> None:
    assert b'"delta":{"content":" the"}' in say(engine, CHAT, HI | STREAM)
    assert b"data: [DONE]\r\n\r\n" in say(engine, CHAT, HI | STREAM, newline="crlf")
    assert b'"choices" :\t[  ]' in say(engine, CHAT, HI | USAGE, space="wide")
    assert b'data:{"id"' in say(engine, CHAT, HI | STREAM, space="none")
    assert b": keep-alive\n\n" in say(engine, CHAT, HI | STREAM, comment=True)
    assert b"[DONE]" not in say(engine, CHAT, HI | STREAM, no_done=True)
    assert unchunked(say(engine, CHAT, HI | STREAM, after_done="more")).endswith(b"\n\nmore")
    zipped = unchunked(say(engine, CHAT, HI | STREAM, gzip=True))
    assert gzip.decompress(zipped).endswith(b"data: [DONE]\n\n")
    sized = say(engine, CHAT, HI | STREAM, event_bytes=5000)
    assert sized.count(b"\r\n1388\r\n") == 8
    assert say(engine, CHAT, HI, http10=True).startswith(b"HTTP/1.0 200 OK\r\n")
    assert say(engine, CHAT, HI, raw="aGVsbG8=", close_after=True) == b"hello"
    assert say(engine, CHAT, HI, status=204).endswith(b"connection: close\r\n\r\n")
    odd = say(engine, CHAT, HI, status=429, body="{}", headers=[("X-A", "1"), ("X-A", "2")])
    assert b"X-A: 1\r\nX-A: 2\r\n" in odd
    assert odd.endswith(b"\r\n\r\n{}")


def test_the_engines_death_ends_a_stream_as_vllm_ends_it(engine: FakeEngine) -> None:
    failed = say(engine, CHAT, HI | STREAM, error_event_at=3)
    assert b'\r\na9\r\ndata: {"error": {"message": "EngineCore encountered an issue.' in failed
    assert failed.endswith(b"\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    assert b"event: error\ndata: " in say(engine, MESSAGES, HI | STREAM, error_event_at=3)
    cut = say(engine, RESPONSES, {"input": "x"} | STREAM, error_event_at=3)
    assert cut.endswith(b"}\n\n\r\n")


def test_a_script_with_a_typo_is_refused(engine: FakeEngine) -> None:
    connection = dial(engine)
    connection.sendall(request(CHAT, HI, x_fake='{"tokenz": 1}', Connection="close"))
    assert b"unknown field `tokenz`" in read_all(connection)
