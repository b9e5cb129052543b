"""The log line of a request: its fields, each declared once and read off the record.

docs/logs.md and docs/log-schema.json are made from these declarations (`scripts/reference.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from time import time
from typing import Annotated, Any

from msgspec import Struct
from msgspec.json import Encoder
from msgspec.structs import asdict

from proxy.errors import Source
from proxy.telemetry.log_output import OutputHandler, timestamp
from proxy.telemetry.record import Outcome, Record

# Words that came over the wire may be megabytes long; a log line may not.
MAX_FIELD_CHARS = 512
_MAX_USER_AGENT_CHARS = 200

# What is logged of a request that was running when the engine died; never what was in it.
IN_FLIGHT_FIELDS = (
    "request_id",
    "trace_id",
    "method",
    "path",
    "route",
    "model",
    "stream",
    "modalities",
    "images",
    "videos",
    "audios",
    "bytes_in",
    "bytes_out",
    "completion_tokens",
)
MAX_IN_FLIGHT_LINES = 50

# Browsers, tools and platforms ask these of any server: Claude Code sends `HEAD /` at each start.
# That is no mistake of the client's, and a line at level debug only.
_PROBED_PATHS = (
    "/",
    "/v1",
    "/v1/",
    "/favicon.ico",
    "/robots.txt",
    "/apple-touch-icon.png",
    "/apple-touch-icon-precomposed.png",
)
_encode = Encoder().encode
_root = logging.getLogger()
_access = logging.getLogger("proxy.access")
_in_flight = logging.getLogger("proxy.flights")

# When fields are absent.
_NOT_HTTP = "where what came was no HTTP"
_NO_ERROR = "where nothing went wrong"
_NO_BODY = "where no body came, and where it has [too many values](#what-is-read-of-a-body)"
_NO_MEDIA = "where there are none, and as `modalities` is"
_NO_STREAM = "where the engine streams nothing generated"
_NO_GAP = "with fewer than two such events"
_NO_COUNT = "where the [engine says none](metrics.md#what-is-counted-and-what-is-not)"
_NOTHING_FETCHED = "where the sidecar fetched nothing"
_NO_ENGINE_TIMINGS = "without [`ENABLE_PER_REQUEST_METRICS=true`](#the-engines-own-timings)"


@dataclass(frozen=True, slots=True)
class Field:
    """What a field says, in Markdown with links relative to docs/.

    `absent` is when it is not in the line; a field without it is in every line. `schema` has the
    keywords of JSON Schema that do not follow from the type.
    """

    text: str
    absent: str = ""
    unit: str = ""
    schema: Mapping[str, Any] = field(default_factory=dict)


def _text(text: str, absent: str = "", most: int = MAX_FIELD_CHARS) -> Field:
    return Field(text, absent, schema={"maxLength": most})


def _count(text: str, absent: str = "", unit: str = "", least: int = 0) -> Field:
    return Field(text, absent, unit, {"minimum": least})


def _time(text: str, absent: str = "") -> Field:
    return Field(text, absent, "ms", {"minimum": 0})


class LogFields(Struct, omit_defaults=True, gc=False):
    """The fields in their order. None is what does not apply: it is not in the line."""

    request_id: Annotated[
        str | None,
        Field(
            "The client's `x-request-id` where it is sane, else one that was made. The engine gets "
            "it, and the answer has it.",
            schema={"minLength": 1},
        ),
    ] = None
    trace_id: Annotated[
        str | None,
        Field(
            "Trace id of the request's `traceparent`; with [traces](tracing.md), of its span.",
            "without both",
            schema={"pattern": "^[0-9a-f]{32}$"},
        ),
    ] = None
    method: Annotated[str | None, _text("HTTP method, as it came.", _NOT_HTTP)] = None
    path: Annotated[str | None, _text("Path, as it came, without its query.", _NOT_HTTP)] = None
    route: Annotated[str | None, Field("Kind of work.")] = None
    model: Annotated[str | None, _text("Model, as the client named it.", "where it named none")] = (
        None
    )
    key: Annotated[
        str | None, _text("Label of the API key, never the key.", "where no key is needed")
    ] = None
    status: Annotated[
        int | None,
        Field(
            "Status of the answer; 499 where the client left before there was one.",
            "where the connection broke without an answer",
            schema={"minimum": 100, "maximum": 599},
        ),
    ] = None
    outcome: Annotated[Outcome | None, Field("How the request ended.")] = None
    error_source: Annotated[Source | None, Field("Who failed.", _NO_ERROR)] = None
    error: Annotated[
        str | None,
        _text("[Short name of the error](#errors-inside-a-200), never its message.", _NO_ERROR),
    ] = None
    stream: Annotated[
        bool | None,
        Field(
            "Whether the client asked for a stream of events, whatever it got.",
            "where the body was not read (a request that was refused before), and for sessions of "
            "`/v1/realtime`",
        ),
    ] = None
    modalities: Annotated[
        list[str] | None,
        Field(
            "What the request's body held.",
            _NO_BODY,
            schema={
                "items": {"enum": ["text", "image", "video", "audio"]},
                "minItems": 1,
                "uniqueItems": True,
            },
        ),
    ] = None
    images: Annotated[int | None, _count("Images in the body.", _NO_MEDIA)] = None
    videos: Annotated[int | None, _count("Videos in the body.", _NO_MEDIA)] = None
    audios: Annotated[int | None, _count("Audio clips in the body.", _NO_MEDIA)] = None
    bytes_in: Annotated[
        int | None,
        _count("Size of the request's body; of a session, of all its frames.", unit="bytes"),
    ] = None
    bytes_out: Annotated[
        int | None,
        _count("Size of the answer's body; of a session, of all its frames.", unit="bytes"),
    ] = None
    prompt_tokens: Annotated[
        int | None, _count("Tokens read, by the engine's count.", _NO_COUNT, "tokens")
    ] = None
    cached_tokens: Annotated[
        int | None,
        _count("Those of them from the prefix cache, by the engine's count.", _NO_COUNT, "tokens"),
    ] = None
    completion_tokens: Annotated[
        int | None, _count("Tokens generated, by the engine's count.", _NO_COUNT, "tokens")
    ] = None
    reasoning_tokens: Annotated[
        int | None,
        _count("Those of them that are reasoning, by the engine's count.", _NO_COUNT, "tokens"),
    ] = None
    generated_events: Annotated[
        int | None,
        _count(
            "Events with something generated that came from the engine, each of one token or a "
            "few. Where the client left, it is all that is known of the tokens.",
            _NO_STREAM,
        ),
    ] = None
    finish_reason: Annotated[
        str | None, _text("The engine's word for why generation ended.", "where it says none")
    ] = None
    duration_ms: Annotated[
        float | None, _time("First byte of the request in to last byte of the answer out.")
    ] = None
    ttft_ms: Annotated[
        float | None,
        _time(
            "First byte of the request in to the first event with something generated.", _NO_STREAM
        ),
    ] = None
    itl_mean_ms: Annotated[
        float | None,
        _time("Mean time between events with something generated.", _NO_GAP),
    ] = None
    itl_max_ms: Annotated[float | None, _time("Longest time between two of them.", _NO_GAP)] = None
    tokens_per_second: Annotated[
        float | None,
        Field(
            "Output rate: tokens after the first one over the time after the first one.",
            "where one of the two is not known, or none",
            "tokens/s",
            {"minimum": 0},
        ),
    ] = None
    wait_ms: Annotated[
        float | None,
        _time(
            "Time in the queue of `MAX_IN_FLIGHT`, and for the engine with `HOLD_SECONDS`.",
            "where it did not wait",
        ),
    ] = None
    model_wait_ms: Annotated[
        float | None,
        _time("The part of it in which the model was loaded.", "with one model, or no wait"),
    ] = None
    body_read_ms: Annotated[
        float | None,
        _time(
            "First byte of the request to the last byte of its body, less `wait_ms`.",
            "where the body was not read",
        ),
    ] = None
    media_fetch_ms: Annotated[
        float | None, _time("Time to fetch what media URLs lead to.", _NOTHING_FETCHED)
    ] = None
    media_bytes: Annotated[
        int | None,
        _count(
            "Size of the files that were fetched, each counted once.", _NOTHING_FETCHED, "bytes", 1
        ),
    ] = None
    upstream_connect_ms: Annotated[
        float | None, _time("Time to connect to the engine.", "where an open connection was taken")
    ] = None
    upstream_first_byte_ms: Annotated[
        float | None,
        _time("Request sent to the first byte of the engine's answer.", "where no answer came"),
    ] = None
    overhead_ms: Annotated[
        float | None,
        _time(
            "The sidecar's own share: body read to request sent, and the engine's last byte in to "
            "our last byte out. Only the first where the answer broke off (`client_closed`, "
            "`timeout`, `engine_died`, `proxy_error`).",
            "where the request was not sent",
        ),
    ] = None
    client_stall_ms: Annotated[
        float | None, _time("Time in which the client did not read.", "where it always did")
    ] = None
    engine_ttft_ms: Annotated[
        float | None,
        _time("The engine's own: out of its queue to its first token.", _NO_ENGINE_TIMINGS),
    ] = None
    engine_queue_ms: Annotated[
        float | None, _time("The engine's own: time in its queue.", _NO_ENGINE_TIMINGS)
    ] = None
    client: Annotated[str | None, Field("Address of the peer.", "where the socket has none")] = None
    user_agent: Annotated[
        str | None,
        _text("What the client calls itself.", "where it does not say", _MAX_USER_AGENT_CHARS),
    ] = None
    retries: Annotated[
        int | None,
        _count(
            "How often the client has tried before, by its `x-stainless-retry-count`.",
            "where it does not say",
        ),
    ] = None


def log_fields(record: Record) -> LogFields:
    """The log line's fields, None for those that do not apply.

    By position: names would cost three times as much, and there is one of these for every
    request. The order is that of the declaration.
    """
    return LogFields(
        record.request_id,
        record.trace_id,
        record.method or None,
        _short(record.path) or None,
        record.route,
        _short(record.model),
        record.key,
        record.status,
        record.outcome,
        record.error_source,
        _short(record.error),
        record.stream,
        record.modalities or None,
        record.images or None,
        record.videos or None,
        record.audios or None,
        record.bytes_in,
        record.bytes_out,
        record.prompt_tokens,
        record.cached_tokens,
        record.completion_tokens,
        record.reasoning_tokens,
        record.generated_events or None,
        _short(record.finish_reason),
        _ms(record.duration_seconds),
        _ms(record.ttft_seconds),
        _ms(record.itl_mean_seconds),
        _ms(record.longest_gap_seconds) if record.generated_events > 1 else None,
        None if (rate := record.tokens_per_second) is None else round(rate, 1),
        _ms(record.waited_seconds + record.held_seconds) or None,
        _ms(record.model_wait_seconds),
        _ms(_between(record.started + record.waited_seconds, record.body_read)),
        _ms(record.media_seconds),
        record.media_bytes or None,
        _ms(record.connect_seconds),
        _ms(_between(record.sent, record.first_byte)),
        _ms(record.overhead_seconds),
        _ms(record.client_stall_seconds) or None,
        _ms(record.engine_ttft_seconds),
        _ms(record.engine_queue_seconds),
        record.client,
        _short(record.user_agent, _MAX_USER_AGENT_CHARS),
        record.retries,
    )


def present_fields(record: Record) -> dict[str, Any]:
    """The log line's fields by name, without those that do not apply."""
    values = asdict(log_fields(record))
    return {name: value for name, value in values.items() if value is not None}


