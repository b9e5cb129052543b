"""The engine's own timings: taken where it gives them, in seconds, and nothing made up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.access.routes import Route
from proxy.relay.answer import answer_for
from proxy.relay.background import BackgroundResponses
from proxy.relay.timings import note_timings
from proxy.telemetry.record import Record

JSON = [(b"content-type", b"application/json")]
EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]
USAGE = {"prompt_tokens": 57, "completion_tokens": 3, "total_tokens": 60}
# As vLLM 0.32 gives them with --enable-per-request-metrics.
TIMINGS = {
    "time_to_first_token_ms": 7.637213002453791,
    "generation_time_ms": 9.577573000569828,
    "queue_time_ms": 0.03177699909429066,
    "mean_itl_ms": 4.788786500284914,
    "tokens_per_second": 174.26879424891357,
    "speculative_decoding": None,
}
KNOWN = (0.007637213002453791, 0.00003177699909429066)


def relayed(route: Route, *payloads: dict[str, Any], stream: bool) -> tuple[Record, bytes]:
    """What is known, and what was passed on, of an answer."""
    record = Record("POST", "/", route)
    record.status = 200
    headers, background = EVENTS if stream else JSON, BackgroundResponses()
    answer = answer_for(route, dict(headers), record, background, withhold_usage=stream)
    texts = [json.dumps(payload) for payload in payloads]
    body = "".join(f"data: {text}\n\n" for text in texts) if stream else "".join(texts)
    return record, answer.feed(body.encode(), 1.0) + answer.close()


def known(record: Record) -> tuple[float | None, float | None]:
    return record.engine_ttft_seconds, record.engine_queue_seconds


@pytest.mark.parametrize(
    ("route", "payload"),
    [
        (Route.CHAT, {"choices": [], "usage": USAGE, "metrics": TIMINGS}),
        (Route.COMPLETIONS, {"choices": [], "usage": USAGE, "metrics": TIMINGS}),
        (Route.RESPONSES, {"status": "completed", "metrics": TIMINGS}),
    ],
)
def test_they_are_read_off_a_whole_answer(route: Route, payload: dict[str, Any]) -> None:
    record, passed = relayed(route, payload, stream=False)
    assert known(record) == pytest.approx(KNOWN)
    assert json.loads(passed) == payload


def test_they_are_read_off_the_event_that_is_withheld() -> None:
    usage = {"choices": [], "usage": USAGE, "metrics": TIMINGS}
    record, passed = relayed(Route.CHAT, usage, stream=True)
    assert known(record) == pytest.approx(KNOWN)
    assert passed == b""


def test_they_are_read_off_the_last_event_of_responses() -> None:
    response = {"status": "completed", "metrics": TIMINGS}
    event = {"type": "response.completed", "response": response}
    record, _ = relayed(Route.RESPONSES, event, stream=True)
    assert known(record) == pytest.approx(KNOWN)


@pytest.mark.parametrize(
    "timings", [None, {}, [], {"queue_time_ms": None}, {"time_to_first_token_ms": "1"}]
)
def test_what_is_not_said_is_not_known_and_costs_no_token(timings: Any) -> None:
    payload = {"choices": [], "usage": USAGE, "metrics": timings}
    record, _ = relayed(Route.CHAT, payload, stream=False)
    assert known(record) == (None, None)
    assert record.completion_tokens == 3


@pytest.mark.parametrize("time", [-1.0, 10**400, float("inf"), float("nan")])
def test_what_can_be_no_time_is_none(time: float) -> None:
    record = Record("POST", "/", Route.CHAT)
    note_timings(record, {"queue_time_ms": time, "time_to_first_token_ms": 5})
    assert known(record) == (0.005, None)
