"""Promise 5: the clock is honest.

Lower bounds are what the engine is told to wait. Upper ones are the client's own clock: it begins
before the sidecar's and sees all that comes after, so they hold where a machine stands still, too.
"""

from __future__ import annotations

import time
from time import monotonic
from typing import Any

import pytest

from tests.wire.client import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    STREAM,
    new_id,
    prompt,
    request,
)
from tests.wire.service import Sidecar, fields, until

ROUTES = [CHAT, COMPLETIONS, MESSAGES, RESPONSES]
WAIT_MS = 300
MARK = b"MARKED"
# Times are logged to the hundredth of a millisecond.
_ROUNDED_MS = 0.05


def timed(service: Sidecar, path: str, fake: Any, mark: bytes = MARK) -> tuple[Any, float, float]:
    """A stream's record; milliseconds until its client had the head, and then the first `mark`."""
    with service.connect() as client:
        began = monotonic()
        request_id = client.ask(path, prompt(path, STREAM), fake=fake | {"text": MARK.decode()})
        client.head()
        head_ms = (monotonic() - began) * 1000
        client.until(mark)
        mark_ms = (monotonic() - began) * 1000
        client.until(b"\r\n0\r\n\r\n")
        return service.record(request_id), head_ms, mark_ms


def held(service: Sidecar, fake: Any, tokens: int) -> Any:
    """The record of a stream that goes on only a while after its client has had so many tokens."""
    with service.connect() as client:
        request_id = client.ask(CHAT, prompt(CHAT, STREAM), fake=fake | {"text": MARK.decode()})
        for _ in range(tokens):
            client.until(MARK)
        time.sleep(WAIT_MS / 1000)
        service.engine.release()
        client.until(b"\r\n0\r\n\r\n")
        return service.record(request_id)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("fake", [{}, {"reasoning": 4}], ids=["text", "thinking"])
def test_the_first_token_is_the_first_with_something_generated(
    service: Sidecar, path: str, fake: Any
) -> None:
    fake |= {"first_ms": WAIT_MS, "tokens": 8, "interval_ms": 20}
    record, head_ms, mark_ms = timed(service, path, fake)
    assert WAIT_MS <= record["ttft_ms"] <= mark_ms
    assert record["upstream_first_byte_ms"] <= head_ms  # the headers come at once


def test_a_whole_answer_has_no_first_token(service: Sidecar) -> None:
    answer = service.ask(CHAT, prompt(CHAT), fake={"first_ms": 50})
    record = service.record(answer)
    assert fields(record, "ttft_ms", "tokens_per_second") == (None, None)
    assert record["duration_ms"] >= 50


def test_the_clock_starts_with_the_first_byte_of_the_request(service: Sidecar) -> None:
    request_id = new_id()
    whole = request(CHAT, prompt(CHAT, STREAM), request_id=request_id)
    with service.connect() as client:
        client.send(whole[:30])
        for _ in range(2):  # the connection is accepted, and read
            service.page()
        time.sleep(WAIT_MS / 1000)
        client.send(whole[30:])
        client.answer()
    record = service.record(request_id)
    assert record["ttft_ms"] >= WAIT_MS
    assert record["duration_ms"] >= WAIT_MS


def test_a_slow_body_counts_as_waiting(service: Sidecar) -> None:
    request_id = new_id()
    whole = request(CHAT, prompt(CHAT, STREAM), request_id=request_id)
    with service.connect() as client:
        client.send(whole[:-20])
        until(lambda: service.value("sidecar_requests_in_flight", route="chat") == 1, "a request")
        time.sleep(WAIT_MS / 1000)
        client.send(whole[-20:])
        client.answer()
    record = service.record(request_id)
    assert record["ttft_ms"] >= WAIT_MS
    assert record["body_read_ms"] >= WAIT_MS
    # The client's slowness is not our work.
    assert record["overhead_ms"] <= record["duration_ms"] - record["body_read_ms"] + _ROUNDED_MS


