"""How an error of ours looks on the wire."""

from __future__ import annotations

import json

import pytest

from proxy import errors
from proxy.access.routes import Route
from proxy.errors import RequestFailure
from proxy.relay.headers import speaks_anthropic
from proxy.relay.refusal import error_event, refusal
from proxy.server.request import Headers
from tests.proxy.server.exchanges import request_of

FAILURES = sorted(RequestFailure.__subclasses__(), key=lambda leaf: leaf.__name__)
QUOTES = 'It said: "no"\n\n→ ünïcödé'


# Status, type and code in OpenAI's shape, type in Anthropic's: what clients act on.
CLIENTS_FAULT = "invalid_request_error"
SHAPES: dict[type[RequestFailure], tuple[int, str, str, str]] = {
    errors.Unauthorized: (401, CLIENTS_FAULT, "invalid_api_key", "authentication_error"),
    errors.OriginNotAllowed: (403, CLIENTS_FAULT, "origin_not_allowed", "permission_error"),
    errors.HostNotAllowed: (403, CLIENTS_FAULT, "host_not_allowed", "permission_error"),
    errors.AdminOnly: (403, CLIENTS_FAULT, "admin_only", "permission_error"),
    errors.ModelConflict: (409, CLIENTS_FAULT, "model_conflict", CLIENTS_FAULT),
    errors.NoWebSocket: (426, CLIENTS_FAULT, "no_websocket", CLIENTS_FAULT),
    errors.UnknownRoute: (404, CLIENTS_FAULT, "unknown_route", "not_found_error"),
    errors.RouteNotServed: (404, CLIENTS_FAULT, "route_not_served", "not_found_error"),
    errors.ModelNotFound: (404, CLIENTS_FAULT, "model_not_found", "not_found_error"),
    errors.MethodNotAllowed: (405, CLIENTS_FAULT, "method_not_allowed", CLIENTS_FAULT),
    errors.MalformedRequest: (400, CLIENTS_FAULT, "malformed_request", CLIENTS_FAULT),
    errors.InvalidRequest: (400, CLIENTS_FAULT, "invalid_request", CLIENTS_FAULT),
    errors.RequestTimeout: (408, CLIENTS_FAULT, "request_timeout", "timeout_error"),
    errors.HeadTooLarge: (431, CLIENTS_FAULT, "head_too_large", CLIENTS_FAULT),
    errors.BodyTooLarge: (413, CLIENTS_FAULT, "body_too_large", "request_too_large"),
    errors.MediaRefused: (400, CLIENTS_FAULT, "media_url_refused", CLIENTS_FAULT),
    errors.MediaUnavailable: (400, CLIENTS_FAULT, "media_fetch_failed", CLIENTS_FAULT),
    errors.PoisonedRequest: (422, CLIENTS_FAULT, "request_kills_engine", CLIENTS_FAULT),
    errors.RateLimited: (429, "requests", "rate_limit_exceeded", "rate_limit_error"),
    errors.QuotaExceeded: (429, "insufficient_quota", "insufficient_quota", "rate_limit_error"),
    errors.ClientClosed: (499, "client_closed", "client_closed", CLIENTS_FAULT),
    errors.Draining: (503, "server_error", "draining", "overloaded_error"),
    errors.CutOff: (503, "server_error", "cut_off", "overloaded_error"),
    errors.Overloaded: (503, "server_error", "overloaded", "overloaded_error"),
    errors.InternalFailure: (500, "server_error", "internal_error", "api_error"),
    errors.EngineUnavailable: (503, "server_error", "engine_unavailable", "overloaded_error"),
    errors.EngineFailed: (503, "server_error", "engine_failed", "overloaded_error"),
    errors.EngineUnreachable: (503, "server_error", "engine_unreachable", "overloaded_error"),
    errors.EngineDied: (502, "server_error", "engine_died", "api_error"),
    errors.InvalidEngineResponse: (502, "server_error", "engine_garbled", "api_error"),
    errors.EngineTimeout: (504, "server_error", "engine_timeout", "timeout_error"),
}


