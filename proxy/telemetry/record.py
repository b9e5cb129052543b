"""Everything known of one request: filled on its way, finished exactly once.

Times are seconds of the monotonic clock. A value that is not known stays None and is
left out of the log line; nothing is made up.
"""

from __future__ import annotations

from enum import StrEnum
from time import monotonic
from typing import NamedTuple

import msgspec

from proxy.errors import Source


class Outcome(StrEnum):
    """How a request ended; the closed set of the `outcome` label."""

    OK = "ok"
    CLIENT_CLOSED = "client_closed"
    CLIENT_ERROR = "client_error"
    REJECTED = "rejected"
    TIMEOUT = "timeout"
    ENGINE_ERROR = "engine_error"
    ENGINE_DIED = "engine_died"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    PROXY_ERROR = "proxy_error"


# An answer that ended so had no last byte: before its end there was silence, and no work of ours.
_BROKEN_OFF = (
    Outcome.CLIENT_CLOSED,
    Outcome.TIMEOUT,
    Outcome.ENGINE_DIED,
    Outcome.PROXY_ERROR,
)


class TraceContext(NamedTuple):
    """Where in a trace a request stands: `headers` are what the engine gets of it."""

    traceparent: str | None
    headers: tuple[tuple[bytes, bytes], ...]


