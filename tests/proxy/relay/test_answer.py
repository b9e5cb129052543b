"""The engine's answer is passed on untouched; usage, end and outcome are read in passing."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from proxy.access.routes import Route
from proxy.errors import EngineDied, Source
from proxy.relay import answer as answer_module
from proxy.relay.answer import (
    Answer,
    PlainAnswer,
    StreamedAnswer,
    answer_for,
    note_error,
    server_timing,
)
from proxy.relay.background import BackgroundResponses
from proxy.relay.event import ANSWER_READERS, EVENT_READERS
from proxy.relay.stream import MAX_HELD_BYTES
from proxy.server.request import Headers
from proxy.telemetry.record import Outcome, Record
from proxy.telemetry.request_log import present_fields
from tests.proxy.relay.recordings import recording

JSON: Headers = [(b"content-type", b"application/json")]
EVENTS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8")]


def answer_to_chat(headers: Headers, record: Record, *, withhold_usage: bool = False) -> Answer:
    background = BackgroundResponses()
    return answer_for(Route.CHAT, dict(headers), record, background, withhold_usage=withhold_usage)


def started(status: int = 200, route: Route = Route.CHAT) -> Record:
    return Record("POST", "/", route, status=status)


def passed(answer: Answer, pieces: Iterable[bytes]) -> bytes:
    out = [answer.feed(piece, 1.0) for piece in pieces]
    return b"".join([*out, answer.close()])


def settled(record: Record) -> Record:
    record.finish()
    return record


@pytest.mark.parametrize(
    ("content_type", "stream"),
    [
        (b"text/event-stream", True),
        (b"text/event-stream; charset=utf-8", True),
        (b"application/json", False),
        (b"", False),
        (None, False),
    ],
)
def test_a_stream_is_known_by_what_the_engine_calls_it(
    content_type: bytes | None, stream: bool
) -> None:
    headers = [] if content_type is None else [(b"content-type", content_type)]
    record = started()
    answer = answer_to_chat(headers, record)
    assert isinstance(answer, StreamedAnswer if stream else PlainAnswer)
    assert bool(record.stream) is stream


def test_a_json_answer_is_passed_on_piece_by_piece_and_read_at_its_end() -> None:
    body = recording("chat.json")
    record = started()
    answer = PlainAnswer(ANSWER_READERS[Route.CHAT], record)
    assert [answer.feed(body[i : i + 99], 0) for i in range(0, len(body), 99)] == [
        body[i : i + 99] for i in range(0, len(body), 99)
    ]
    assert "prompt_tokens" not in present_fields(record)
    assert answer.close() == b""
    read = {"prompt_tokens": 14, "completion_tokens": 3, "finish_reason": "length"}
    assert read.items() <= present_fields(record).items()
    assert record.first_token is None, "a plain answer has no first token"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (JSON, b""),
        (JSON, b"{"),
        (JSON, b'"\xff"'),
        (JSON, b'{"usage": {"prompt_tokens": "many"}}'),
        ([(b"content-type", b"audio/wav")], b'{"usage": {"prompt_tokens": 3}}'),
        ([], b'{"usage": {"prompt_tokens": 3}}'),
    ],
)
def test_an_answer_that_cannot_be_read_is_passed_on_and_nothing_is_made_up(
    headers: Headers, body: bytes
) -> None:
    record = started()
    answer = answer_to_chat(headers, record)
    assert passed(answer, [body]) == body
    assert record.prompt_tokens is None
    assert settled(record).outcome is Outcome.OK


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("chat.json", Route.CHAT),
        ("messages.json", Route.MESSAGES),
        ("responses.json", Route.RESPONSES),
    ],
)
def test_a_long_answer_is_skimmed_and_tells_the_same(
    monkeypatch: pytest.MonkeyPatch, name: str, route: Route, size: int
) -> None:
    body = recording(name)
    read, skimmed = started(), started()
    passed(PlainAnswer(ANSWER_READERS[route], read), [body])
    monkeypatch.setattr(answer_module, "MAX_HELD_BYTES", 10)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    assert passed(PlainAnswer(ANSWER_READERS[route], skimmed), pieces) == body
    names = ("prompt_tokens", "completion_tokens", "cached_tokens", "finish_reason")
    told = [
        {name: present_fields(settled(record)).get(name) for name in names}
        for record in (read, skimmed)
    ]
    assert told[0] == told[1]
    assert told[0]["completion_tokens"] == 3


@pytest.mark.parametrize(
    ("status", "finish", "error", "outcome", "source", "name"),
    [
        (200, "stop", None, Outcome.OK, None, None),
        (307, None, None, Outcome.OK, None, None),
        (200, "abort", None, Outcome.ENGINE_ERROR, Source.UPSTREAM, "abort"),
        (200, None, "Internal", Outcome.ENGINE_ERROR, Source.UPSTREAM, "Internal"),
        (400, None, "BadRequest", Outcome.CLIENT_ERROR, Source.CLIENT, "BadRequest"),
        (404, None, None, Outcome.CLIENT_ERROR, Source.CLIENT, "status_404"),
        (500, None, "Internal", Outcome.ENGINE_ERROR, Source.UPSTREAM, "Internal"),
        (503, None, None, Outcome.ENGINE_ERROR, Source.UPSTREAM, "status_503"),
    ],
)
def test_the_outcome_is_what_the_engine_says_of_its_answer(
    status: int,
    finish: str | None,
    error: str | None,
    outcome: Outcome,
    source: Source | None,
    name: str | None,
) -> None:
    record = started(status)
    record.finish_reason = finish
    note_error(record, error)
    settled(record)
    assert (record.outcome, record.error_source, record.error) == (outcome, source, name)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b"data: [DONE]\n\n", Outcome.OK),
        (b'data: {"error": {"type": "x"}}\n\ndata: [DONE]\n\n', Outcome.ENGINE_ERROR),
        (b'data: {"choices": [{"finish_reason": "abort"}]}\n\n', Outcome.ENGINE_ERROR),
        # The last event may lack its blank line.
        (b'data: {"error": {"type": "x"}}', Outcome.ENGINE_ERROR),
        (b'data: {"choices": [{"finish_reason": "abort"}]}', Outcome.ENGINE_ERROR),
    ],
)
def test_an_error_inside_a_stream_that_began_well_is_the_engines(
    body: bytes, outcome: Outcome
) -> None:
    record = started()
    answer = answer_to_chat(EVENTS, record)
    assert passed(answer, [body]) == body
    assert settled(record).outcome is outcome


def test_a_stream_gives_up_its_usage_event_only_where_the_sidecar_asked_for_it() -> None:
    body = recording("chat_stream_usage")
    kept, withheld = (
        answer_to_chat(EVENTS, started(), withhold_usage=withholds) for withholds in (False, True)
    )
    assert passed(kept, [body]) == body
    assert b'"usage"' not in passed(withheld, [body])


def test_a_stream_that_breaks_off_in_a_long_event_is_ended_first() -> None:
    answer = StreamedAnswer(EVENT_READERS[Route.CHAT], started(), withhold_usage=False)
    answer.feed(b"data: " + b"x" * (MAX_HELD_BYTES + 1), 0)
    assert answer.broken_off(EngineDied("It died."), Route.CHAT).startswith(b"\n\ndata: ")


@pytest.mark.parametrize(
    ("connect", "expected"),
    [
        (0.003, {"body": 500.0, "connect": 3.0, "engine": 2250.0}),
        (None, {"body": 500.0, "engine": 2250.0}),
    ],
)
def test_server_timing_gives_the_phases_in_ms(
    connect: float | None, expected: dict[str, float]
) -> None:
    record = started()
    record.started, record.body_read, record.sent = 10.0, 10.5, 10.75
    record.connect_seconds, record.first_byte = connect, 13.0
    pairs = re.findall(r"(\w+);dur=([\d.]+)", server_timing(record).decode())
    assert {name: float(value) for name, value in pairs} == expected
