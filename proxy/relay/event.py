"""Reads one event of a stream, or one whole JSON answer: tokens, usage, errors.

Every route has its own shape; a reader turns a payload into `EventSummary`. Payloads are read
with typed structs, so that what is not named here costs nothing and is never rewritten.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from proxy.access.routes import ROUTES, PayloadShape
from proxy.errors import Source
from proxy.telemetry.record import Outcome, Record


@dataclass(slots=True)
class Usage:
    """Token counts as the engine gives them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None

    def fill(self, record: Record) -> None:
        """Counts are totals: a later one replaces an earlier one."""
        if self.prompt_tokens is not None:
            record.prompt_tokens = self.prompt_tokens
        if self.completion_tokens is not None:
            record.completion_tokens = self.completion_tokens
        if self.cached_tokens is not None:
            record.cached_tokens = self.cached_tokens
        if self.reasoning_tokens is not None:
            record.reasoning_tokens = self.reasoning_tokens


@dataclass(slots=True)
class EventSummary:
    """What a payload carries. `usage_only` marks the event that `include_usage` causes, `last`
    the one that ends a stream where no `[DONE]` does; `timings` are the engine's, in its words.
    `usage_of` is the choice that usage in the middle of a stream is of, `background_id` the id of a
    response that the engine makes in the background."""

    generated: bool = False
    usage: Usage | None = None
    usage_of: int | None = None
    timings: Any = None
    usage_only: bool = False
    finish_reason: str | None = None
    error: str | None = None
    is_clients_error: bool = False
    last: bool = False
    background_id: str | None = None


_MOST_TOKENS = 2**53
_DIGITS = re.compile(r"[0-9]{1,16}")
_UTTERANCE_DONE = "transcription.done"
_UTTERANCE_DONE_BYTES = _UTTERANCE_DONE.encode()
_CLIENTS_ERRORS = frozenset(
    {
        "BadRequestError",
        "Bad Request",
        "NotFoundError",
        "UnprocessableEntityError",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
        "rate_limit_exceeded",
        # Of /v1/realtime.
        "model_not_found",
        "model_not_validated",
        "unknown_event",
    }
)

Reader = Callable[[bytes], EventSummary]

# Nothing but something generated: what nearly all events say. Made once; do not change it.
TOKEN = EventSummary(generated=True)


class _Delta(msgspec.Struct, gc=False):
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: Any = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None

    def generated(self) -> bool:
        delta = self.delta
        if delta is None:
            return bool(self.text)
        if delta.content:
            return True
        return bool(delta.reasoning or delta.reasoning_content or delta.tool_calls)


_Tokens = Annotated[int, msgspec.Meta(ge=0, le=_MOST_TOKENS)]


class _Cached(msgspec.Struct, gc=False):
    cached_tokens: _Tokens | None = None


class _Reasoned(msgspec.Struct, gc=False):
    reasoning_tokens: _Tokens | None = None


class _PlainUsage(msgspec.Struct, gc=False):
    """Usage as chat and completions have it. The fields that others have must be absent."""

    prompt_tokens: _Tokens | None = None
    completion_tokens: _Tokens | None = None
    prompt_tokens_details: _Cached | None = None
    completion_tokens_details: _Reasoned | None = None
    input_tokens: None = None
    output_tokens: None = None
    input_tokens_details: None = None
    output_tokens_details: None = None
    cache_read_input_tokens: None = None


class _Chunk(msgspec.Struct, gc=False):
    """A chunk or a whole answer of chat and completions; also of all that only has usage."""

    choices: list[_Choice] | None = None
    usage: _PlainUsage | None = None
    metrics: Any = None
    error: Any = None
    # Of an error that does not stand below `error`, as older vLLMs have it.
    type: Any = None
    code: Any = None


class _LooseChunk(_Chunk, gc=False):
    """The same where usage is of another shape."""

    usage: Any = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: str | None = None


class _Response(msgspec.Struct, gc=False):
    id: str | None = None
    background: bool | None = None
    usage: Any = None
    metrics: Any = None
    status: str | None = None
    incomplete_details: _Incomplete | None = None
    error: Any = None


class _ResponsesEvent(msgspec.Struct, gc=False):
    type: str = ""
    delta: Any = None
    response: _Response | None = None
    code: str | int | None = None
    error: Any = None


class _MessageDelta(msgspec.Struct, gc=False):
    type: str = ""
    stop_reason: str | None = None


