"""How a failure of one request looks on the wire, in the shape of the route it is on."""

from __future__ import annotations

from typing import Any

import msgspec

from proxy.access.routes import Route
from proxy.errors import RequestFailure
from proxy.relay.headers import identity
from proxy.server.request import Headers


def refusal(
    failure: RequestFailure, request_id: bytes, *, anthropic: bool = False
) -> tuple[int, Headers, bytes]:
    """Status, headers and body of an answer that is our own, in Anthropic's shape or OpenAI's."""
    shape = _body(failure, anthropic=anthropic)
    if anthropic:
        shape["request_id"] = request_id.decode()
    body = msgspec.json.encode(shape)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *identity(request_id, anthropic=anthropic),
        (b"x-proxy-error", f"{failure.source} {failure.code}".encode()),
    ]
    headers += failure.headers
    if failure.retry_after_seconds is not None:
        headers.append((b"retry-after", b"%d" % max(1, failure.retry_after_seconds)))
    if failure.repeats_work:
        headers.append((b"x-should-retry", b"false"))
    return failure.status, headers, body


def error_event(failure: RequestFailure, route: Route, sequence_number: int = 0) -> bytes:
    """What ends a stream whose headers are out, so that it cannot look finished.

    On `/v1/responses` the fields stand twice: flat, as OpenAI documents the event, and below
    `error`, where its SDKs look before they raise. Without the second, loops over
    `create(stream=True)` of openai-python 2 and 3 and of openai-node 6 end as if all were well.
    """
    match route:
        case Route.MESSAGES:
            body = _body(failure, anthropic=True)
            return b"event: error\ndata: %b\n\n" % msgspec.json.encode(body)
        case Route.RESPONSES:
            event = {
                "type": "error",
                "code": failure.code,
                "message": failure.message,
                "param": failure.param,
                "sequence_number": sequence_number,
                **_body(failure),
            }
            return b"event: error\ndata: %b\n\n" % msgspec.json.encode(event)
        case _:
            return b"data: %b\n\ndata: [DONE]\n\n" % msgspec.json.encode(_body(failure))


def _body(failure: RequestFailure, *, anthropic: bool = False) -> dict[str, Any]:
    if anthropic:
        error = {"type": failure.anthropic_type, "message": failure.message}
        return {"type": "error", "error": error}
    return {
        "error": {
            "message": failure.message,
            "type": failure.type,
            "param": failure.param,
            "code": failure.code,
        }
    }
