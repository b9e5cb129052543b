"""What one answer of the fake engine is to do wrong: every key, its meaning and its default.

A script travels as JSON in the request header `x-fake`; `POST /__fake/script` sets one for a path.
A key that does not exist is answered with 400, so that a typo in a test cannot pass for a fault
that was survived.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Millis = Annotated[float, msgspec.Meta(ge=0)]
Where = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(before_headers|inside_headers|after_headers"
        r"|(between_events|inside_event|inside_chunk):\d+)$"
    ),
]
Cut = Annotated[str, msgspec.Meta(pattern=r"^(every:\d+|at:\d+(,\d+)*|random:\d+(:\d+)?)$")]


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The script of one request. Events are counted from 0; the role-only event is one of them."""

    # -- what is generated ---------------------------------------------------------------------
    tokens: Count | None = None
    """Tokens per choice. Default: the body's max_tokens, at most 16; 8 without one."""
    tokens_per_event: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Tokens that share one event (real vLLM does that under load)."""
    text: str | list[str] | None = None
    """Text of a token, or texts taken in turn. Default: words, some beyond ASCII."""
    event_bytes: Count = 0
    """Pad each token event with text until the event is this long."""
    reasoning: Count = 0
    """So many of the tokens come first, as reasoning; usage then names reasoning_tokens."""
    tool: bool = False
    """Tokens (after reasoning) are fragments of the arguments of one call of function `f`."""
    prompt_tokens: Count = 14
    """What usage says of the prompt (of each prompt)."""
    finish_reason: str | None = None
    """Default: `length` where max_tokens was reached, `tool_calls` for a tool, else `stop`."""
    finish_in_last: bool = False
    """The last token's event carries the finish reason, instead of an event of its own."""

    # -- when ----------------------------------------------------------------------------------
    head_ms: Millis = 0
    """Before the response head."""
    first_ms: Millis = 0
    """Between the head and the first event (vLLM sends the head at once, even while queued)."""
    role_ms: Millis = 0
    """Between the role-only event and the first token."""
    interval_ms: Millis = 0
    """Between token events. JSON answers come after first_ms + tokens * interval_ms."""
    hang: bool = False
    """Read the request, answer nothing, ever."""
    stall_at: Count | None = None
    """Send so many events, then nothing more, connection open."""
    hold_at: Count | None = None
    """Send so many events, then wait for `POST /__fake/release`: no clock then decides what comes
    first. What is no stream waits before its head."""

    # -- how the bytes of an event look ----------------------------------------------------------
    newline: Literal["lf", "crlf", "cr"] = "lf"
    space: Literal["", "json", "wide", "none"] = ""
    """json: `{"a": 1}` as vLLM's error events; wide: spaces and tabs everywhere; none: `data:{`."""
    comment: bool = False
    """A line `: keep-alive` before the first event and after each one."""
    no_done: bool = False
    """Leave `data: [DONE]` out."""
    after_done: str = ""
    """Bytes after the last event, as a chunk of their own."""
    error_event_at: Count | None = None
    """After so many events, the ending vLLM gives a stream when its engine dies."""

    # -- how they are cut and wrapped --------------------------------------------------------------
    glue: Annotated[int, msgspec.Meta(ge=1)] = 1
    """So many events share one HTTP chunk and one write."""
    chunk_bytes: Count = 0
    """Cut the body into HTTP chunks of this size, wherever events end."""
    cut: Cut | None = None
    """Cut what goes to the socket, head included: `every:N`; `at:A,B` (offsets on the wire);
    `random:SEED` or `random:SEED:MAX`. The kernel may join pieces again: see cut_ms."""
    cut_ms: Millis = 0
    """Pause between pieces. 0 yields to the event loop only."""
    chunk_extension: str = ""
    """Follows each chunk size, for example `;a=b`."""
    gzip: bool | Literal["accepted"] = False
    """`content-encoding: gzip`, flushed at each event; accepted: where the client takes it."""
    content_length: int | None = None
    """Declare the length instead of chunking: 0 is right, N promises N bytes that never come."""
    http10: bool = False
    """Answer as HTTP/1.0: no chunks, the end of the body is the end of the connection."""
    backpressure: bool = False
    """Wait for a slow reader. vLLM does not: it buffers without bound."""

    # -- the head ----------------------------------------------------------------------------------
    status: Annotated[int, msgspec.Meta(ge=100, le=999)] | None = None
    """Alone: an error of that status in vLLM's shape. 204 and 304 have no body."""
    body: str | None = None
    """This body instead of the generated one; content-type application/json unless in headers."""
    headers: list[tuple[str, str]] = []
    """Fields added, repeated ones and odd names included, written as they are."""
    interim: list[Annotated[int, msgspec.Meta(ge=100, le=199)]] = []
    """1xx heads before the real one, for example [103]."""

    # -- deaths ------------------------------------------------------------------------------------
    die: Where | None = None
    """Break off there. inside_event:K sends half of event K inside a whole chunk of that half;
    inside_chunk:K announces all of event K and sends half of it."""
    how: Literal["close", "rst"] = "close"
    """close: FIN after what was written; rst: reset."""
    garbage: Where | None = None
    """There, bytes that are not HTTP (in a body: a chunk size that is none), then close."""
    raw: str | None = None
    """Base64 of all bytes to write for this request; then as close_after says."""

    # -- the connection ----------------------------------------------------------------------------
    close_after: bool = False
    """`connection: close`, and closed."""
    keepalive_close_ms: Millis | None = None
    """Close so long after the answer without having announced it. Default: as vLLM."""
    drop_next: Literal["", "close", "rst"] = ""
    """Close as soon as the next request's first byte is seen: keep-alive at its worst moment."""

    # -- the request -------------------------------------------------------------------------------
    early_answer: Count | None = None
    """Answer (413 unless `status`) after so many body bytes."""
    early_then: Literal["close", "close_late", "read", "stop"] = "close"
    """After an early answer: close, at once or a moment later; read the rest and keep the
    connection; or never read again."""
    read_rate: Count = 0
    """Take the body at so many bytes a second (back-pressure for uploads)."""
    expect: Literal["auto", "never"] = "auto"
    """`Expect: 100-continue`: answered at once, as uvicorn does, or not at all."""

    # -- WebSocket ---------------------------------------------------------------------------------
    ws_status: int | None = None
    """Refuse the WebSocket handshake with this status; 0: never answer it."""


DEFAULT = Script()


def place(where: str | None) -> tuple[str, int]:
    """`between_events:3` -> ("between_events", 3); None -> ("", 0)."""
    name, _, number = (where or "").partition(":")
    return name, int(number or 0)


def parse(text: bytes) -> Script:
    """Read a script; raises `msgspec.MsgspecError` with a sentence about what is wrong."""
    return msgspec.json.decode(text, type=Script)
