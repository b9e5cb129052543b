"""Responses that are made in the background: how many are remembered."""

from __future__ import annotations

import json

import pytest

from proxy.access.routes import Route
from proxy.relay import background
from proxy.relay.background import BackgroundResponses
from proxy.relay.event import ANSWER_READERS, EventSummary, Usage
from proxy.telemetry.record import Record


def told(known: BackgroundResponses, path: str, response_id: str, status: str) -> EventSummary:
    """What an answer says that is to be counted."""
    record = Record("POST", path, Route.RESPONSES, key="alice")
    said = {"id": response_id, "background": True, "status": status}
    usage = {"usage": {"input_tokens": 9}} if status == "completed" else {}
    read = known.reader(ANSWER_READERS[Route.RESPONSES], record)
    answer = read(json.dumps(said | usage).encode())
    record.finish()
    return answer


def test_those_that_wait_longest_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MOST_AWAITED", 2)
    known = BackgroundResponses()
    for response_id in ("a", "b", "a", "c"):
        told(known, "/v1/responses", response_id, "queued")
    usages = [told(known, f"/v1/responses/{name}", name, "completed").usage for name in "abc"]
    assert usages == [Usage(9), None, Usage(9)]
