"""What one event, or one whole answer, says on each route."""

from __future__ import annotations

import json

import msgspec
import pytest

from proxy.access.routes import Route
from proxy.relay.event import ANSWER_READERS, EVENT_READERS, EventSummary, Usage, error_of
from proxy.telemetry.record import Record
from tests.proxy.relay.recordings import recording

CHAT, RESPONSES, MESSAGES = Route.CHAT, Route.RESPONSES, Route.MESSAGES


def said(route: Route, event: object) -> EventSummary:
    return EVENT_READERS[route](json.dumps(event).encode())


@pytest.mark.parametrize(
    ("name", "route", "usage", "finish"),
    [
        ("chat.json", CHAT, Usage(14, 3), "length"),
        ("chat_tool.json", CHAT, Usage(14, 54, None, 0), "stop"),
        ("completions.json", Route.COMPLETIONS, Usage(2, 3), "length"),
        ("messages.json", MESSAGES, Usage(14, 3), "max_tokens"),
        ("responses.json", RESPONSES, Usage(14, 3, 0, 0), "max_output_tokens"),
        ("tokenize.json", Route.TOKENIZE, None, None),
    ],
)
def test_a_recorded_answer_tells_its_usage_and_its_end(
    name: str, route: Route, usage: Usage | None, finish: str | None
) -> None:
    answer = ANSWER_READERS[route](recording(name))
    assert (answer.usage, answer.finish_reason, answer.error) == (usage, finish, None)


@pytest.mark.parametrize(
    ("name", "route", "error"),
    [
        ("unknown_model.json", CHAT, "NotFoundError"),
        ("unknown_model.json", RESPONSES, "NotFoundError"),
        ("unknown_model_messages.json", MESSAGES, "NotFoundError"),
        ("missing_messages.json", CHAT, "Bad Request"),
        ("missing_messages.json", MESSAGES, "Bad Request"),
        ("stream_options_without_stream.json", CHAT, "BadRequestError"),
    ],
)
def test_a_recorded_refusal_tells_its_kind_and_not_its_message(
    name: str, route: Route, error: str
) -> None:
    answer = ANSWER_READERS[route](recording(name))
    assert (answer.error, answer.usage, answer.generated) == (error, None, False)


@pytest.mark.parametrize(
    ("route", "usage", "read"),
    [
        (
            CHAT,
            {
                "prompt_tokens": 9,
                "completion_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 8},
                "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": None},
            },
            Usage(9, 4, 8, 2),
        ),
        (CHAT, {"prompt_tokens": 0, "completion_tokens": 0}, Usage(0, 0)),
        # What came from the cache, and what went into it, is not among `input_tokens`.
        (
            MESSAGES,
            {
                "input_tokens": 9,
                "output_tokens": 4,
                "cache_read_input_tokens": 3,
                "cache_creation_input_tokens": 2,
            },
            Usage(14, 4, 3),
        ),
        (Route.RERANK, {"total_tokens": 5}, Usage()),
    ],
)
def test_usage_is_read_in_the_words_of_each_route(
    route: Route, usage: dict[str, object], read: Usage
) -> None:
    assert ANSWER_READERS[route](json.dumps({"usage": usage}).encode()).usage == read


def test_a_later_count_replaces_an_earlier_one_and_nothing_replaces_a_count() -> None:
    record = Record("POST", "/", CHAT)
    Usage(14, 0, 3, 1).fill(record)
    Usage(None, 7).fill(record)
    assert (record.prompt_tokens, record.completion_tokens) == (14, 7)
    assert (record.cached_tokens, record.reasoning_tokens) == (3, 1)


@pytest.mark.parametrize(
    ("event", "generated"),
    [
        ({"type": "response.created", "response": {"status": "in_progress"}}, False),
        ({"type": "response.output_text.delta", "delta": "a"}, True),
        ({"type": "response.output_text.delta", "delta": ""}, False),
        ({"type": "response.function_call_arguments.delta", "delta": "{"}, True),
        ({"type": "response.output_text.done", "text": "a"}, False),
    ],
)
def test_a_response_has_generated_at_its_first_delta(event: object, generated: bool) -> None:
    assert said(RESPONSES, event).generated is generated


@pytest.mark.parametrize(
    ("delta", "generated"),
    [
        ({"type": "text_delta", "text": "a"}, True),
        ({"type": "input_json_delta", "partial_json": "{"}, True),
        # Made by the server once the thinking is over: no token.
        ({"type": "signature_delta", "signature": "a"}, False),
    ],
)
def test_a_message_generates_by_its_deltas(delta: object, generated: bool) -> None:
    event = {"type": "content_block_delta", "index": 0, "delta": delta}
    assert said(MESSAGES, event).generated is generated
    assert not said(MESSAGES, {"type": "content_block_start", "content_block": {}}).generated


