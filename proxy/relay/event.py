"""What one event of a stream, or one whole JSON answer, says: tokens, usage, errors.

Every route has its own shape; a reader turns a payload into `Said`. Payloads are read
with typed structs, so that what is not named here costs nothing and is never rewritten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from proxy.edge.routes import Route
from proxy.telemetry.record import Record


@dataclass(slots=True)
class Usage:
    """Token counts as the engine gives them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None

    def fill(self, record: Record) -> None:
        """Counts are totals: a later one replaces an earlier one."""
        record.prompt_tokens = _first(self.prompt_tokens, record.prompt_tokens)
        record.completion_tokens = _first(self.completion_tokens, record.completion_tokens)
        record.cached_tokens = _first(self.cached_tokens, record.cached_tokens)
        record.reasoning_tokens = _first(self.reasoning_tokens, record.reasoning_tokens)


@dataclass(slots=True)
class Said:
    """What a payload carries. `usage_only` marks the event that `include_usage` causes, `last`
    the one that ends a stream where no `[DONE]` does; `timings` are the engine's, in its words.
    `usage_of` is the choice that usage in the middle of a stream is of, `sequence_number` the one
    that events of `/v1/responses` have."""

    generated: bool = False
    usage: Usage | None = None
    usage_of: int | None = None
    timings: Any = None
    usage_only: bool = False
    finish_reason: str | None = None
    error: str | None = None
    last: bool = False
    sequence_number: int | None = None


_MOST_TOKENS = 2**53
_UTTERANCE_DONE = "transcription.done"

Reader = Callable[[bytes], Said]

# Nothing but something generated: what nearly all events say. Made once; do not change it.
TOKEN = Said(generated=True)


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    """`usage` of all routes: chat and completions first, then responses and messages."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None

    def plain(self) -> Usage:
        """A count below 0 is none: no counter takes it."""
        inputs = self.prompt_tokens_details or self.input_tokens_details
        outputs = self.completion_tokens_details or self.output_tokens_details
        cached = inputs.cached_tokens if inputs else self.cache_read_input_tokens
        return Usage(
            prompt_tokens=_count(_first(self.prompt_tokens, self._input_tokens())),
            completion_tokens=_count(_first(self.completion_tokens, self.output_tokens)),
            cached_tokens=_count(cached),
            reasoning_tokens=_count(outputs.reasoning_tokens) if outputs else None,
        )

    def _input_tokens(self) -> int | None:
        """All of them: `/v1/messages` has what the cache gave or took beside `input_tokens`."""
        if self.input_tokens is None:
            return None
        beside = (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
        return self.input_tokens + beside


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


class _Chunk(msgspec.Struct, gc=False):
    """A chunk or a whole answer of chat and completions; also of all that only has usage."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    metrics: Any = None
    error: Any = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: str | None = None


class _Response(msgspec.Struct, gc=False):
    usage: _Usage | None = None
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
    sequence_number: Any = None


class _MessageDelta(msgspec.Struct, gc=False):
    type: str = ""
    stop_reason: str | None = None


class _Message(msgspec.Struct, gc=False):
    usage: _Usage | None = None


class _MessagesEvent(msgspec.Struct, gc=False):
    """An event of `/v1/messages`, or its whole answer (`type` = "message")."""

    type: str = ""
    delta: _MessageDelta | None = None
    message: _Message | None = None
    usage: _Usage | None = None
    stop_reason: str | None = None
    error: Any = None


class _RealtimeEvent(msgspec.Struct, gc=False):
    type: str = ""
    usage: _Usage | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_response = msgspec.json.Decoder(_Response)
_responses_event = msgspec.json.Decoder(_ResponsesEvent)
_messages_event = msgspec.json.Decoder(_MessagesEvent)
_realtime_event = msgspec.json.Decoder(_RealtimeEvent)


