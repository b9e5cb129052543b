"""Faults seen in other proxies that no other file here has a test for.

The rest of the list: UTF-8 split, JSON written anew, bytes after `[DONE]` (test_same_bytes);
an explicit `false` overridden, the usage event that reaches clients (test_usage); thinking and
the role-only event (test_clock); streams kept in memory (test_slow_readers); leaving not passed
on (test_client_leaves); retries, the idle limit (test_no_retry); early 413 (test_uploads).
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.wire.client import CHAT, RESPONSES, STREAM, new_id, prompt
from tests.wire.service import Sidecar, fields
from tests.wire.streams import CHUNKED, DONE, FINISH, ROLE, WORD, chunk, nameless, raw
from tests.wire.test_clock import timed


def test_no_line_is_too_long(service: Sidecar) -> None:
    """Proxies with a limit of 1 MiB a line end the stream there, in silence."""
    for size in (65_535, 65_536, 1024 * 1024 - 1, 1024 * 1024, 1024 * 1024 + 1, 3_000_000):
        fake = {"event_bytes": size, "tokens": 1}
        request_id = new_id()
        more = {"request_id": request_id, "fake": fake}
        direct = service.ask_engine(CHAT, prompt(CHAT, STREAM), **more)
        answer = service.ask(CHAT, prompt(CHAT, STREAM), **more)
        assert nameless(answer.body) == nameless(direct.body)


def test_usage_after_a_long_answer_is_known(service: Sidecar) -> None:
    """`response.completed` repeats the whole answer: the event with the usage is a long one."""
    fake = {"tokens": 30, "text": "x" * 10_000}
    answer = service.ask(RESPONSES, prompt(RESPONSES, STREAM), fake=fake)
    assert len(answer.body) > 600_000
    record = service.record(answer)
    names = ("prompt_tokens", "completion_tokens", "finish_reason")
    assert fields(record, *names) == (14, 30, "completed")


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


def test_buckets_reach_to_hours(service: Sidecar) -> None:
    service.record(service.ask(CHAT, prompt(CHAT, STREAM)))
    page = service.page()
    for name in ("request_duration_seconds", "time_to_first_token_seconds"):
        bounds = re.findall(rf'sidecar_{name}_bucket{{le="([\d.]+)"', page)
        assert max(map(float, bounds)) >= 2560


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
    made = [f"model-{new_id()}" for _ in range(30)]
    for word in made:
        ask(word)
    page = service.page()
    assert not any(word in page for word in made)
    assert len(page.splitlines()) == series
    assert set(re.findall(r'model="([^"]*)"', page)) <= {"tiny", "other"}


def test_no_timer_gathers_events(service: Sidecar) -> None:
    """20 events, 10 ms apart, come one by one."""
    chunks = 0
    with service.connect() as client:
        fake = {"tokens": 20, "interval_ms": 10}
        client.ask(CHAT, prompt(CHAT, STREAM), fake=fake)
        client.head()
        while client.chunk():
            chunks += 1
    assert chunks >= 18


def test_an_answer_of_204_has_no_body_and_breaks_no_connection(service: Sidecar) -> None:
    with service.connect() as client:
        client.ask("/ping")
        answer = client.answer(method="GET")
        assert answer.status == 200
        client.ask("/v1/models", fake={"status": 204})
        answer = client.answer(method="GET")
        assert (answer.status, answer.body) == (204, b"")
        assert answer.all("content-length") in ([], ["0"])
        client.ask("/v1/models")
        assert client.answer(method="GET").status == 200


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


def test_secrets_and_texts_are_in_no_log_and_no_metric(service: Sidecar) -> None:
    secret, text, said = "sk-verysecret", "my private question", "my private answer"
    body = {"messages": [{"role": "user", "content": text}], "stream": True, "user": "me@example"}
    for path in (CHAT, "/v1/nothing"):
        headers = [("authorization", f"Bearer {secret}"), ("x-api-key", secret)]
        answer = service.ask(f"{path}?key={secret}", body, headers=headers, fake={"text": said})
        service.record(answer)
    everything = service.text() + service.page()
    assert not [word for word in (secret, text, said, "me@example") if word in everything]


def test_an_engine_that_counts_below_zero_costs_no_log_line(service: Sidecar) -> None:
    said = json.dumps({"usage": {"prompt_tokens": -1, "completion_tokens": -1}})
    answer = service.ask(CHAT, prompt(CHAT), fake={"status": 200, "body": said})
    assert answer.body.decode() == said
    line = service.record(answer)
    assert fields(line, "outcome", "prompt_tokens", "completion_tokens") == ("ok", None, None)
