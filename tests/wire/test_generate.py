"""`/generate` and `/generate_stream` over real sockets: the engine's routes in other words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.wire import secrets
from tests.wire.client import Answer, Ended
from tests.wire.service import Sidecar, ending, fields
from tests.wire.test_leaks import ENGINE_FAULTS

GENERATE, STREAM = "/generate", "/generate_stream"
PROMPT = {"prompt": secrets.PROMPT, "max_tokens": 3}
CHAT = {
    "system_info": "Be short.",
    "history_input": ["one?"],
    "history_output": ["1"],
    "prompt": "two?",
}
WORDS = {"text": [" a", " füchs", " 🦊"]}
TEXT = " a füchs 🦊"
TEXTS = ("texts", "finish_reasons", "usage")


def asked(service: Sidecar, answer: Answer) -> tuple[str, dict[str, Any]]:
    """Where the engine was asked, and what."""
    (received,) = service.seen(answer)
    body = json.loads(received.body)
    assert isinstance(body, dict)
    return received.target, body


def counts(prompt: int, completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


# Answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/basic_generate", "/generate_vllm"])
def test_the_paths_of_older_servers_take_several_prompts(service: Sidecar, path: str) -> None:
    answer = service.ask(path, {"prompts": ["a", "b"], "max_tokens": 3})
    assert answer.status == 200
    assert len(answer.json()["texts"]) == 2
    assert service.record(answer)["route"] == "generate"


def test_a_prompt_is_a_completion(service: Sidecar) -> None:
    answer = service.ask(GENERATE, PROMPT | {"temperature": 0.5}, fake=WORDS)
    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    assert answer.framing == "length"
    assert answer.json() == {
        "text": TEXT,
        "texts": [TEXT],
        "finish_reasons": ["length"],
        "usage": counts(14, 3),
    }
    assert asked(service, answer) == ("/v1/completions", PROMPT | {"temperature": 0.5})
    line = service.record(answer)
    assert fields(line, "path", "route", "status", "outcome") == (GENERATE, "generate", 200, "ok")
    assert fields(line, "prompt_tokens", "completion_tokens", "stream") == (14, 3, False)
    assert line["bytes_out"] == len(answer.body)
    assert line["finish_reason"] == "length"


def test_prompts_are_one_request_of_the_engines(service: Sidecar) -> None:
    answer = service.ask(GENERATE, {"prompts": ["a", "b", "c"], "max_tokens": 2}, fake=WORDS)
    said = answer.json()
    assert said["texts"] == [" a füchs"] * 3
    assert said["finish_reasons"] == ["length"] * 3
    assert "text" not in said
    assert asked(service, answer)[1]["prompt"] == ["a", "b", "c"]
    assert fields(service.record(answer), "prompt_tokens", "completion_tokens") == (42, 6)


def test_a_history_makes_it_a_chat(service: Sidecar) -> None:
    answer = service.ask(GENERATE, CHAT | {"top_p": 0.9, "stop": ["x"]}, fake=WORDS | {"tokens": 3})
    assert answer.json()["text"] == TEXT
    target, body = asked(service, answer)
    assert target == "/v1/chat/completions"
    assert body.pop("messages") == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two?"},
    ]
    assert body == {"top_p": 0.9, "stop": ["x"]}
    assert service.record(answer)["route"] == "generate"


def test_reasoning_is_not_lost(service: Sidecar) -> None:
    fake = {"text": [" hm", " a"], "reasoning": 1, "tokens": 2}
    said = service.ask(GENERATE, CHAT, fake=fake).json()
    assert (said["text"], said["reasoning"]) == (" a", [" hm"])
    events = service.ask(STREAM, CHAT, fake=fake).data()
    assert events[:2] == [{"reasoning": " hm", "index": 0}, {"text": " a", "index": 0}]


# Streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "how"),
    [
        (PROMPT, {}),
        (PROMPT, {"newline": "crlf"}),
        (PROMPT, {"newline": "cr", "chunk_bytes": 7}),
        (CHAT | {"max_tokens": 3}, {"glue": 9}),
        (CHAT | {"max_tokens": 3}, {"comment": True}),
    ],
    ids=["plain", "crlf", "cr, cut", "chat, glued", "chat, comments"],
)
def test_a_stream_is_told_word_by_word(
    service: Sidecar, body: dict[str, Any], how: dict[str, Any]
) -> None:
    answer = service.ask(STREAM, body, fake=WORDS | how)
    assert answer.header("content-type").startswith("text/event-stream")
    data = [event for event in answer.events() if not event.startswith(":")]
    assert data[-1] == "data: [DONE]"
    said = [json.loads(event.removeprefix("data: ")) for event in data[:-1]]
    assert said == [
        *({"text": text, "index": 0} for text in WORDS["text"]),
        {"finish_reasons": ["length"], "usage": counts(14, 3)},
    ]
    line = service.record(answer)
    assert fields(line, "outcome", "stream", "generated_events") == ("ok", True, 3)
    assert fields(line, "prompt_tokens", "completion_tokens") == (14, 3)
    assert line["ttft_ms"] > 0


def test_a_stream_of_several_prompts_has_their_numbers(service: Sidecar) -> None:
    body = {"prompts": ["a", "b"], "max_tokens": 1}
    *said, last, done = service.ask(STREAM, body, fake=WORDS).data()
    assert said == [{"text": " a", "index": 0}, {"text": " a", "index": 1}]
    assert (last["finish_reasons"], done) == (["length", "length"], "[DONE]")


def test_the_first_word_does_not_wait_for_the_second(service: Sidecar) -> None:
    with service.connect() as client:
        client.ask(STREAM, PROMPT, fake={"stall_at": 1, "text": " a"})
        client.head()
        assert client.until(b"\n\n").endswith(b'data: {"text":" a","index":0}\n\n')


# What goes wrong ------------------------------------------------------------------------------

BAD: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "prompt"),
    "both": ({"prompt": "a", "prompts": ["b"]}, "prompt"),
    "a number": ({"prompt": 1}, "prompt"),
    "a text for a list": ({"prompts": "a"}, "prompts"),
    "no prompts": ({"prompts": []}, "prompts"),
    "a number among them": ({"prompts": ["a", 1]}, "prompts"),
    "prompts with a history": ({"prompts": ["a"], "system_info": "b"}, "prompts"),
    "no system": ({"prompt": "a", "system_info": 1}, "system_info"),
    "half a history": ({"prompt": "a", "history_input": ["b"]}, "history_output"),
    "a history of numbers": ({"prompt": "a", "history_input": [1]}, "history_input"),
    "a typo": ({"prompt": "a", "temprature": 1}, "temprature"),
    "stream": ({"prompt": "a", "stream": True}, "stream"),
    "a list": (["a"], "body"),
    "no JSON": (b"{", "body"),
    "no body": (b"", "body"),
    "nested without end": (b'{"prompt":' * 3000, "body"),
}


@pytest.mark.parametrize(
    ("path", "name"),
    [*((GENERATE, name) for name in BAD), (STREAM, "nothing"), (STREAM, "no JSON")],
)
def test_bad_input_is_a_400_that_names_the_field(service: Sidecar, path: str, name: str) -> None:
    body, field = BAD[name]
    answer = service.ask(path, body)
    said = answer.json()
    assert (answer.status, said["code"], said["field"]) == (400, "invalid_request", field)
    assert set(said) == {"error", "code", "field"}
    assert field in said["error"]
    assert answer.header("x-proxy-error") == "client invalid_request"
    assert service.seen(answer) == []
    line = service.record(answer)
    assert ending(line) == (400, "client_error", "client", "invalid_request")
    assert line["route"] == "generate"


def test_a_typo_is_told_with_the_word_that_was_meant(service: Sidecar) -> None:
    said = service.ask(GENERATE, {"prompt": "a", "temprature": 1}).json()
    assert said["error"] == "temprature: is not known; did you mean temperature?"


def test_it_takes_json_by_post_only(service: Sidecar) -> None:
    answer = service.ask(GENERATE, PROMPT, headers=[("content-type", "text/plain")])
    assert (answer.status, answer.json()["field"]) == (400, "content-type")
    answer = service.ask(GENERATE, method="GET")
    assert (answer.status, answer.header("allow")) == (405, "POST")
    assert answer.json()["code"] == "method_not_allowed"


def test_the_engines_own_words_come_through(service: Sidecar) -> None:
    answer = service.ask(GENERATE, PROMPT | {"model": "nope"})
    assert answer.status == 404
    assert answer.json() == {
        "error": "The model `nope` does not exist. Valid aliases: tiny.",
        "code": "NotFoundError",
        "field": "model",
    }
    assert not answer.all("x-proxy-error")
    assert ending(service.record(answer)) == (404, "client_error", "client", "NotFoundError")
    answer = service.ask(STREAM, PROMPT | {"max_tokens": 100_000})
    assert (answer.status, answer.json()["field"]) == (400, "max_tokens")


@pytest.mark.parametrize("body", [b"<html>no", b'{"detail": "no"}', b'"no"'])
def test_an_error_that_is_no_json_of_openais_is_told_too(service: Sidecar, body: bytes) -> None:
    fake = {"status": 500, "body": body.decode()}
    answer = service.ask(GENERATE, PROMPT, fake=fake)
    assert (answer.status, answer.json()["code"]) == (500, "status_500")
    assert "no" in answer.json()["error"]


@pytest.mark.parametrize("body", ["", "nothing", "[1]", '{"choices": 3}'])
def test_an_answer_that_is_none_is_a_502(service: Sidecar, body: str) -> None:
    answer = service.ask(GENERATE, PROMPT, fake={"status": 200, "body": body})
    assert (answer.status, answer.json()["code"]) == (502, "engine_garbled")
    assert ending(service.record(answer)) == (502, "engine_error", "upstream", "engine_garbled")


def test_an_engine_that_dies_before_its_answer_is_a_502(service: Sidecar) -> None:
    for where in ("before_headers", "inside_event:0"):
        answer = service.ask(GENERATE, PROMPT, fake={"die": where})
        assert (answer.status, answer.json()["code"]) == (502, "engine_died")
        assert answer.header("x-should-retry") == "false"


@pytest.mark.parametrize("where", ["between_events:2", "inside_event:2", "inside_chunk:2"])
def test_an_engine_that_dies_in_a_stream_is_told_in_the_stream(
    service: Sidecar, where: str
) -> None:
    answer = service.ask(STREAM, PROMPT, fake={"die": where, "text": " a"})
    *said, error, done = answer.data()
    assert said == [{"text": " a", "index": 0}] * 2
    assert (error["code"], done) == ("engine_died", "[DONE]")
    assert answer.whole
    assert ending(service.record(answer)) == (200, "engine_died", "upstream", "engine_died")


def test_an_error_of_the_engines_in_a_stream_is_told_in_it(service: Sidecar) -> None:
    answer = service.ask(STREAM, PROMPT, fake={"error_event_at": 1, "text": " a"})
    _, error, done = answer.data()
    assert ("EngineCore" in error["error"], done) == (True, "[DONE]")
    assert service.record(answer)["outcome"] == "engine_error"


@pytest.mark.parametrize("fake", ENGINE_FAULTS, ids=lambda fake: str(fake)[:40])
def test_whatever_the_engine_does_is_told_in_this_shape(
    service: Sidecar, fake: dict[str, Any]
) -> None:
    answer = service.ask(GENERATE, PROMPT, fake=fake)
    assert answer.whole
    assert set(answer.json()) in ({"error", "code", "field"}, {*TEXTS, "text"})
    answer = service.ask(STREAM, PROMPT, fake=fake)
    assert answer.whole
    if answer.header("content-type") == "application/json":
        assert set(answer.json()) == {"error", "code", "field"}
        return
    *said, done = answer.data()
    assert done == "[DONE]"
    assert set(said[-1]) in ({"error", "code", "field"}, {"finish_reasons", "usage"})


def test_a_client_that_leaves_stops_the_work(service: Sidecar) -> None:
    for path, fake in ((STREAM, {"stall_at": 2}), (GENERATE, {"hang": True})):
        client = service.connect()
        request_id = client.ask(path, PROMPT, fake=fake)
        service.wait_until_seen(request_id)
        client.close()
        service.wait_until_aborted(request_id)
        assert service.record(request_id)["outcome"] == "client_closed"


def test_a_client_that_does_not_read_holds_up_the_engine(service: Sidecar) -> None:
    fake = {"tokens": 4000, "event_bytes": 20_000, "backpressure": True}
    with service.connect(receive_bytes=4096) as client:
        request_id = client.ask(STREAM, {"prompt": "a"}, fake=fake)
        client.head()
        before = service.memory_mib()
        service.wait_until_at_rest(request_id)
        tokens = service.seen(request_id)[0].tokens
        assert tokens < 4000, "80 MB were to come, and nobody takes them"
        assert service.memory_mib() - before < 20
    service.wait_until_aborted(request_id)


def test_an_event_too_long_to_be_translated_ends_the_stream(service: Sidecar) -> None:
    fake = {"tokens": 1, "event_bytes": 3_000_000}
    answer = service.ask(STREAM, PROMPT, fake=fake)
    error, done = answer.data()
    assert (error["code"], done) == ("engine_garbled", "[DONE]")
    service.wait_until_idle()


def test_a_pipelined_connection_goes_on_after_it(service: Sidecar) -> None:
    with service.connect() as client:
        for path in (GENERATE, STREAM, GENERATE):
            client.ask(path, PROMPT)
        answers = [client.answer() for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert answers[0].json()["usage"] == answers[2].json()["usage"] == counts(14, 3)
    try:
        assert answers[1].data()[-1] == "[DONE]"
    except Ended:
        raise AssertionError("the stream was not ended") from None