def test_the_table_has_every_failure() -> None:
    assert {*FAILURES, errors.EngineFailed} == SHAPES.keys()


@pytest.mark.parametrize("leaf", SHAPES)
def test_each_failure_has_the_shape_of_the_api_that_is_spoken(leaf: type[RequestFailure]) -> None:
    expected, kind, code, anthropic_kind = SHAPES[leaf]
    failure = leaf(QUOTES, param="model")
    status, _, body = refusal(failure, b"id")
    assert status == expected
    error = {"message": QUOTES, "type": kind, "param": "model", "code": code}
    assert json.loads(body) == {"error": error}
    status, headers, body = refusal(failure, b"id", anthropic=True)
    assert (status, dict(headers)[b"request-id"]) == (expected, b"id")
    told = {"type": anthropic_kind, "message": QUOTES}
    assert json.loads(body) == {"type": "error", "error": told, "request_id": "id"}
    # The third is that of events in a stream of responses.
    (event,) = events(error_event(failure, Route.RESPONSES, 7))
    assert event["event"] == "error"
    flat = {"message": QUOTES, "param": "model", "code": code}
    written = {"type": "error", "sequence_number": 7, "error": error, **flat}
    assert json.loads(event["data"]) == written


VERSION = (b"anthropic-version", b"2023-06-01")


@pytest.mark.parametrize(
    ("route", "path", "headers", "anthropic"),
    [
        (Route.MESSAGES, "/v1/messages", [], True),
        (Route.UNKNOWN, "/v1/messages/batches", [], True),
        (Route.UNKNOWN, "/v1/messagesx", [], False),
        (Route.UNKNOWN, "/v1/files", [VERSION], True),
        (Route.MODELS, "/v1/models", [VERSION], True),
        (Route.MODELS, "/v1/models/x", [], False),
        (Route.CHAT, "/v1/chat/completions", [VERSION], False),
    ],
)
def test_the_path_or_a_header_says_which_api_is_spoken(
    route: Route, path: str, headers: Headers, anthropic: bool
) -> None:
    assert speaks_anthropic(route, request_of(target=path.encode(), headers=headers)) is anthropic


def test_a_parameter_that_is_not_known_is_null_not_missing() -> None:
    _, _, body = refusal(errors.UnknownRoute("No."), b"id")
    assert json.loads(body)["error"]["param"] is None


@pytest.mark.parametrize("leaf", FAILURES)
def test_headers_tell_who_failed_and_which_request(leaf: type[RequestFailure]) -> None:
    status, headers, body = refusal(leaf("Too bad."), b"id-7")
    assert status == leaf.status
    named = dict(headers)
    assert named[b"x-proxy-error"] == f"{leaf.source} {leaf.code}".encode()
    assert named[b"x-request-id"] == b"id-7"
    assert named[b"content-type"] == b"application/json"
    assert named[b"content-length"] == str(len(body)).encode()


@pytest.mark.parametrize("leaf", FAILURES)
def test_clients_are_told_not_to_retry_only_what_would_repeat_work(
    leaf: type[RequestFailure],
) -> None:
    _, headers, _ = refusal(leaf("Too bad."), b"id")
    assert dict(headers).get(b"x-should-retry") == (b"false" if leaf.repeats_work else None)


@pytest.mark.parametrize(("seconds", "sent"), [(None, None), (-5, b"1"), (0, b"1"), (59, b"59")])
def test_retry_after_is_the_truth_and_at_least_a_second(
    seconds: int | None, sent: bytes | None
) -> None:
    failure = errors.EngineUnavailable("Loading.", retry_after_seconds=seconds)
    assert dict(refusal(failure, b"id")[1]).get(b"retry-after") == sent


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
