"""Promise 4: a broken stream never looks finished, and every failure says whose it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import MAX_HEEDED_SECONDS
from tests.fake_engine import FakeEngine
from tests.wire.client import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    NO_USAGE,
    RESPONSES,
    STREAM,
    Answer,
    new_id,
    prompt,
)
from tests.wire.service import Sidecar, ending, fields, until
from tests.wire.streams import CHUNKED, HEAD, ROLE, WORD, chunk, chunked, raw, sized, steady

ROUTES = [CHAT, COMPLETIONS, MESSAGES, RESPONSES]
DIED = ("upstream", "engine_died")
GARBLED = ("upstream", "engine_garbled")
OUTCOME = {"engine_died": "engine_died", "engine_garbled": "engine_error"}


def assert_ends_as_broken(answer: Answer, path: str, code: str) -> None:
    """The last event tells what happened, in the words of the API, and only that is last."""
    assert (answer.status, answer.whole) == (200, True)
    *_, last = events = answer.events()
    assert events.count("data: [DONE]") == (path in (CHAT, COMPLETIONS))
    if path in (CHAT, COMPLETIONS):
        assert last == "data: [DONE]"
        last = events[-2]
        assert last.startswith("data: {")
        error = json.loads(last[6:])["error"]
        assert (error["type"], error["param"], error["code"]) == ("server_error", None, code)
        return
    name, _, text = last.partition("\ndata: ")
    assert name == "event: error"
    error = json.loads(text)
    assert error["type"] == "error"
    assert not any("message_stop" in event or "response.completed" in event for event in events)
    if path == MESSAGES:
        expected = "timeout_error" if code == "engine_timeout" else "api_error"
        assert error["error"]["type"] == expected
        assert error["error"]["message"]
    else:
        assert (error["code"], error["param"]) == (code, None)
        assert error["message"]
        # Its SDKs raise where there is this, and only there.
        assert error["error"]["message"] == error["message"]
        # No client of them takes an event that comes twice for a new one.
        assert error["sequence_number"] == len(events) - 1


PLACES = ["after_headers", "between_events:3", "inside_event:3", "inside_chunk:3"]


@pytest.mark.parametrize(
    ("path", "where", "how"),
    [
        *((CHAT, where, how) for where in PLACES for how in ("close", "rst")),
        *((path, "inside_event:3", "close") for path in ROUTES[1:]),
        *((path, "after_headers", "rst") for path in ROUTES[1:]),
    ],
)
def test_a_death_in_a_stream_is_told(service: Sidecar, path: str, where: str, how: str) -> None:
    fake = {"die": where, "how": how}
    request_id = new_id()
    answer = service.ask(path, prompt(path, STREAM), request_id=request_id, fake=fake)
    assert_ends_as_broken(answer, path, "engine_died")
    assert ending(service.record(answer)) == (200, "engine_died", *DIED)
    assert service.ask(path, prompt(path, STREAM)).whole


@pytest.mark.parametrize("where", ["between_events:3", "inside_event:3", "inside_chunk:3"])
def test_what_came_before_a_death_is_passed_on_in_whole_events(
    service: Sidecar, where: str
) -> None:
    request_id = new_id()
    whole = service.ask_engine(CHAT, prompt(CHAT, NO_USAGE), request_id=request_id)
    answer = service.ask(CHAT, prompt(CHAT, STREAM), request_id=request_id, fake={"die": where})
    before = b"".join(event + b"\n\n" for event in whole.body.split(b"\n\n")[:3])
    told = answer.body.index(b'data: {"error":')
    assert steady(answer.body[:told]) == steady(before)


def test_a_death_at_any_byte_of_a_stream_is_told(service: Sidecar) -> None:
    wire = CHUNKED + chunk(ROLE) + chunk(WORD) + b"0\r\n"
    for at in range(len(CHUNKED), len(wire) + 1, 3):
        answer = service.ask(CHAT, prompt(CHAT, STREAM), fake=raw(wire[:at], close_after=True))
        assert_ends_as_broken(answer, CHAT, "engine_died")
        for event in answer.events()[:-1]:
            json.loads(event.removeprefix("data: "))


@pytest.mark.parametrize("newline", ["lf", "crlf", "cr"])
def test_a_death_inside_an_event_of_5_mb_is_told(service: Sidecar, newline: str) -> None:
    fake = {"event_bytes": 5_000_000, "tokens": 2, "die": "inside_event:1", "newline": newline}
    answer = service.ask(CHAT, prompt(CHAT, STREAM), fake=fake)
    assert answer.whole
    error, done = answer.body.split(b"\n\n")[-3:-1]
    assert json.loads(error[6:])["error"]["code"] == "engine_died"
    assert done == b"data: [DONE]"


@pytest.mark.parametrize("path", ROUTES)
def test_garbage_inside_a_stream_is_told(service: Sidecar, path: str) -> None:
    answer = service.ask(path, prompt(path, STREAM), fake={"garbage": "between_events:3"})
    assert_ends_as_broken(answer, path, "engine_garbled")
    assert ending(service.record(answer)) == (200, "engine_error", *GARBLED)


def test_a_stream_with_a_declared_length_that_ends_early_is_told(service: Sidecar) -> None:
    fake = raw(HEAD + b"content-length: 9999\r\n\r\n" + ROLE + WORD, close_after=True)
    answer = service.ask(CHAT, prompt(CHAT, STREAM), fake=fake)
    assert answer.body.startswith(ROLE + WORD)
    assert_ends_as_broken(answer, CHAT, "engine_died")


def test_a_reset_of_a_stream_that_ends_with_its_connection_is_told(service: Sidecar) -> None:
    fake = {"http10": True, "die": "between_events:3", "how": "rst"}
    answer = service.ask(CHAT, prompt(CHAT, STREAM), fake=fake)
    assert_ends_as_broken(answer, CHAT, "engine_died")


@pytest.mark.parametrize(
    ("path", "newline"), [(CHAT, "lf"), (CHAT, "crlf"), (COMPLETIONS, "lf"), (MESSAGES, "crlf")]
)
def test_an_error_that_the_engine_tells_is_not_told_twice(
    service: Sidecar, path: str, newline: str
) -> None:
    fake = {"error_event_at": 3, "newline": newline}
    request_id = new_id()
    options = NO_USAGE if path != MESSAGES else STREAM
    direct = service.ask_engine(path, prompt(path, options), request_id=request_id, fake=fake)
    answer = service.ask(path, prompt(path, STREAM), request_id=request_id, fake=fake)
    assert steady(answer.body) == steady(direct.body)
    error = "internal_error" if path == MESSAGES else "InternalServerError"
    assert ending(service.record(answer)) == (200, "engine_error", "upstream", error)


def test_a_bare_end_of_a_responses_stream_is_told(service: Sidecar) -> None:
    """That is how vLLM ends it when its engine dies."""
    answer = service.ask(RESPONSES, prompt(RESPONSES, STREAM), fake={"error_event_at": 3})
    assert_ends_as_broken(answer, RESPONSES, "engine_died")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("options", [{}, STREAM], ids=["whole", "stream"])
def test_an_aborted_generation_is_logged_as_an_error(
    service: Sidecar, path: str, options: Any
) -> None:
    """vLLM answers 200 with `finish_reason: abort` when it is being stopped."""
    answer = service.ask(path, prompt(path, options), fake={"finish_reason": "abort"})
    record = service.record(answer)
    assert ending(record) == (200, "engine_error", "upstream", "abort")
    assert record["finish_reason"] == "abort"


# Before the headers


DIES = ({"die": "before_headers"}, "engine_died")


@pytest.mark.parametrize("options", [{}, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("fake", "code"),
    [
        DIES,
        ({"die": "before_headers", "how": "rst"}, "engine_died"),
        ({"die": "inside_headers"}, "engine_died"),
        ({"die": "inside_headers", "how": "rst"}, "engine_died"),
        ({"garbage": "before_headers"}, "engine_garbled"),
        (raw(b"HTTP/1.1 2000 OK\r\n\r\n"), "engine_garbled"),
        (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "engine_garbled"),
        (raw(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n"), "engine_garbled"),
        (
            raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"),
            "engine_garbled",
        ),
        (
            raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
            "engine_garbled",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value)[:40],
)
def test_a_failure_before_the_headers_is_an_answer(
    service: Sidecar, options: Any, fake: Any, code: str
) -> None:
    assert_is_502(service, CHAT, options, fake, code)


@pytest.mark.parametrize("path", ROUTES[1:])
def test_so_it_is_in_the_words_of_each_api(service: Sidecar, path: str) -> None:
    assert_is_502(service, path, STREAM, *DIES)


def assert_is_502(service: Sidecar, path: str, options: Any, fake: Any, code: str) -> None:
    answer = service.ask(path, prompt(path, options), fake=fake)
    assert (answer.status, answer.whole) == (502, True)
    assert_is_refusal(answer, path, code)
    # The engine may have begun: to ask again would make it do the work twice.
    assert answer.header("x-should-retry") == "false"
    assert answer.all("retry-after") == []
    assert ending(service.record(answer)) == (502, OUTCOME[code], "upstream", code)


def assert_is_refusal(answer: Answer, path: str, code: str, source: str = "upstream") -> None:
    assert answer.header("content-type") == "application/json"
    assert answer.header("x-proxy-error") == f"{source} {code}"
    assert answer.header("x-request-id") == answer.request_id
    body = answer.json()
    assert "Traceback" not in answer.body.decode()
    if path == MESSAGES:
        assert body["type"] == "error"
        assert set(body) == {"type", "error", "request_id"}
        assert body["request_id"] == answer.header("request-id") == answer.request_id
        assert set(body["error"]) == {"type", "message"}
    else:
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["code"] == code
    assert body["error"]["message"]


def test_a_status_that_does_not_exist_is_an_answer_too(service: Sidecar) -> None:
    for status in (b"600 Odd", b"999 Odder"):
        answer = service.ask(CHAT, prompt(CHAT), fake=raw(sized(b"{}", status=status)))
        assert answer.whole
        assert answer.status in (502, int(status[:3]))


# Whole answers


def test_a_compressed_stream_that_ends_early_is_told(service: Sidecar) -> None:
    answer = service.ask(
        CHAT, prompt(CHAT, NO_USAGE), fake={"gzip": True, "die": "between_events:3"}
    )
    assert_ends_as_broken(answer, CHAT, "engine_died")
    assert ending(service.record(answer)) == (200, "engine_died", *DIED)


@pytest.mark.parametrize("how", ["close", "rst"])
def test_a_whole_answer_that_ends_early_is_not_whole(service: Sidecar, how: str) -> None:
    fake = {"content_length": 500, "die": "between_events:1", "how": how}
    wire = sized(b"x" * 1000)[:-400]
    fake = raw(wire, close_after=True) if how == "close" else fake
    answer = service.ask(CHAT, prompt(CHAT), fake=fake)
    assert answer.status == 200
    assert not answer.whole
    assert ending(service.record(answer)) == (200, "engine_died", *DIED)


def test_a_chunked_whole_answer_that_ends_early_is_not_whole(service: Sidecar) -> None:
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    for end in (b"", b"5\r\n", b"5\r\nab", b"zz\r\n", b"0\r\n"):
        fake = raw(head + chunk(b'{"a":') + end, close_after=True)
        answer = service.ask(CHAT, prompt(CHAT), fake=fake)
        assert (answer.status, answer.whole, answer.body[:5]) == (200, False, b'{"a":')
        outcome = "engine_error" if end == b"zz\r\n" else "engine_died"
        assert fields(service.record(answer), "status", "outcome") == (200, outcome)


# Time limits


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_an_engine_that_does_not_answer_is_a_504(impatient_service: Sidecar, path: str) -> None:
    answer = impatient_service.ask(path, prompt(path), fake={"hang": True})
    assert answer.status == 504
    assert_is_refusal(answer, path, "engine_timeout")
    assert answer.header("x-should-retry") == "false"
    expected = (504, "timeout", "upstream", "engine_timeout")
    assert ending(impatient_service.record(answer)) == expected
    impatient_service.wait_until_aborted(answer.request_id)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_stream_that_falls_silent_is_told(impatient_service: Sidecar, path: str) -> None:
    answer = impatient_service.ask(path, prompt(path, STREAM), fake={"stall_at": 3})
    assert_ends_as_broken(answer, path, "engine_timeout")
    expected = (200, "timeout", "upstream", "engine_timeout")
    assert ending(impatient_service.record(answer)) == expected
    impatient_service.wait_until_aborted(answer.request_id)


def test_a_stream_that_takes_too_long_is_told(shared_engine: FakeEngine, tmp_path: Path) -> None:
    with Sidecar(tmp_path, shared_engine, REQUEST_TIMEOUT="1") as service:
        service.wait_until_ready()
        answer = service.ask(CHAT, prompt(CHAT, STREAM), fake={"stall_at": 3})
    assert_ends_as_broken(answer, CHAT, "engine_timeout")
    assert b"REQUEST_TIMEOUT=1 s" in answer.body


# An engine that is not there


def test_an_engine_that_is_gone_is_an_answer(tmp_path: Path) -> None:
    with FakeEngine() as engine, Sidecar(tmp_path, engine) as service:
        service.wait_until_ready()
        with service.connect() as client:
            request_id = client.ask(CHAT, prompt(CHAT, STREAM), fake={"stall_at": 3})
            client.until(b"\n\n")
            engine.stop()
            assert b"engine_died" in client.until(b"data: [DONE]\n\n")
        assert ending(service.record(request_id)) == (200, "engine_died", *DIED)
        answer = service.ask(CHAT, prompt(CHAT))
        code = answer.json()["error"]["code"]
        if code == "engine_unreachable":  # not yet noticed: the request had to find out
            assert answer.status == 503
            assert_is_refusal(answer, CHAT, "engine_unreachable")
            assert 1 <= int(answer.header("retry-after")) <= MAX_HEEDED_SECONDS
            assert answer.all("x-should-retry") == []
        until(lambda: service.health()["phase"] == "degraded", "a state that has followed")
        for path in ROUTES:
            answer = service.ask(path, prompt(path, STREAM))
            assert answer.status == 503
            assert_is_refusal(answer, path, "engine_unavailable")
            assert 1 <= int(answer.header("retry-after")) <= MAX_HEEDED_SECONDS
            # Nothing was generated: a client may well ask again.
            assert answer.all("x-should-retry") == []
            expected = (503, "engine_unavailable", "upstream", "engine_unavailable")
            assert ending(service.record(answer)) == expected
        assert service.value("sidecar_requests_in_flight") == 0


def test_a_stream_ended_properly_but_without_done_is_left_as_it_is(service: Sidecar) -> None:
    answer = service.ask(CHAT, prompt(CHAT, STREAM), fake=raw(chunked([ROLE, WORD])))
    assert (answer.whole, answer.body) == (True, ROLE + WORD)
    assert fields(service.record(answer), "outcome") == ("ok",)


@pytest.mark.parametrize(
    "codings",
    [
        [b"gzip, chunked"],
        [b"gzip", b"chunked"],
        [b"gzip"],
        [b"identity"],
        [b"chunked, chunked"],
        [b"chunked\t"],
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", [b"application/json", b"text/event-stream"])
def test_a_transfer_coding_that_nobody_asked_for_is_garbled(
    service: Sidecar, codings: list[bytes], kind: bytes
) -> None:
    """The header belongs to the hop: without it the client would take gzip for text."""
    lines = b"".join(b"transfer-encoding: %b\r\n" % coding for coding in codings)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b\r\n" % (kind, lines)
    wire = head + chunk(b"\x1f\x8b\x08") + b"0\r\n\r\n"
    answer = service.ask(CHAT, prompt(CHAT, STREAM), fake=raw(wire, close_after=True))
    assert answer.status == 502
    assert ending(service.record(answer)) == (502, "engine_error", *GARBLED)
    assert service.ask(CHAT, prompt(CHAT)).whole


@pytest.mark.parametrize("coding", [b"chunked", b" Chunked"], ids=repr)
def test_chunks_are_chunks_however_they_are_written(service: Sidecar, coding: bytes) -> None:
    head = HEAD + b"transfer-encoding:%b\r\n\r\n" % coding
    wire = head + chunk(ROLE + b"data: [DONE]\n\n") + b"0\r\n\r\n"
    answer = service.ask(CHAT, prompt(CHAT, STREAM), fake=raw(wire))
    assert (answer.whole, answer.body) == (True, ROLE + b"data: [DONE]\n\n")
