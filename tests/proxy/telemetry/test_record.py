"""What is known of a request: measured once, closed once, and nothing made up."""

from __future__ import annotations

from time import monotonic
from typing import Any

import pytest

from proxy.access.routes import Route
from proxy.errors import Source
from proxy.telemetry.record import Outcome, Record
from proxy.telemetry.request_log import MAX_FIELD_CHARS, LogFields, present_fields
from tests.proxy.telemetry.records import finished, full

CUT = {"outcome": Outcome.PROXY_ERROR}


def test_each_field_is_what_was_measured() -> None:
    assert present_fields(full()) == {
        "request_id": "id-1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "method": "POST",
        "path": "/v1/chat/completions",
        "route": "chat",
        "model": "demo",
        "key": "alice",
        "status": 200,
        "outcome": "engine_error",
        "error_source": "upstream",
        "error": "InternalServerError",
        "stream": True,
        "modalities": ["text", "image", "video", "audio"],
        "images": 2,
        "videos": 1,
        "audios": 3,
        "bytes_in": 1000,
        "bytes_out": 5000,
        "prompt_tokens": 35,
        "cached_tokens": 16,
        "completion_tokens": 11,
        "reasoning_tokens": 4,
        "generated_events": 6,
        "finish_reason": "length",
        "duration_ms": 500.0,
        "ttft_ms": 100.0,
        "itl_mean_ms": 50.0,
        "itl_max_ms": 90.0,
        "tokens_per_second": 40.0,
        "wait_ms": 3.0,
        "model_wait_ms": 1.0,
        "body_read_ms": 7.0,
        "media_fetch_ms": 0.0,
        "media_bytes": 700,
        "upstream_connect_ms": 2.0,
        "upstream_first_byte_ms": 7.5,
        "overhead_ms": 1.0,
        "client_stall_ms": 4.0,
        "engine_ttft_ms": 70.0,
        "engine_queue_ms": 3.0,
        "client": "10.0.0.7",
        "user_agent": "curl/7.88.1",
        "retries": 2,
    }


def test_what_does_not_apply_is_absent_and_never_a_made_up_zero() -> None:
    bare = Record("GET", "/v1/models", Route.MODELS, request_id="id")
    bare.finish()
    assert present_fields(bare).keys() == {
        "request_id",
        "method",
        "path",
        "route",
        "outcome",
        "bytes_in",
        "bytes_out",
        "duration_ms",
    }


@pytest.mark.parametrize(
    ("given", "absent"),
    [
        (
            {"first_token": None, "last_token": None, "generated_events": 0},
            ("ttft_ms", "itl_mean_ms", "itl_max_ms", "tokens_per_second", "generated_events"),
        ),
        (
            {"generated_events": 1, "last_token": 100.1},
            ("itl_mean_ms", "itl_max_ms", "tokens_per_second"),
        ),
        # All tokens came in one piece: there is no time to divide by.
        ({"last_token": 100.1}, ("tokens_per_second",)),
        ({"completion_tokens": None}, ("completion_tokens", "tokens_per_second")),
        ({"completion_tokens": 1}, ("tokens_per_second",)),
        ({"completion_tokens": 0}, ("tokens_per_second",)),
        ({"client_stall_seconds": 0.0}, ("client_stall_ms",)),
        ({"connect_seconds": None}, ("upstream_connect_ms",)),
        ({"first_byte": None}, ("upstream_first_byte_ms",)),
        ({"sent": None}, ("overhead_ms", "upstream_first_byte_ms")),
        ({"body_read": None}, ("overhead_ms", "body_read_ms")),
        ({"images": 0}, ("images",)),
        ({"engine_queue_seconds": None}, ("engine_queue_ms",)),
    ],
)
def test_a_number_without_its_measurement_is_absent(
    given: dict[str, Any], absent: tuple[str, ...]
) -> None:
    record = full()
    for name, value in given.items():
        setattr(record, name, value)
    assert present_fields(full()).keys() - present_fields(record).keys() == set(absent)


def test_no_count_of_tokens_is_zeroed() -> None:
    fields = present_fields(finished(prompt_tokens=0, completion_tokens=0, cached_tokens=0))
    assert fields["prompt_tokens"] == fields["completion_tokens"] == fields["cached_tokens"] == 0


