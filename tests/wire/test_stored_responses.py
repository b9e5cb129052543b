"""What `/v1/responses` has generated is counted once, when its usage first comes, however often
the engine tells it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import FakeEngine
from tests.wire.client import RESPONSES, STREAM, Answer, Pairs, new_id, prompt
from tests.wire.service import Sidecar, fields
from tests.wire.streams import CHUNKED, chunk, chunked, raw, sized

USAGE = {"input_tokens": 14, "output_tokens": 6, "total_tokens": 20}
BACKGROUND = {"background": True, "store": True, "model": "tiny"}
KEYS: dict[str, Pairs] = {
    label: [("authorization", f"Bearer sk-{label}-0123456789abcdef")] for label in ("alice", "bob")
}
COUNTED = ("prompt_tokens", "completion_tokens")


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, shared_engine: FakeEngine) -> Iterator[Sidecar]:
    keys = ",".join(
        f"{label}:{value[0][1].removeprefix('Bearer ')}" for label, value in KEYS.items()
    )
    folder: Path = tmp_path_factory.mktemp("stored")
    with Sidecar(folder, shared_engine, API_KEYS=keys) as service:
        service.wait_until_ready()
        service.client.headers["authorization"] = KEYS["bob"][0][1]  # for the page of metrics
        yield service


def stored(response_id: str, status: str, **more: Any) -> dict[str, Any]:
    """A response as vLLM 0.32 tells it."""
    usage = USAGE if status in ("completed", "incomplete") else None
    response = {"id": response_id, "object": "response", "status": status, "usage": usage}
    return response | {"background": True, "output": [], "error": None} | more


def event(kind: str, **more: Any) -> bytes:
    name = f"response.{kind}"
    return f"event: {name}\ndata: {json.dumps({'type': name, **more})}\n\n".encode()


def events(response_id: str) -> list[bytes]:
    """A stream of a background response, which vLLM replays."""
    running = stored(response_id, "in_progress")
    return [
        event("created", response=running, sequence_number=0),
        event("in_progress", response=running, sequence_number=1),
        *(event("output_text.delta", delta="a", sequence_number=n) for n in range(2, 6)),
        event("completed", response=stored(response_id, "completed"), sequence_number=6),
    ]


class Asking:
    """Requests about responses, by one key or another; the engine says what a test wants."""

    def __init__(self, service: Sidecar) -> None:
        self.service = service

    def create(self, said: dict[str, Any], key: str = "alice") -> Answer:
        wire = sized(json.dumps(said).encode())
        body = prompt(RESPONSES, BACKGROUND)
        return self.service.ask(RESPONSES, body, fake=raw(wire), headers=KEYS[key])

    def get(self, said: dict[str, Any], key: str = "alice", **more: Any) -> Answer:
        wire = sized(json.dumps(said).encode())
        path = f"{RESPONSES}/{said['id']}{more.pop('then', '')}"
        return self.service.ask(path, fake=raw(wire), headers=KEYS[key], **more)

    def replay(self, response_id: str, key: str = "alice") -> Answer:
        wire = chunked(events(response_id))
        path = f"{RESPONSES}/{response_id}?stream=true"
        return self.service.ask(path, fake=raw(wire), headers=KEYS[key])

    def counted(self, answer: Answer | str) -> tuple[Any, ...]:
        return fields(self.service.record(answer), *COUNTED)

    def totals(self) -> tuple[float, float, float]:
        """Tokens of the route, and what each key was charged."""
        names = ("sidecar_prompt_tokens_total", "sidecar_completion_tokens_total")
        tokens = sum(self.service.value(name, route="responses") for name in names)
        charged = [self.service.value("sidecar_key_tokens_total", key=key) for key in KEYS]
        return tokens, charged[0], charged[1]


@pytest.fixture
def asking(keyed: Sidecar) -> Asking:
    return Asking(keyed)


@pytest.fixture
def used(asking: Asking) -> Any:
    """What has been counted since the test began: in all, by alice, by bob."""
    before = asking.totals()
    return lambda: tuple(late - early for late, early in zip(asking.totals(), before, strict=True))


def test_a_stored_response_is_counted_when_it_is_made_and_never_again(
    asking: Asking, used: Any
) -> None:
    said = stored("resp_" + new_id(), "completed", background=False)
    assert asking.counted(asking.create(said)) == (14, 6)
    for _ in range(3):
        assert asking.counted(asking.get(said)) == (None, None)
        assert asking.counted(asking.get(said, key="bob")) == (None, None)
    assert used() == (20, 20, 0)


def test_a_background_response_is_counted_by_the_first_answer_that_shows_it_whole(
    asking: Asking, used: Any
) -> None:
    response_id = "resp_" + new_id()
    assert asking.counted(asking.create(stored(response_id, "queued"))) == (None, None)
    assert asking.counted(asking.get(stored(response_id, "in_progress"))) == (None, None)
    assert used() == (0, 0, 0)
    whole = stored(response_id, "completed")
    assert asking.counted(asking.get(whole)) == (14, 6)
    for _ in range(3):
        assert asking.counted(asking.get(whole)) == (None, None)
    assert asking.counted(asking.replay(response_id)) == (None, None)
    assert used() == (20, 20, 0)


def test_who_made_it_pays_and_not_who_fetches_it(asking: Asking, used: Any) -> None:
    response_id = "resp_" + new_id()
    asking.create(stored(response_id, "queued"), key="alice")
    line = asking.service.record(asking.get(stored(response_id, "incomplete"), key="bob"))
    assert fields(line, "key", "model", *COUNTED) == ("bob", "tiny", 14, 6)
    assert used() == (20, 20, 0)


def test_what_another_sidecar_was_asked_for_is_not_counted_here(asking: Asking, used: Any) -> None:
    assert asking.counted(asking.get(stored("resp_" + new_id(), "completed"))) == (None, None)
    assert used() == (0, 0, 0)


def test_a_replayed_stream_generates_nothing(asking: Asking, used: Any) -> None:
    response_id = "resp_" + new_id()
    asking.create(stored(response_id, "queued"))
    first, second = asking.replay(response_id), asking.replay(response_id)
    assert first.body == second.body == b"".join(events(response_id))
    timing = ("generated_events", "ttft_ms", "itl_mean_ms", "tokens_per_second")
    for answer, tokens in ((first, (14, 6)), (second, (None, None))):
        line = asking.service.record(answer)
        assert fields(line, "stream", "outcome", *timing) == (True, "ok", *(None,) * 4)
        assert fields(line, *COUNTED) == tokens
    assert used() == (20, 20, 0)


def test_a_streamed_background_response_is_counted_at_its_end(asking: Asking, used: Any) -> None:
    response_id = "resp_" + new_id()
    body = prompt(RESPONSES, BACKGROUND, STREAM)
    answer = asking.service.ask(
        RESPONSES, body, fake=raw(chunked(events(response_id))), headers=KEYS["alice"]
    )
    assert asking.counted(answer) == (14, 6)
    assert asking.counted(asking.get(stored(response_id, "completed"))) == (None, None)
    assert used() == (20, 20, 0)


def test_the_rest_of_a_background_stream_that_was_left_is_counted_when_it_is_fetched(
    asking: Asking, used: Any
) -> None:
    """It goes on without its client: what was charged then is not charged again."""
    response_id = "resp_" + new_id()
    begin = CHUNKED + b"".join(map(chunk, events(response_id)[:-1]))
    with asking.service.connect() as client:
        body = prompt(RESPONSES, BACKGROUND, STREAM)
        request_id = client.ask(RESPONSES, body, fake=raw(begin), headers=KEYS["alice"])
        client.until(b'"sequence_number": 5')
        early = asking.get(stored(response_id, "completed"))
        assert asking.counted(early) == (None, None), "its own stream will tell"
    line = asking.service.record(request_id)
    assert fields(line, "outcome", "generated_events", *COUNTED) == ("client_closed", 4, None, None)
    assert used() == (0, 4, 0)
    assert asking.counted(asking.get(stored(response_id, "completed"))) == (14, 6)
    assert used() == (20, 20, 0)


def test_a_cancelled_response_has_no_usage(asking: Asking, used: Any) -> None:
    response_id = "resp_" + new_id()
    asking.create(stored(response_id, "queued"))
    cancelled = stored(response_id, "cancelled")
    answer = asking.get(cancelled, then="/cancel", method="POST")
    line = asking.service.record(answer)
    assert fields(line, "outcome", "finish_reason", *COUNTED) == ("ok", "cancelled", None, None)
    assert asking.counted(asking.get(stored(response_id, "completed"))) == (None, None)
    assert used() == (0, 0, 0)


def test_the_failure_of_a_background_response_is_noted_once(asking: Asking) -> None:
    response_id = "resp_" + new_id()
    asking.create(stored(response_id, "queued"))
    failed = stored(response_id, "failed", error={"code": "server_error", "message": "m"})
    outcomes = [asking.service.record(asking.get(failed))["outcome"] for _ in range(3)]
    assert outcomes == ["engine_error", "ok", "ok"]


def test_a_response_that_is_not_there_is_the_clients_mistake(asking: Asking) -> None:
    error = {"type": "invalid_request_error", "message": "not found", "code": 404}
    wire = sized(json.dumps({"error": error}).encode(), status=b"404 Not Found")
    answer = asking.service.ask(f"{RESPONSES}/resp_x", fake=raw(wire), headers=KEYS["alice"])
    line = asking.service.record(answer)
    assert fields(line, "outcome", "error") == ("client_error", "invalid_request_error")
