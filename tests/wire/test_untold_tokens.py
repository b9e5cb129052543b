"""What is known of the tokens of a client that leaves: what the engine said, and no guess."""

from __future__ import annotations

import pytest

from tests.wire.client import CHAT, COMPLETIONS, MESSAGES, RESPONSES, STREAM, prompt
from tests.wire.service import Sidecar, fields

EVENTS = 8
# Only `/v1/messages` says at its beginning how long the prompt was.
PROMPT_TOKENS = {CHAT: None, COMPLETIONS: None, MESSAGES: 11, RESPONSES: None}


@pytest.mark.parametrize("path", PROMPT_TOKENS)
def test_events_are_counted_and_tokens_are_not_made_up(service: Sidecar, path: str) -> None:
    fake = {"tokens": 20, "prompt_tokens": 11, "stall_at": EVENTS}
    with service.connect() as client:
        request_id = client.ask(path, prompt(path, STREAM), fake=fake)
        for _ in range(EVENTS):
            client.until(b"\n\n")
    record = service.record(request_id)
    assert record["outcome"] == "client_closed"
    assert fields(record, "prompt_tokens", "completion_tokens") == (PROMPT_TOKENS[path], None)
    received = service.wait_until_aborted(request_id)
    assert record["generated_events"] == received.tokens > 0
