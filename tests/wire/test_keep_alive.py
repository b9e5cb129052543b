"""A connection on which the engine says nothing for long is kept busy, where that is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.fake_engine import FakeEngine
from tests.wire.client import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    PROMPT,
    RESPONSES,
    STREAM,
    Answer,
    prompt,
)
from tests.wire.service import Sidecar, ending, fields, until
from tests.wire.streams import nameless, steady

PERIOD_SECONDS = 0.1
SLOW_MS = 300
COMMENT, PING = ": keep-alive", 'event: ping\ndata: {"type": "ping"}'
MARKS = 3
WORDS = {CHAT: COMMENT, COMPLETIONS: COMMENT, RESPONSES: COMMENT, MESSAGES: PING}


@pytest.fixture(scope="module")
def kept(shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """In front of an engine that someone else runs: nobody knows what that one keeps alive."""
    seconds = str(PERIOD_SECONDS)
    environ = {"SSE_KEEP_ALIVE_SECONDS": seconds, "JSON_HEARTBEAT_SECONDS": seconds}
    folder = tmp_path_factory.mktemp("kept")
    with Sidecar(folder, shared_engine, **environ) as sidecar:
        sidecar.wait_until_ready()
        yield sidecar


def held(service: Sidecar, path: str, body: Any, mark: str = " ", **fake: Any) -> Answer:
    """The answer of an engine that begins only after its client has had `mark` three times."""
    service.engine.reset()
    with service.connect() as client:
        request_id = client.ask(path, body, fake={"hold_at": 0, **fake})
        answer = client.head()
        while answer.body.count(mark.encode()) < MARKS:
            answer.chunks.append(client.chunk())
        service.engine.release()
        while chunk := client.chunk():
            answer.chunks.append(chunk)
    answer.request_id = request_id
    return answer


@pytest.fixture(autouse=True)
def fresh(kept: Sidecar) -> Iterator[None]:
    kept.engine.reset()
    yield
    kept.wait_until_idle()


def without(answer: Answer, words: str) -> tuple[bytes, int]:
    """A stream without what was added, and how often that was."""
    events = answer.events()
    rest = [event for event in events if event != words]
    return b"".join(event.encode() + b"\n\n" for event in rest), len(events) - len(rest)


# Streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_silent_stream_is_kept_busy_in_the_words_of_its_api(kept: Sidecar, path: str) -> None:
    with kept.connect() as client:
        client.ask(path, prompt(path, STREAM), fake={"stall_at": 2})
        client.head()
        mark = f"{WORDS[path]}\n\n".encode()
        for _ in range(3):
            client.until(mark)


@pytest.mark.parametrize("path", PROMPT)
def test_nothing_else_of_the_stream_is_changed(kept: Sidecar, path: str) -> None:
    body = prompt(path, STREAM, {"max_tokens": 4})
    answer = held(kept, path, body, WORDS[path])
    rest, added = without(answer, WORDS[path])
    assert added >= MARKS
    assert len(nameless(rest)) == len(nameless(kept.ask(path, body).body))
    line = kept.record(answer)
    assert fields(line, "outcome", "completion_tokens") == ("ok", 4)
    assert line["ttft_ms"] >= MARKS * PERIOD_SECONDS * 1000, "it is no token"
    assert line["bytes_out"] == len(answer.body)


def test_the_clients_of_both_apis_read_over_it(kept: Sidecar) -> None:
    slow = {"x-fake": json.dumps({"first_ms": SLOW_MS, "text": "a"})}
    question: list[Any] = [{"role": "user", "content": "?"}]
    with anthropic.Anthropic(base_url=kept.url, api_key="none") as client:
        stream = client.messages.create(
            model="tiny", max_tokens=3, messages=question, stream=True, extra_headers=slow
        )
        kinds = [event.type for event in stream]
    assert kinds.count("content_block_delta") == 3
    assert kinds[-1] == "message_stop"
    with openai.OpenAI(base_url=f"{kept.url}/v1", api_key="none") as other:
        events = other.responses.create(
            model="tiny", input="?", max_output_tokens=3, stream=True, extra_headers=slow
        )
        last = list(events)[-1]
        answer = other.chat.completions.create(
            model="tiny", messages=question, max_tokens=3, extra_headers=slow
        )
    assert last.type == "response.completed"
    assert answer.choices[0].message.content == "aaa", "after blanks"


def test_it_stands_between_whole_events_only(kept: Sidecar) -> None:
    body = prompt(CHAT, STREAM, {"max_tokens": 1})
    fake = {"hold_at": 1, "cut": "at:300,500,700,900", "cut_ms": SLOW_MS}
    answer = held(kept, CHAT, body, COMMENT, **fake)
    assert answer.events().count(COMMENT) >= MARKS
    rest, _ = without(answer, COMMENT)
    assert rest.endswith(b"data: [DONE]\n\n")
    assert all(json.loads(event[6:]) for event in rest.split(b"\n\n")[:-2])


def test_an_event_that_is_passed_on_in_pieces_has_nothing_in_it(kept: Sidecar) -> None:
    body = prompt(CHAT, STREAM, {"max_tokens": 1})
    fake = {"event_bytes": 3_000_000, "cut": "at:2000000", "cut_ms": 500}
    answer = kept.ask(CHAT, body, fake=fake)
    rest, _ = without(answer, COMMENT)
    texts = [json.loads(event[6:]) for event in rest.split(b"\n\n")[:-2]]
    assert sum(len(json.dumps(text)) > 2_000_000 for text in texts) == 1
    assert rest.count(COMMENT.encode()) == 0


def test_a_stream_of_another_protocol_is_kept_busy_too(kept: Sidecar) -> None:
    body = {"prompt": "a", "max_tokens": 1}
    answer = held(kept, "/generate_stream", body, COMMENT, text="b")
    rest, added = without(answer, COMMENT)
    assert added >= MARKS
    assert rest.startswith(b'data: {"text":"b","index":0}\n\n')


def test_a_stream_that_is_not_silent_has_nothing_added(service: Sidecar) -> None:
    answer = service.ask(CHAT, prompt(CHAT, STREAM), fake={"first_ms": 400})
    assert COMMENT not in answer.events(), "nobody asked for it"


# JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PROMPT)
def test_a_json_answer_begins_with_blanks_while_it_is_made(kept: Sidecar, path: str) -> None:
    body = prompt(path, {"max_tokens": 2})
    answer = held(kept, path, body)
    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    assert answer.body.startswith(b" ")
    engine = kept.ask_engine(path, body, request_id=answer.request_id)
    assert steady(answer.body.lstrip(b" ")) == steady(engine.body)
    line = kept.record(answer)
    assert fields(line, "status", "outcome", "completion_tokens") == (200, "ok", 2)
    assert line["bytes_out"] == len(answer.body)


def test_a_quick_answer_is_as_ever(kept: Sidecar) -> None:
    def quick() -> bool:  # on a busy machine one may be slow
        answer = kept.ask(CHAT, prompt(CHAT))
        return (
            answer.framing == "length"
            and answer.body[:1] == b"{"
            and "server-timing" in dict(answer.headers)
        )

    until(quick, "an answer without blanks")


@pytest.mark.parametrize(
    ("fake", "outcome", "error"),
    [
        ({"status": 400}, "client_error", "BadRequestError"),
        ({"status": 500}, "engine_error", "InternalServerError"),
        ({"die": "inside_headers"}, "engine_died", "engine_died"),
    ],
    ids=["refused", "failed", "died"],
)
def test_an_error_then_comes_in_a_body_whose_status_is_200(
    kept: Sidecar, fake: dict[str, Any], outcome: str, error: str
) -> None:
    answer = held(kept, CHAT, prompt(CHAT), **fake)
    assert answer.status == 200
    assert answer.body.startswith(b" ")
    assert answer.json()["error"]["message"]
    line = kept.record(answer)
    assert fields(line, "status", "outcome", "error") == (200, outcome, error)


def test_an_error_that_breaks_off_has_the_status_that_its_client_got(kept: Sidecar) -> None:
    kept.engine.reset()
    fake = {"hold_at": 0, "status": 400, "die": "inside_event:0"}
    with kept.connect() as client:
        request_id = client.ask(CHAT, prompt(CHAT), fake=fake)
        assert client.head().status == 200
        assert client.chunk() == b" "
        kept.engine.release()
        assert not client.rest().endswith(b"0\r\n\r\n")
    assert ending(kept.record(request_id))[:2] == (200, "engine_died")


def test_an_answer_of_another_protocol_is_kept_busy_too(kept: Sidecar) -> None:
    body = {"prompt": "a", "max_tokens": 1}
    answer = held(kept, "/generate", body, text="b")
    assert (answer.body[:1], answer.json()["text"]) == (b" ", "b")
    answer = held(kept, "/generate", body, status=400)
    assert (answer.status, answer.body[:1], answer.json()["code"]) == (200, b" ", "BadRequestError")
    assert ending(kept.record(answer)) == (200, "client_error", "client", "BadRequestError")


def test_what_is_no_post_has_no_blanks(kept: Sidecar) -> None:
    """It is no question to a model, and behind the head of HEAD nothing may come."""
    for method in ("GET", "HEAD", "PUT"):
        answer = kept.ask(CHAT, prompt(CHAT), method=method, fake={"head_ms": SLOW_MS})
        assert (answer.status, answer.body[:1] == b" ") == (405, False)
        with kept.connect() as client:
            for _ in range(2):
                client.ask(CHAT, prompt(CHAT), method=method, fake={"head_ms": SLOW_MS})
            assert [client.answer(method=method).status for _ in range(2)] == [405, 405]


def test_a_client_that_leaves_meanwhile_stops_the_work(kept: Sidecar) -> None:
    with kept.connect() as client:
        request_id = client.ask(CHAT, prompt(CHAT), fake={"hang": True})
        client.head()
        client.until(b" ")
    kept.wait_until_aborted(request_id)
    assert kept.record(request_id)["outcome"] == "client_closed"
