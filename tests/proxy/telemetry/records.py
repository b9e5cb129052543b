"""Records of requests, as the relay fills them."""

from __future__ import annotations

from typing import Any

from proxy.access.routes import Route
from proxy.errors import Source
from proxy.telemetry.record import Outcome, Record


def finished(**given: Any) -> Record:
    """A chat that took half a second, from second 100 of the clock on; the rest is as given."""
    record = Record("POST", "/v1/chat/completions", Route.CHAT, started=100.0)
    record.status = 200
    for name, value in given.items():
        setattr(record, name, value)
    record.finish()
    record.finished = given.get("finished", 100.5)
    return record


def full() -> Record:
    """A request of which everything is known that can be known."""
    return finished(
        request_id="id-1",
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        model="demo",
        key="alice",
        outcome=Outcome.ENGINE_ERROR,
        error_source=Source.UPSTREAM,
        error="InternalServerError",
        stream=True,
        images=2,
        videos=1,
        audios=3,
        bytes_in=1000,
        bytes_out=5000,
        prompt_tokens=35,
        cached_tokens=16,
        completion_tokens=11,
        reasoning_tokens=4,
        finish_reason="length",
        client="10.0.0.7",
        user_agent="curl/7.88.1",
        retries=2,
        waited_seconds=0.003,
        model_wait_seconds=0.001,
        body_read=100.01,
        sent=100.0125,
        connect_seconds=0.002,
        media_seconds=0.0,
        media_bytes=700,
        first_byte=100.02,
        first_token=100.1,
        last_token=100.35,
        generated_events=6,
        longest_gap_seconds=0.09,
        engine_queue_seconds=0.003,
        engine_ttft_seconds=0.07,
        client_stall_seconds=0.004,
        last_byte=100.4995,
    )
