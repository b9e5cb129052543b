"""What chat and completions say, as the events of protocols."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from proxy.protocols.protocol import (
    Done,
    Error,
    Event,
    Finish,
    Reasoning,
    Text,
    ToolCall,
    Usage,
)

_MAX_ERROR_CHARS = 2000


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    text: str | None = None
    delta: _Message | None = None
    message: _Message | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Response(msgspec.Struct, gc=False):
    """A chunk or a whole answer, or an error: OpenAI's, or the one of FastAPI."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    detail: Any = None


_read = msgspec.json.Decoder(_Response).decode
_NOTHING = _Message()


def events_of_stream(payload: bytes) -> list[Event]:
    """What the `data` of one event says.

    Raises:
        msgspec.MsgspecError, UnicodeDecodeError: it cannot be read.
    """
    if payload == b"[DONE]":
        return [Done()]
    return list(_events(_read(payload), None))


def events_of_answer(status: int, body: bytes) -> list[Event]:
    """What a whole answer says.

    Raises:
        msgspec.MsgspecError, UnicodeDecodeError: it cannot be read, though it is no error.
    """
    if status < 400:
        return [*_events(_read(body), status), Done()]
    try:
        error = next(_events(_read(body), status), None)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        error = None
    if isinstance(error, Error):
        return [error]
    text = body[:_MAX_ERROR_CHARS].decode(errors="replace").strip()
    return [Error(status, text or f"The engine answered with {status}.", f"status_{status}")]


def _events(response: _Response, status: int | None) -> Iterator[Event]:
    if error := response.error or response.detail:
        if not isinstance(error, dict):  # FastAPI has words there, OpenAI an object
            yield Error(status, str(error), "error" if status is None else f"status_{status}")
            return
        names = (error.get("code"), error.get("type"))
        code = next((name for name in names if isinstance(name, str) and name), "error")
        param = error.get("param")
        param = param.removeprefix("body.") if isinstance(param, str) else None
        yield Error(status, str(error.get("message") or code), code, param)
        return
    for choice in response.choices or ():
        message = choice.delta or choice.message or _NOTHING
        if reasoning := message.reasoning or message.reasoning_content:
            yield Reasoning(choice.index, reasoning)
        if text := choice.text or message.content:
            yield Text(choice.index, text)
        for call in message.tool_calls or ():
            yield ToolCall(choice.index, call)
        if choice.finish_reason is not None:
            yield Finish(choice.index, choice.finish_reason)
    if response.usage is not None:
        yield Usage(response.usage.prompt_tokens, response.usage.completion_tokens)
