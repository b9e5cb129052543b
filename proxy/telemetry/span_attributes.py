"""A record as a span has it: the fields of the log line, by the names of OpenTelemetry.

HTTP and GenAI semantic conventions where they have a name, else `sidecar.` and the field's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from proxy.access.routes import OPERATIONS
from proxy.telemetry.record import Outcome, Record
from proxy.telemetry.request_log import present_fields

Attribute = str | bool | int | float | list[str]

_NAMES = {
    "method": "http.request.method",
    "path": "url.path",
    "status": "http.response.status_code",
    "bytes_in": "http.request.body.size",
    "bytes_out": "http.response.body.size",
    "client": "client.address",
    "user_agent": "user_agent.original",
    "error": "error.type",
    "model": "gen_ai.request.model",
    "stream": "gen_ai.request.stream",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    "finish_reason": "gen_ai.response.finish_reasons",
}
# A span has these of its own.
_SPANS_OWN = ("trace_id", "duration_ms")

# A method is whatever a client writes; the name of a span is not.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"})
_OTHER_METHOD = "_OTHER"

# Failures of the server. A request that the client has spoilt, or left, is none of them.
_FAILED = frozenset(
    {
        Outcome.TIMEOUT,
        Outcome.ENGINE_ERROR,
        Outcome.ENGINE_DIED,
        Outcome.ENGINE_UNAVAILABLE,
        Outcome.PROXY_ERROR,
    }
)


def span_name(record: Record, model: str) -> str:
    """What spans are grouped by. `model` is one that is served, whatever was asked for."""
    if operation := _operation(record):
        return f"{operation} {model}"
    return f"{_method(record.method)} {record.route}"


def has_failed(record: Record) -> bool:
    return record.outcome in _FAILED


def attributes(record: Record) -> Mapping[str, Attribute]:
    """Of a record that is finished; what is not known is not there."""
    fields = present_fields(record)
    by_name = {
        _NAMES.get(name, f"sidecar.{name}"): value
        for name, value in fields.items()
        if name not in _SPANS_OWN
    }
    by_name |= {"url.scheme": "http", "http.request.method": _method(record.method)}
    if record.finish_reason is not None:
        by_name["gen_ai.response.finish_reasons"] = [fields["finish_reason"]]
    if (operation := _operation(record)) is not None:
        by_name |= {"gen_ai.operation.name": operation, "gen_ai.provider.name": "vllm"}
    else:
        by_name.pop("gen_ai.request.stream", None)
    if record.ttft_seconds is not None:
        by_name["gen_ai.response.time_to_first_chunk"] = record.ttft_seconds
    return by_name


def events(record: Record) -> Iterator[tuple[str, float]]:
    """What happened, in order, and when (monotonic seconds)."""
    moments = (
        ("body_read", record.body_read),
        ("sent", record.sent),
        ("first_byte", record.first_byte),
        ("first_token", record.first_token),
        ("last_token", record.last_token),
        ("last_byte", record.last_byte),
    )
    return ((f"sidecar.{name}", moment) for name, moment in moments if moment is not None)


def _operation(record: Record) -> str | None:
    return OPERATIONS.get(record.path) if record.method == "POST" else None


def _method(method: str) -> str:
    return method if method in _METHODS else _OTHER_METHOD
