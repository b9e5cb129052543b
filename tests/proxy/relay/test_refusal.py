"""How an error of ours looks on the wire."""

from __future__ import annotations

import json

import pytest

from proxy import errors
from proxy.edge.routes import Route
from proxy.errors import RequestFailure
from proxy.relay.headers import get
from proxy.relay.refusal import error_event, refusal

FAILURES = sorted(RequestFailure.__subclasses__(), key=lambda leaf: leaf.__name__)
QUOTES = 'It said: "no"\n\n→ ünïcödé'


@pytest.mark.parametrize("route", [None, *Route])
def test_an_error_has_the_shape_of_the_api_it_is_about(route: Route | None) -> None:
    _, _, body = refusal(errors.EngineDied(QUOTES, param="model"), route, b"id")
    if route in (Route.MESSAGES, Route.COUNT_TOKENS):
        error = {"type": "api_error", "message": QUOTES}
        assert json.loads(body) == {"type": "error", "error": error}
    else:
        error = {"message": QUOTES, "type": "server_error", "param": "model", "code": "engine_died"}
        assert json.loads(body) == {"error": error}


def test_a_parameter_that_is_not_known_is_null_not_missing() -> None:
    _, _, body = refusal(errors.UnknownRoute("No."), None, b"id")
    assert json.loads(body)["error"]["param"] is None


@pytest.mark.parametrize("leaf", FAILURES)
def test_headers_tell_who_failed_and_which_request(leaf: type[RequestFailure]) -> None:
    status, headers, body = refusal(leaf("Too bad."), Route.CHAT, b"id-7")
    assert status == leaf.status
    assert get(headers, b"x-proxy-error") == f"{leaf.source} {leaf.code}".encode()
    assert get(headers, b"x-request-id") == b"id-7"
    assert get(headers, b"content-type") == b"application/json"
    assert get(headers, b"content-length") == str(len(body)).encode()


@pytest.mark.parametrize("leaf", FAILURES)
def test_clients_are_told_not_to_retry_only_what_would_repeat_work(
    leaf: type[RequestFailure],
) -> None:
    _, headers, _ = refusal(leaf("Too bad."), Route.CHAT, b"id")
    assert get(headers, b"x-should-retry") == (b"false" if leaf.repeats_work else None)


@pytest.mark.parametrize(
    ("seconds", "sent"),
    [(None, None), (-5, b"1"), (0, b"1"), (1, b"1"), (59, b"59"), (3600, b"3600")],
)
def test_retry_after_is_the_truth_and_at_least_a_second(
    seconds: int | None, sent: bytes | None
) -> None:
    failure = errors.EngineUnavailable("Loading.", retry_after_seconds=seconds)
    assert get(refusal(failure, Route.CHAT, b"id")[1], b"retry-after") == sent


def events(data: bytes) -> list[dict[str, str]]:
    """Name and data of each event, by the rules of server-sent events."""
    found = []
    for block in data.decode().split("\n\n")[:-1]:
        lines = [line.partition(": ") for line in block.split("\n")]
        found.append({name: value for name, _, value in lines})
    assert data.endswith(b"\n\n")
    return found


@pytest.mark.parametrize("route", [Route.CHAT, Route.COMPLETIONS, Route.AUDIO, Route.EXTRA])
def test_a_broken_stream_of_openai_ends_with_an_error_and_then_done(route: Route) -> None:
    error, done = events(error_event(errors.EngineDied(QUOTES), route))
    assert json.loads(error["data"])["error"]["message"] == QUOTES
    assert json.loads(error["data"])["error"]["code"] == "engine_died"
    assert error.keys() == done.keys() == {"data"}
    assert done["data"] == "[DONE]"


def test_a_broken_stream_of_messages_ends_with_an_error_event() -> None:
    (error,) = events(error_event(errors.EngineTimeout(QUOTES), Route.MESSAGES))
    assert error["event"] == "error"
    body = {"type": "timeout_error", "message": QUOTES}
    assert json.loads(error["data"]) == {"type": "error", "error": body}


def test_a_broken_stream_of_responses_ends_with_an_error_event() -> None:
    (error,) = events(error_event(errors.EngineDied(QUOTES), Route.RESPONSES, 7))
    assert error["event"] == "error"
    words = {"code": "engine_died", "message": QUOTES, "param": None}
    expected = {"type": "error", "sequence_number": 7, **words}
    assert json.loads(error["data"]) == {**expected, "error": {"type": "server_error", **words}}
