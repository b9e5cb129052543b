"""Promise 2 for answers of any size: their usage is read as they pass, wherever it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.wire.client import CHAT, RESPONSES, STREAM, prompt
from tests.wire.service import Sidecar, fields
from tests.wire.streams import CHUNKED, chunk, raw, sized

EMBEDDINGS = "/v1/embeddings"
FLOATS = b"[" + b"-0.0123456789," * 9 + b"0]"
USAGE = b'"usage":{"prompt_tokens":40,"total_tokens":40,"completion_tokens":0}'
DECOY = b'"usage":{"prompt_tokens":1}'
MIB = 1024 * 1024


def embeddings(size: int, *, first: bytes = b"", last: bytes = b"") -> bytes:
    """An answer of at least `size` bytes with vectors in it."""
    vector = b'{"index":0,"object":"embedding","embedding":%b},' % FLOATS
    data = vector * (size // len(vector) + 1)
    return b'{%b"object":"list","data":[%b0]%b}' % (first, data, last)


@pytest.fixture
def answered(service: Sidecar) -> Iterator[Any]:
    """Asks for an answer that the engine gives on this path, as it is too long for a header."""

    def ask(path: str, wire: bytes, body: Any = None) -> Any:
        service.engine.script(path, **raw(wire))
        return service.ask(path, body or {"input": "x"})

    yield ask
    service.engine.reset()


@pytest.mark.parametrize(
    ("size", "place"),
    [(1000, "last"), (60 * 1024, "last"), (70 * 1024, "first"), (17 * MIB, "last")],
)
def test_usage_is_known_however_long_the_answer(
    service: Sidecar, answered: Any, size: int, place: str
) -> None:
    comma = {"first": USAGE + b",", "last": b"," + USAGE}
    body = embeddings(size, **{place: comma[place]})
    answer = answered(EMBEDDINGS, sized(body))
    assert answer.body == body
    assert fields(service.record(answer), "prompt_tokens", "completion_tokens") == (40, 0)


@pytest.mark.parametrize(
    "more",
    [
        b'"data":[{"text":"\\"usage\\":{\\"prompt_tokens\\":1}"}]',
        b'"data":[{%b}]' % DECOY,
        b'"text":"\\\\","a":{%b},"b":"\\\\\\""' % DECOY,
        b'"object":"usage","b":["usage",{"c":"usage"}]',
        b'"text":"[{[{\\\\\\"[["',
    ],
    ids=repr,
)
def test_nothing_but_the_usage_of_the_answer_itself_is_read(
    service: Sidecar, answered: Any, more: bytes
) -> None:
    body = embeddings(MIB, last=b"," + more + b"," + USAGE)
    answer = answered(EMBEDDINGS, sized(body))
    assert answer.body == body
    assert service.record(answer)["prompt_tokens"] == 40


def test_the_end_of_a_long_answer_is_known_too(service: Sidecar, answered: Any) -> None:
    """It was aborted: vLLM is being stopped."""
    logprobs = json.dumps([{"token": "a\"'\\", "finish_reason": "x", "bytes": [1]}] * 9000).encode()
    choice = b'{"index":0,"finish_reason":"abort","logprobs":{"content":%b}}' % logprobs
    body = b'{"choices":[%b],%b}' % (choice, USAGE)
    line = service.record(answered(CHAT, sized(body), prompt(CHAT)))
    names = ("outcome", "finish_reason", "prompt_tokens")
    assert fields(line, *names) == ("engine_error", "abort", 40)


def test_the_last_event_of_a_long_response_tells_its_usage(service: Sidecar, answered: Any) -> None:
    usage = {"input_tokens": 9, "output_tokens": 7, "total_tokens": 16}
    tools = [{"name": "f", "parameters": {"properties": {"usage": {"input_tokens": 1}}}}]
    response = {"id": "resp_1", "background": False, "tools": tools, "status": "completed"}
    response |= {"output": [{"text": 'a"\\' * MIB, "status": "in_progress"}], "usage": usage}
    last = {"response": response, "sequence_number": 2, "type": "response.completed"}
    event = b"event: response.completed\ndata: " + json.dumps(last).encode() + b"\n\n"
    delta = b'event: a.delta\ndata: {"delta":"a","type":"a.delta"}\n\n'
    answer = answered(
        RESPONSES,
        CHUNKED + b"".join(map(chunk, (delta, event))) + b"0\r\n\r\n",
        prompt(RESPONSES, STREAM),
    )
    assert (answer.whole, answer.body) == (True, delta + event)
    names = ("prompt_tokens", "completion_tokens", "generated_events", "finish_reason", "outcome")
    assert fields(service.record(answer), *names) == (9, 7, 1, "completed", "ok")


def test_the_loop_is_not_held_up_and_memory_is_bounded(service: Sidecar, answered: Any) -> None:
    body = embeddings(32 * MIB, last=b"," + USAGE)
    answered(EMBEDDINGS, sized(embeddings(MIB)))
    before = service.memory_mib()
    service.forget_peak()
    assert len(answered(EMBEDDINGS, sized(body)).body) == len(body)
    assert service.memory_mib("VmHWM") < before + 40