def test_the_clock_starts_anew_on_a_kept_connection(service: Sidecar) -> None:
    with service.connect() as client:
        client.ask(CHAT, prompt(CHAT, STREAM))
        client.answer()
        time.sleep(WAIT_MS / 1000)
        began = monotonic()
        request_id = client.ask(CHAT, prompt(CHAT, STREAM))
        client.answer()
        record = service.record(request_id)
        most_ms = (monotonic() - began) * 1000
    assert record["ttft_ms"] <= record["duration_ms"] <= most_ms


def test_the_rate_does_not_count_the_prefill(service: Sidecar) -> None:
    record = held(service, {"first_ms": 600, "tokens": 21, "hold_at": 2}, tokens=1)
    assert record["ttft_ms"] >= 600
    assert record["tokens_per_second"] == pytest.approx(1000 / record["itl_mean_ms"], rel=0.01)
    generating_ms = record["duration_ms"] - record["ttft_ms"]
    assert 20 * record["itl_mean_ms"] <= generating_ms + 20 * _ROUNDED_MS
    assert record["itl_max_ms"] >= record["itl_mean_ms"]


def test_our_own_share_is_not_the_engines(service: Sidecar) -> None:
    fake = {"head_ms": WAIT_MS, "first_ms": WAIT_MS, "tokens": 3}
    record, head_ms, _ = timed(service, CHAT, fake)
    engines_ms = record["upstream_first_byte_ms"]
    assert WAIT_MS <= engines_ms <= head_ms
    assert record["overhead_ms"] <= record["duration_ms"] - engines_ms + _ROUNDED_MS


@pytest.mark.parametrize("where", ["after_headers", "between_events:3"])
def test_the_silence_before_an_answer_breaks_off_is_not_our_share(
    impatient_service: Sidecar, where: str
) -> None:
    """STREAM_IDLE_TIMEOUT is 1 s."""
    fake = {"stall_at": 0 if where == "after_headers" else 3}
    record = impatient_service.record(impatient_service.ask(CHAT, prompt(CHAT, STREAM), fake=fake))
    assert (record["outcome"], record["duration_ms"] > 1000) == ("timeout", True)
    assert record["overhead_ms"] <= record["duration_ms"] - 1000


def test_the_silence_before_a_client_leaves_is_not_our_share(service: Sidecar) -> None:
    with service.connect() as client:
        request_id = client.ask(CHAT, prompt(CHAT, STREAM), fake={"stall_at": 4})
        client.until(b"\n\n")
        time.sleep(WAIT_MS / 1000)
    record = service.record(request_id)
    assert (record["outcome"], record["duration_ms"] > WAIT_MS) == ("client_closed", True)
    assert record["overhead_ms"] <= record["duration_ms"] - WAIT_MS


def test_a_request_is_in_flight_until_its_last_byte(service: Sidecar) -> None:
    with service.connect() as client:
        request_id = client.ask(CHAT, prompt(CHAT, STREAM), fake={"stall_at": 4})
        client.until(b"\n\n")
        assert service.value("sidecar_requests_in_flight", route="chat") == 1
        assert service.records(request_id) == []
    service.record(request_id)
    assert service.value("sidecar_requests_in_flight", route="chat") == 0


def test_server_timing_tells_a_whole_answers_phases(service: Sidecar) -> None:
    began = monotonic()
    answer = service.ask(CHAT, prompt(CHAT), fake={"head_ms": 50})
    most_ms = (monotonic() - began) * 1000
    phases = dict(part.strip().split(";dur=") for part in answer.header("server-timing").split(","))
    assert {"body", "engine"} <= set(phases) <= {"body", "engine", "connect"}
    assert 50 <= float(phases["engine"]) <= most_ms
    assert service.ask(CHAT, prompt(CHAT, STREAM)).all("server-timing") == []