@pytest.mark.parametrize(
    ("response", "finish"),
    [
        ({"status": "completed"}, "completed"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
         "max_output_tokens"),
        ({"status": "failed", "error": {"code": "server_error"}}, "failed"),
        ({"status": "in_progress"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_a_response_ends_by_its_status(response: dict[str, object], finish: str | None) -> None:
    event = {"type": "response.completed", "response": response}
    assert said(RESPONSES, event).finish_reason == finish
    assert ANSWER_READERS[RESPONSES](json.dumps(response).encode()).finish_reason == finish


@pytest.mark.parametrize(
    ("route", "event", "error"),
    [
        (CHAT, {"error": {"type": "InternalServerError", "message": "m"}}, "InternalServerError"),
        (CHAT, {"error": {"code": 500}}, "500"),
        (CHAT, {"error": {"message": "m"}}, "error"),
        (CHAT, {"error": "Unauthorized"}, "error"),
        (CHAT, {"error": None}, None),
        (CHAT, {"choices": []}, None),
        (RESPONSES, {"type": "error", "code": "server_error", "message": "m"}, "server_error"),
        (RESPONSES, {"type": "error", "code": 500, "message": "m"}, "500"),
        (RESPONSES, {"type": "error", "code": None, "message": "m"}, "error"),
        (RESPONSES, {"error": {"type": "InternalServerError"}}, "InternalServerError"),
        (
            RESPONSES,
            {"type": "response.failed", "response": {"error": {"code": "server_error"}}},
            "server_error",
        ),
        (MESSAGES, {"type": "error", "error": {"type": "overloaded_error"}}, "overloaded_error"),
        (MESSAGES, {"type": "ping"}, None),
    ],
)
def test_an_error_in_a_stream_is_told_by_its_kind(
    route: Route, event: object, error: str | None
) -> None:
    assert said(route, event).error == error


def test_no_words_of_an_error_are_kept() -> None:
    assert error_of({"message": "prompt: my secret"}) == ("error", False)
    assert error_of(["my secret"]) == ("error", False)
    assert error_of({}) == (None, False)


@pytest.mark.parametrize(
    ("error", "is_clients"),
    [
        ({"type": "BadRequestError", "code": 400}, True),
        ({"type": "BadRequestError", "code": "400"}, True),
        ({"type": "BadRequestError", "code": 400.0}, True),
        ({"type": "BadRequestError", "code": 500}, False),
        ({"type": "BadRequestError"}, True),
        ({"type": "invalid_request_error", "code": "context_length_exceeded"}, True),
        ({"code": "invalid_prompt"}, True),
        ({"code": "server_error"}, False),
        ({"type": "overloaded_error"}, False),
        ({"type": "api_error", "code": None}, False),
        ({"type": ["x"], "code": True}, False),
    ],
)
def test_whose_mistake_an_error_is_stands_in_its_code_or_its_type(
    error: object, is_clients: bool
) -> None:
    assert error_of(error)[1] is is_clients
    assert said(CHAT, {"error": error}).is_clients_error is is_clients
    assert said(MESSAGES, {"type": "error", "error": error}).is_clients_error is is_clients
    failed = {"type": "response.failed", "response": {"status": "failed", "error": error}}
    for event in (failed, {"error": error}):
        assert said(RESPONSES, event).is_clients_error is is_clients


@pytest.mark.parametrize(
    ("given", "count"),
    [
        *((3, 3), (3.0, 3), ("3", 3), (0, 0), ("0", 0), (None, None), (3.5, None), ("many", None)),
        *((True, None), (-1.0, None), ("-3", None), ("", None), ("٣", None), ([3], None)),
        *(("9" * 17, None), (1e300, None), ({}, None)),
    ],
)
def test_a_count_is_a_whole_number_however_it_is_written(given: object, count: int | None) -> None:
    usage = {"prompt_tokens": given, "completion_tokens": 7}
    usage |= {"prompt_tokens_details": {"cached_tokens": given}, "completion_tokens_details": given}
    event = said(CHAT, {"choices": [], "usage": usage})
    assert (event.usage, event.usage_only) == (Usage(count, 7, count), True)


def test_the_usage_event_is_told_from_usage_in_any_other_event() -> None:
    usage = {"prompt_tokens": 1}
    assert said(CHAT, {"choices": [], "usage": usage}).usage_only
    assert not said(CHAT, {"choices": [{"delta": {}}], "usage": usage}).usage_only
    assert not said(CHAT, {"choices": []}).usage_only
    assert not said(RESPONSES, {"choices": [], "usage": usage}).usage_only
    assert not said(MESSAGES, {"choices": [], "usage": usage}).usage_only


@pytest.mark.parametrize("route", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("payload", [b"", b"{", b"null", b"[]", b'{"error": \xff}'])
def test_what_cannot_be_read_is_left_to_the_caller(route: Route, payload: bytes) -> None:
    for read in (EVENT_READERS[route], ANSWER_READERS[route]):
        with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
            read(payload)


def test_the_first_event_of_messages_does_not_know_what_will_be_generated() -> None:
    event = {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 0}}}
    assert EVENT_READERS[MESSAGES](json.dumps(event).encode()).usage == Usage(9)


@pytest.mark.parametrize("route", [CHAT, MESSAGES, RESPONSES])
def test_a_count_below_zero_is_none(route: Route) -> None:
    names = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
    details = {f"{name}_details": {"cached_tokens": -1, "reasoning_tokens": -1} for name in names}
    body = json.dumps({"usage": dict.fromkeys(names, -1) | details}).encode()
    assert ANSWER_READERS[route](body).usage == Usage()