class _Message(msgspec.Struct, gc=False):
    usage: Any = None


class _MessagesEvent(msgspec.Struct, gc=False):
    """An event of `/v1/messages`, or its whole answer (`type` = "message")."""

    type: str = ""
    delta: _MessageDelta | None = None
    message: _Message | str | None = None
    usage: Any = None
    stop_reason: str | None = None
    error: Any = None
    code: Any = None


class _RealtimeEvent(msgspec.Struct, gc=False):
    type: str = ""
    usage: Any = None
    error: Any = None
    code: Any = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_loose_chunk = msgspec.json.Decoder(_LooseChunk).decode
_response = msgspec.json.Decoder(_Response)
_responses_event = msgspec.json.Decoder(_ResponsesEvent)
_messages_event = msgspec.json.Decoder(_MessagesEvent)
_realtime_event = msgspec.json.Decoder(_RealtimeEvent)


def _read_chunk(payload: bytes) -> EventSummary:
    try:
        chunk = _decode_chunk(payload)
    except msgspec.ValidationError:
        chunk = _decode_loose_chunk(payload)
    choices = chunk.choices
    if choices and len(choices) == 1 and chunk.usage is None and chunk.error is None:
        choice = choices[0]
        if choice.finish_reason is None and choice.generated():
            return TOKEN
    summary = EventSummary(timings=chunk.metrics)
    error = chunk.error
    if choices is None:
        error = _error_at_the_top(chunk.type, chunk.code, error) or error
    if error:
        summary.error, summary.is_clients_error = error_of(error)
    if chunk.usage is not None and (usage := _usage(chunk.usage)) is not None:
        summary.usage = usage
        summary.usage_only = choices is not None and not choices
        summary.usage_of = choices[0].index if choices else None
    for choice in choices or ():
        summary.generated = summary.generated or choice.generated()
        summary.finish_reason = choice.finish_reason or summary.finish_reason
    return summary


def _read_responses_event(payload: bytes) -> EventSummary:
    event = _responses_event.decode(payload)
    if event.type == "error":
        given = event.error or {"code": event.code or "error"}
    else:
        given = _error_at_the_top(event.type, event.code, event.error) or event.error
    if given:
        error, is_clients = error_of(given)
        return EventSummary(error=error, is_clients_error=is_clients)
    if event.response is not None:
        return _summary_of_response(event.response)
    return TOKEN if event.type.endswith(".delta") and event.delta else EventSummary()


def _summary_of_response(response: _Response) -> EventSummary:
    incomplete = response.incomplete_details
    finished = response.status in ("completed", "incomplete", "failed", "cancelled")
    reason = incomplete.reason if incomplete else response.status
    error, is_clients = error_of(response.error)
    return EventSummary(
        usage=_usage(response.usage),
        timings=response.metrics,
        finish_reason=reason if finished else None,
        error=error,
        is_clients_error=is_clients,
        last=finished,
        background_id=response.id if response.background else None,
    )


def _read_messages_event(payload: bytes) -> EventSummary:
    event = _messages_event.decode(payload)
    message = event.message
    usage = _usage(event.usage) or _usage(message.usage if isinstance(message, _Message) else None)
    delta = event.delta or _MessageDelta()
    is_generated = event.type == "content_block_delta" and delta.type != "signature_delta"
    if is_generated and usage is None and event.error is None:
        return TOKEN
    if usage is not None and event.type == "message_start":
        usage.completion_tokens = None  # its 0 is not a count: nothing has been generated yet
    error, is_clients = error_of(
        _error_at_the_top(event.type, event.code, event.error) or event.error
    )
    return EventSummary(
        generated=is_generated,
        usage=usage,
        finish_reason=event.stop_reason or delta.stop_reason,
        error=error,
        is_clients_error=is_clients,
        last=event.type == "message_stop",
    )


def note_realtime_event(text: bytes | bytearray, record: Record) -> None:
    """One event of a session of `/v1/realtime`. Each utterance ends with its own usage; the record
    has the sum. An error ends no session; the first one is noted."""
    if _UTTERANCE_DONE_BYTES not in text and b'"error"' not in text:
        return
    try:
        event = _realtime_event.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    if event.type == "error":
        is_object = isinstance(event.error, dict)  # OpenAI's; vLLM has its message there
        error, is_clients = error_of(event.error if is_object else {"code": event.code or "error"})
        if is_clients and error is not None:
            record.fail(Outcome.CLIENT_ERROR, Source.CLIENT, error)
        elif record.error is None:
            record.error = error  # vLLM's `processing_error` may be either side's
    elif event.type == _UTTERANCE_DONE and (usage := _usage(event.usage)) is not None:
        record.prompt_tokens = (record.prompt_tokens or 0) + (usage.prompt_tokens or 0)
        record.completion_tokens = (record.completion_tokens or 0) + (usage.completion_tokens or 0)