def _short(text: str | None, most: int = MAX_FIELD_CHARS) -> str | None:
    """Cut, and without lone surrogates: no UTF-8 has them, so no page and no span could."""
    if text is None or (text.isascii() and len(text) <= most):
        return text
    return text[:most].encode("utf-8", "replace").decode()


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start


def _ms(seconds: float | None) -> float | None:
    """To the hundredth; `round` would cost three times as much."""
    return None if seconds is None else floor(seconds * 100_000 + 0.5) / 100


def log_request(record: Record) -> None:
    """The one line of a request."""
    if not _access.isEnabledFor(logging.INFO):
        return
    fields = log_fields(record)
    asked = f"{record.method} {fields.path}" if record.method else "unreadable request"
    message = f"{asked} {record.status} {record.outcome}"
    if record.route == "unknown" and record.path in _PROBED_PATHS:
        _access.debug(message, extra={"fields": present_fields(record)})
        return
    handlers = _root.handlers
    handler = handlers[0] if len(handlers) == 1 else None
    if (
        not isinstance(handler, OutputHandler)
        or not handler.writes_json
        or handler.filters
        or _access.handlers
        or _access.filters
    ):
        _access.info(message, extra={"fields": present_fields(record)})
        return
    # The same line as by way of the logger, for a third of the time.
    handler.output.write(
        b'{"level":"INFO","logger":"proxy.access","message":%b,"timestamp":"%b",%b\n'
        % (_encode(message), timestamp(time()).encode(), _encode(fields)[1:])
    )


def log_in_flight(records: Sequence[Record]) -> None:
    """The engine has died: a line for each request that was in flight, then how many more."""
    for record in records[:MAX_IN_FLIGHT_LINES]:
        present = present_fields(record)
        fields = {name: present[name] for name in IN_FLIGHT_FIELDS if name in present}
        # Where the engine has not counted them: an event holds one token, or a few.
        fields.setdefault("completion_tokens", record.generated_events)
        fields["age_ms"] = present["duration_ms"]
        text = f"in flight when the engine died: {record.method} {fields['path']}"
        _in_flight.warning(text, extra={"fields": fields})
    if (more := len(records) - MAX_IN_FLIGHT_LINES) > 0:
        _in_flight.warning("in flight when the engine died: %d more", more)
