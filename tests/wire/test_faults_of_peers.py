"""Faults seen in other proxies that no other file here has a test for.

The rest of the list: UTF-8 split, JSON written anew, bytes after `[DONE]`, a limit to a line, a
timer that gathers events (test_same_bytes); an explicit `false` overridden, the usage event that
reaches clients (test_usage); usage behind a long answer (test_large_answers); the role-only event
(test_clock); streams kept in memory (test_slow_readers); leaving not passed on
(test_client_leaves); retries, the idle limit (test_no_retry); early 413 (test_uploads); a body with
a 204 (test_http); secrets in the log (test_privacy).
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.wire.client import CHAT, STREAM, new_id, prompt
from tests.wire.service import Sidecar
from tests.wire.streams import CHUNKED, DONE, FINISH, ROLE, WORD, chunk, raw
from tests.wire.test_clock import timed


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_thinking_is_no_waiting(service: Sidecar, field: str) -> None:
    thought = ROLE.replace(b'"role":"assistant","content":""', b'"%b":"Hm"' % field.encode())
    thinking = CHUNKED + chunk(ROLE) + chunk(thought)
    fake = raw(
        thinking + chunk(WORD) + chunk(FINISH) + chunk(DONE) + b"0\r\n\r\n",
        cut=f"at:{len(thinking)}",
        cut_ms=400,
    )
    record, _, thought_ms = timed(service, CHAT, fake, b'"Hm"')
    assert 0 < record["ttft_ms"] <= thought_ms


def test_labels_never_come_from_a_client(service: Sidecar) -> None:
    def ask(word: str) -> None:
        headers = [("user-agent", word), ("authorization", f"Bearer {word}")]
        body = prompt(CHAT, {"model": word, "user": word})
        service.ask(f"{CHAT}?x={word}", body, headers=headers, request_id=word)
        for path in (f"/v1/nothing/{word}", f"/v1/models/{word}"):
            service.record(service.ask(path))
        service.record(word)

    ask(new_id())
    series = len(service.page().splitlines())
    made = [f"model-{new_id()}" for _ in range(8)]
    for word in made:
        ask(word)
    page = service.page()
    assert not any(word in page for word in made)
    assert len(page.splitlines()) == series
    assert set(re.findall(r'model="([^"]*)"', page)) <= {"tiny", "other"}


@pytest.mark.parametrize(
    "fake",
    [{"finish_in_last": True, "tokens": 1}, {"tokens_per_event": 8}, {"glue": 100}],
    ids=str,
)
def test_tokens_are_the_engines_count_not_the_number_of_events(
    service: Sidecar, fake: dict[str, Any]
) -> None:
    answer = service.ask(CHAT, prompt(CHAT, STREAM), fake=fake)
    assert service.record(answer)["completion_tokens"] == fake.get("tokens", 8)
