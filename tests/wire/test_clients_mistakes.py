"""A mistake of the client's is its own, also where the engine tells it inside a 200: no operator
is called for it. And `stream` says what was asked for, whatever came."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.wire.client import CHAT, COMPLETIONS, MESSAGES, RESPONSES, STREAM, prompt
from tests.wire.service import Sidecar, ending
from tests.wire.streams import DONE, ROLE, WORD, chunked, raw
from tests.wire.test_websocket import session


def told(event: Any, name: str = "") -> bytes:
    line = f"event: {name}\n" if name else ""
    return f"{line}data: {json.dumps(event)}\n\n".encode()


def vllm(code: Any, kind: str) -> dict[str, Any]:
    """An error as vLLM 0.32 writes it into a stream of chat and completions."""
    return {"error": {"message": "m", "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("path", "begin", "code", "kind", "is_clients"),
    [
        (CHAT, b"", 400, "BadRequestError", True),
        (COMPLETIONS, ROLE + WORD, 500, "InternalServerError", False),
    ],
)
def test_an_error_event_is_the_clients_by_its_code(
    service: Sidecar, path: str, begin: bytes, code: int, kind: str, is_clients: bool
) -> None:
    body = begin + told(vllm(code, kind)) + DONE
    answer = service.ask(path, prompt(path, STREAM), fake=raw(chunked([body])))
    assert (answer.whole, answer.body) == (True, body)
    expected = ("client_error", "client") if is_clients else ("engine_error", "upstream")
    assert ending(service.record(answer)) == (200, *expected, kind)


@pytest.mark.parametrize(
    ("path", "more", "code", "who"),
    [
        (CHAT, {"object": "error", "message": "m"}, 400, "client"),
        (CHAT, {"error": "m"}, 500, "upstream"),
        (MESSAGES, {"object": "error", "message": "m"}, 500, "upstream"),
        (RESPONSES, {"error": "m"}, 400, "client"),
    ],
)
def test_an_error_event_of_an_older_vllm_is_one_too(
    service: Sidecar, path: str, more: dict[str, Any], code: int, who: str
) -> None:
    body = ROLE + told({**more, "type": "AnError", "code": code}) + DONE
    answer = service.ask(path, prompt(path, STREAM), fake=raw(chunked([body])))
    assert answer.body == body
    outcome = "client_error" if who == "client" else "engine_error"
    assert ending(service.record(answer)) == (200, outcome, who, "AnError")


@pytest.mark.parametrize(
    ("event", "outcome", "source", "error"),
    [
        ({"error": "x", "code": "invalid_json"}, "client_error", "client", "invalid_json"),
        ({"error": "m", "code": "unknown_event"}, "client_error", "client", "unknown_event"),
        ({"error": "m", "code": "model_not_found"}, "client_error", "client", "model_not_found"),
        ({"error": {"type": "invalid_request_error", "message": "m"}}, "client_error", "client",
         "invalid_request_error"),
        # vLLM says this of either side's faults, and goes on.
        ({"error": "m", "code": "processing_error"}, "ok", None, "processing_error"),
        ({"error": "secret words", "code": None}, "ok", None, "error"),
        ({"delta": '"error"'}, "ok", None, None),
    ],
)  # fmt: skip
def test_an_error_event_of_a_session_is_noted(
    service: Sidecar, event: Any, outcome: str, source: str | None, error: str | None
) -> None:
    """The engine says it because it echoes."""
    kind = {"type": "error"} if "error" in event else {"type": "transcription.delta"}
    with session(service) as (client, request_id):
        for _ in range(2):
            client.send(json.dumps(kind | event))
            client.recv(PATIENCE)
    assert ending(service.record(request_id)) == (101, outcome, source, error)


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("fake", [{"status": 400}, {"die": "before_headers"}])
def test_stream_is_what_was_asked_for_whatever_came(
    service: Sidecar, streams: bool, fake: Any
) -> None:
    answer = service.ask(CHAT, prompt(CHAT, {"stream": streams}), fake=fake)
    assert service.record(answer)["stream"] is streams


def test_stream_is_not_told_of_a_request_whose_body_was_not_read(service: Sidecar) -> None:
    refused = service.ask("/v1/unknown", prompt(CHAT, STREAM))
    unread = service.ask(CHAT, b"{", headers=[("content-type", "application/json")])
    upload = service.ask(
        "/v1/audio/transcriptions", b"x", headers=[("content-type", "multipart/form-data")]
    )
    told = [service.record(each).get("stream") for each in (refused, unread, upload)]
    assert told == [None, None, None]
    assert service.record(service.ask("/v1/models"))["stream"] is False