def _error_at_the_top(kind: Any, code: Any, error: Any) -> dict[str, Any] | None:
    """The error that a payload of an older vLLM is, which has its type and code beside `error`."""
    if isinstance(error, dict) or (_count(code) or 0) < 400:
        return None
    return {"type": kind, "code": code}


def error_of(error: Any) -> tuple[str | None, bool]:
    """A short name of an error object, and whether the client has made it: by its type and code,
    never by its message."""
    if not error:
        return None, False
    if not isinstance(error, dict):
        return "error", False
    kind, code = error.get("type"), error.get("code")
    name = str(kind or code or "error")
    status = _count(code)
    if status is not None:
        return name, 400 <= status < 500
    # Without a status: what vLLM, OpenAI and Anthropic call a client's mistake.
    words = [word for word in (kind, code) if isinstance(word, str)]
    is_clients = any(word.startswith("invalid_") or word in _CLIENTS_ERRORS for word in words)
    return name, is_clients


def _first(one: int | None, other: int | None) -> int | None:
    return other if one is None else one


def _usage(given: Any) -> Usage | None:
    """`usage` of all routes: chat and completions first, then responses and messages."""
    if isinstance(given, _PlainUsage):
        inputs, outputs = given.prompt_tokens_details, given.completion_tokens_details
        return Usage(
            prompt_tokens=given.prompt_tokens,
            completion_tokens=given.completion_tokens,
            cached_tokens=None if inputs is None else inputs.cached_tokens,
            reasoning_tokens=None if outputs is None else outputs.reasoning_tokens,
        )
    if not isinstance(given, dict):
        return None
    input_details = _details(given, "prompt_tokens_details", "input_tokens_details")
    output_details = _details(given, "completion_tokens_details", "output_tokens_details")
    cached = input_details.get("cached_tokens")
    if not input_details:
        cached = given.get("cache_read_input_tokens")
    input_tokens = _count(given.get("input_tokens"))
    if input_tokens is not None:
        # `/v1/messages` has what the cache gave or took beside them.
        for name in ("cache_read_input_tokens", "cache_creation_input_tokens"):
            input_tokens += _count(given.get(name)) or 0
    return Usage(
        prompt_tokens=_first(_count(given.get("prompt_tokens")), input_tokens),
        completion_tokens=_first(
            _count(given.get("completion_tokens")), _count(given.get("output_tokens"))
        ),
        cached_tokens=_count(cached),
        reasoning_tokens=_count(output_details.get("reasoning_tokens")),
    )


def _details(given: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        if isinstance(details := given.get(name), dict) and details:
            return details
    return {}


def _count(given: Any) -> int | None:
    """A whole number, also as `3.0` or `"3"`; None for what cannot be a count of tokens, and would
    break the counters."""
    if isinstance(given, str):
        given = int(given) if _DIGITS.fullmatch(given) else None
    elif isinstance(given, float) and given.is_integer():
        given = int(given)
    is_count = isinstance(given, int) and not isinstance(given, bool)
    return given if is_count and 0 <= given <= _MOST_TOKENS else None


_OF_EVENTS: dict[PayloadShape, Reader] = {
    PayloadShape.CHUNKS: _read_chunk,
    PayloadShape.RESPONSES: _read_responses_event,
    PayloadShape.MESSAGES: _read_messages_event,
}
_OF_ANSWERS: dict[PayloadShape, Reader] = {
    **_OF_EVENTS,
    PayloadShape.RESPONSES: lambda payload: _summary_of_response(_response.decode(payload)),
}
EVENT_READERS = {spec.route: _OF_EVENTS[spec.payloads] for spec in ROUTES}
"""What reads the `data` of one event, by the route of its stream."""
ANSWER_READERS = {spec.route: _OF_ANSWERS[spec.payloads] for spec in ROUTES}
"""What reads a whole JSON answer, by its route."""