class Record(msgspec.Struct, eq=False, gc=False):
    """One request. Token counts are the engine's own; byte counts are of bodies.

    `method` and `path` are empty where what came could not be read as a request. `key` is the
    label of its API key, None where no key was needed or none was good. `stream` is what the client
    asked for, None where its body was not read. `traceparent` is the
    client's, where it is sane; where a span is made of the request, it is that span's own.
    """

    method: str
    path: str
    route: str
    request_id: str = ""
    traceparent: str | None = None
    tracestate: str | None = None
    key: str | None = None
    model: str | None = None
    status: int | None = None
    outcome: Outcome | None = None
    error_source: Source | None = None
    error: str | None = None
    stream: bool | None = None
    images: int = 0
    videos: int = 0
    audios: int = 0
    media_counted: bool = True
    """False where they are too many values to look through; then none is counted."""
    bytes_in: int = 0
    bytes_out: int = 0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    finish_reason: str | None = None
    client: str | None = None
    user_agent: str | None = None
    retries: int | None = None

    span_headers: tuple[tuple[bytes, bytes], ...] = ()
    """What the engine gets in place of the client's trace context; empty without a span."""

    creation: Record | None = None
    """The request for which the tokens of this one were generated, where that is another one: its
    key pays for them."""

    media_bytes: int = 0
    """Of the files that were fetched in the engine's place."""
    media_seconds: float | None = None

    started: float = msgspec.field(default_factory=monotonic)
    body_read: float | None = None
    sent: float | None = None
    connect_seconds: float | None = None
    first_byte: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    last_event: float | None = None
    """Of a stream, with or without tokens in it, that shows that the engine works on it."""
    generated_events: int = 0
    longest_gap_seconds: float = 0.0
    engine_queue_seconds: float | None = None
    engine_ttft_seconds: float | None = None
    client_stall_seconds: float = 0.0
    waited_seconds: float = 0.0
    """For the engine, or for a place at it, before the body was read."""
    engine: str | None = None
    """The name of the model whose engine it is for; None where there is only one."""
    model_wait_seconds: float | None = None
    """For that model to be loaded, also in vain; None where it was, and where there is only one."""
    held_seconds: float = 0.0
    """The same with the body read: the engine had died a moment before."""
    last_byte: float | None = None
    finished: float | None = None

    def token_event(self, now: float) -> None:
        """An event that carries something generated has come."""
        if self.last_token is None:
            self.first_token = now
        elif (gap := now - self.last_token) > self.longest_gap_seconds:
            self.longest_gap_seconds = gap
        self.last_token = now
        self.generated_events += 1

    def forget_tokens(self) -> None:
        """The counts so far were not of the whole request."""
        self.prompt_tokens = self.cached_tokens = None
        self.completion_tokens = self.reasoning_tokens = None

    def fail(self, outcome: Outcome, source: Source, error: str) -> None:
        """Note the first thing that went wrong; what follows from it is not noted."""
        if self.outcome is None:
            self.outcome, self.error_source, self.error = outcome, source, error

    def finish(self) -> None:
        self.finished = monotonic()
        if self.outcome is None:
            self.outcome = Outcome.OK

    @property
    def trace_id(self) -> str | None:
        """32 hexadecimal digits (W3C trace context: version-traceid-parentid-flags)."""
        return self.traceparent[3:35] if self.traceparent is not None else None

    @property
    def is_sampled(self) -> bool:
        """Whether the trace is kept."""
        return self.traceparent is not None and bool(int(self.traceparent[-2:], 16) & 1)

    @property
    def modalities(self) -> list[str]:
        """What the request held; nothing where no body came, and where that is not known."""
        if not (self.bytes_in and self.media_counted):
            return []
        if not (self.images or self.videos or self.audios):
            return ["text"]
        counts = (("image", self.images), ("video", self.videos), ("audio", self.audios))
        return ["text", *(name for name, count in counts if count)]

    @property
    def charged_tokens(self) -> int:
        """What `payer` pays: the engine's usage. Where the client left before it was known, the
        events that were generated: each is a token at least."""
        generated = self.completion_tokens
        tokens = (self.prompt_tokens or 0) + (
            self.generated_events if generated is None else generated
        )
        paid = self.creation.charged_tokens if self.creation is not None else 0
        return max(tokens - paid, 0)

    @property
    def payer(self) -> str | None:
        """The label of the key that pays for `charged_tokens`."""
        return (self.creation or self).key

    @property
    def duration_seconds(self) -> float:
        return (self.finished if self.finished is not None else monotonic()) - self.started

    @property
    def ttft_seconds(self) -> float | None:
        """First byte of the request to the first event with something generated."""
        return None if self.first_token is None else self.first_token - self.started

    @property
    def itl_mean_seconds(self) -> float | None:
        if self.first_token is None or self.last_token is None or self.generated_events < 2:
            return None
        return (self.last_token - self.first_token) / (self.generated_events - 1)

    @property
    def tokens_per_second(self) -> float | None:
        """Output rate without the prefill: tokens after the first over the time after the first."""
        if self.first_token is None or self.last_token is None or not self.completion_tokens:
            return None
        span, after_first = self.last_token - self.first_token, self.completion_tokens - 1
        return after_first / span if span > 0 and after_first else None

    @property
    def overhead_seconds(self) -> float | None:
        """Our own share: body read to request sent, and last byte to the end of the answer.

        Not what others made us wait for: the engine's connection, the servers of media URLs, an
        engine or a client that had fallen silent before the answer broke off.
        """
        if self.body_read is None or self.sent is None:
            return None
        waited = (self.connect_seconds or 0.0) + (self.media_seconds or 0.0) + self.held_seconds
        before = self.sent - self.body_read - waited
        if self.last_byte is None or self.finished is None or self.outcome in _BROKEN_OFF:
            return max(before, 0.0)
        return max(before, 0.0) + max(self.finished - self.last_byte, 0.0)

    @property
    def split_seconds(self) -> dict[str, float]:
        """Where the time went, in seconds; together that is how long the request took.

        `queued` is the wait for the engine or for a place at it, `media` that for the servers of
        media URLs; a request without them has no such part. One that never came to the engine has
        only what was before, and `other`. An answer in one piece is all `generating`: when its
        first token was there is not known.
        """
        queued = self.waited_seconds
        received = self.body_read if self.body_read is not None else self.started + queued
        parts = {"receiving": max(received - self.started - queued, 0.0)}
        if queued or self.held_seconds:
            parts["queued"] = queued + self.held_seconds
        if self.media_seconds:
            parts["media"] = self.media_seconds
        if self.sent is not None:
            sent, end = max(self.sent, received), self.last_byte or self.finished or monotonic()
            first = self.first_token if self.first_token is not None else sent
            parts["waiting"] = max(first - sent, 0.0)
            parts["generating"] = max(end - first, 0.0)
            parts["sidecar"] = self.overhead_seconds or 0.0
        parts["other"] = max(self.duration_seconds - sum(parts.values()), 0.0)
        return parts