def _read_chunk(payload: bytes) -> Said:
    chunk = _decode_chunk(payload)
    choices = chunk.choices
    if choices and len(choices) == 1 and chunk.usage is None and chunk.error is None:
        choice = choices[0]
        if choice.finish_reason is None and choice.generated():
            return TOKEN
    said = Said(error=error_name(chunk.error), timings=chunk.metrics)
    if chunk.usage is not None:
        said.usage = chunk.usage.plain()
        said.usage_only = choices is not None and not choices
        said.usage_of = choices[0].index if choices else None
    for choice in choices or ():
        said.generated = said.generated or choice.generated()
        said.finish_reason = choice.finish_reason or said.finish_reason
    return said


def _read_responses_event(payload: bytes) -> Said:
    event = _responses_event.decode(payload)
    if event.type == "error" or event.error:
        said = Said(error=error_name(event.error) or str(event.code or "error"))
    elif event.response is not None and event.type != "response.created":
        said = _said_of_response(event.response)
    else:
        said = Said(generated=event.type.endswith(".delta") and bool(event.delta))
    if isinstance(event.sequence_number, int):
        said.sequence_number = event.sequence_number
    return said


def _read_response(payload: bytes) -> Said:
    return _said_of_response(_response.decode(payload))


def _said_of_response(response: _Response) -> Said:
    incomplete = response.incomplete_details
    finished = response.status in ("completed", "incomplete", "failed", "cancelled")
    reason = incomplete.reason if incomplete else response.status
    return Said(
        usage=response.usage.plain() if response.usage else None,
        timings=response.metrics,
        finish_reason=reason if finished else None,
        error=error_name(response.error),
        last=finished,
    )


def _read_messages_event(payload: bytes) -> Said:
    event = _messages_event.decode(payload)
    usage = event.usage or (event.message.usage if event.message else None)
    delta = event.delta or _MessageDelta()
    is_generated = event.type == "content_block_delta" and delta.type != "signature_delta"
    if is_generated and usage is None and event.error is None:
        return TOKEN
    counts = usage.plain() if usage else None
    if counts is not None and event.type == "message_start":
        counts.completion_tokens = None  # its 0 says nothing of what will have been generated
    return Said(
        generated=is_generated,
        usage=counts,
        finish_reason=event.stop_reason or delta.stop_reason,
        error=error_name(event.error),
        last=event.type == "message_stop",
    )


def note_realtime_event(text: str, record: Record) -> None:
    """One event of a session of `/v1/realtime`. Each utterance ends with its own usage; the record
    has the sum."""
    if _UTTERANCE_DONE not in text:
        return
    try:
        event = _realtime_event.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return
    if event.type == _UTTERANCE_DONE and event.usage is not None:
        said = event.usage.plain()
        record.prompt_tokens = (record.prompt_tokens or 0) + (said.prompt_tokens or 0)
        record.completion_tokens = (record.completion_tokens or 0) + (said.completion_tokens or 0)


def error_name(error: Any) -> str | None:
    """A short name of an error object: its type or code, never its message."""
    if not error:
        return None
    if isinstance(error, dict):
        return str(error.get("type") or error.get("code") or "error")
    return "error"


def _first(one: int | None, other: int | None) -> int | None:
    return other if one is None else one


def _count(said: int | None) -> int | None:
    """None for what cannot be a count of tokens, and would break the counters."""
    return said if said is not None and 0 <= said <= _MOST_TOKENS else None


def event_reader(route: Route) -> Reader:
    """Reads the `data` of one event of a stream."""
    return _EVENT_READERS.get(route, _read_chunk)


def answer_reader(route: Route) -> Reader:
    """Reads a whole JSON answer."""
    return _ANSWER_READERS.get(route, _read_chunk)


_EVENT_READERS: dict[Route, Reader] = {
    Route.RESPONSES: _read_responses_event,
    Route.MESSAGES: _read_messages_event,
}
_ANSWER_READERS: dict[Route, Reader] = {
    Route.RESPONSES: _read_response,
    Route.MESSAGES: _read_messages_event,
}