def test_the_first_thing_that_went_wrong_is_what_is_told() -> None:
    record = Record("POST", "/", Route.CHAT)
    record.fail(Outcome.ENGINE_DIED, Source.UPSTREAM, "first")
    record.fail(Outcome.PROXY_ERROR, Source.PROXY, "second")
    record.finish()
    told = (record.outcome, record.error_source, record.error)
    assert told == (Outcome.ENGINE_DIED, "upstream", "first")


def test_the_clock_stops_when_the_request_is_finished() -> None:
    record = Record("POST", "/", Route.CHAT)
    record.finish()
    assert record.duration_seconds == record.duration_seconds
    running = Record("POST", "/", Route.CHAT, started=monotonic() - 1)
    assert running.duration_seconds >= 1
    assert running.duration_seconds < running.duration_seconds


def test_tokens_mark_their_times() -> None:
    record = Record("POST", "/", Route.CHAT, started=10.0)
    for now in (11.0, 11.5, 11.6, 13.0):
        record.token_event(now)
    assert (record.ttft_seconds, record.generated_events) == (1.0, 4)
    assert record.longest_gap_seconds == pytest.approx(1.4)
    assert record.itl_mean_seconds == pytest.approx(2 / 3)
    record.completion_tokens = 9
    assert record.tokens_per_second == pytest.approx(8 / 2), "the prefill is left out"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # Before sending: from the body to the request, less the connecting.
        ({"body_read": 1.0, "sent": 1.5}, 0.5),
        ({"body_read": 1.0, "sent": 1.5, "connect_seconds": 0.25}, 0.25),
        ({"body_read": 1.0, "sent": 1.5, "last_byte": 4.0, "finished": 4.25}, 0.75),
        # A body that is piped ends after the request was sent; that is nobody's overhead.
        ({"body_read": 2.0, "sent": 1.5}, 0.0),
        ({"body_read": 2.0, "sent": 1.5, "last_byte": 4.5, "finished": 4.25}, 0.0),
        ({"body_read": 1.0, "sent": 1.1, "connect_seconds": 5.0}, 0.0),
        # A stream that was cut: the engine had been silent before.
        ({"body_read": 1.0, "sent": 1.5, "last_byte": 2.0, "finished": 60.0, **CUT}, 0.5),
        ({"body_read": 1.0, "sent": 1.1, "connect_seconds": 0.01, "media_seconds": 0.06}, 0.03),
    ],
)
def test_overhead_is_the_sidecars_own_time_and_never_negative(
    given: dict[str, Any], expected: float
) -> None:
    record = Record("POST", "/", Route.CHAT, started=0.5)
    for name, value in given.items():
        setattr(record, name, value)
    assert record.overhead_seconds == pytest.approx(expected)


@pytest.mark.parametrize("name", ["path", "model", "error", "finish_reason", "user_agent"])
def test_words_that_came_over_the_wire_cannot_make_a_line_endless(name: str) -> None:
    record = finished(**{name: "x" * 5_000_000})
    assert present_fields(record)[name] == "x" * (200 if name == "user_agent" else MAX_FIELD_CHARS)


def test_a_record_takes_no_field_that_is_not_declared() -> None:
    record = Record("POST", "/", Route.CHAT)
    with pytest.raises(AttributeError):
        record.prompt = "my secret"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ({"prompt_tokens": 35, "completion_tokens": 11, "generated_events": 6}, 46),
        ({"prompt_tokens": 9, "completion_tokens": 0}, 9),
        ({"prompt_tokens": 9}, 9),
        ({"generated_events": 6}, 6),  # the client has left before the usage came
        ({}, 0),
    ],
)
def test_a_key_pays_what_the_engine_says_or_at_least_what_was_seen(
    given: dict[str, int], tokens: int
) -> None:
    assert finished(**given).charged_tokens == tokens


def test_a_lone_surrogate_is_in_no_field_that_leaves_us() -> None:
    odd = "a\ud800b"
    fields = present_fields(
        finished(model=odd, error=odd, finish_reason=odd, user_agent=odd, path=odd)
    )
    names = ("model", "error", "finish_reason", "user_agent", "path")
    assert [fields[name] for name in names] == ["a?b"] * 5


def test_every_declared_field_is_written() -> None:
    written = list(present_fields(full()))
    assert written == list(LogFields.__struct_fields__), "full() has each, log_fields() in order"
