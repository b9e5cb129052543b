"""The engine's answer on its way to the client: passed on untouched, read in passing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import monotonic

import msgspec

from proxy.edge.routes import Route
from proxy.errors import RequestFailure, Source
from proxy.relay.event import Said, answer_reader, event_reader
from proxy.relay.headers import Headers, get
from proxy.relay.refusal import error_event
from proxy.relay.shortcut import Shortcut
from proxy.relay.stream import EventStream
from proxy.relay.timings import note_timings
from proxy.telemetry.record import Outcome, Record

# A longer JSON answer is passed on all the same; only its usage is not read.
MAX_READ_BYTES = 16 * 1024 * 1024


class PlainAnswer:
    """An answer that is not a stream of events."""

    def __init__(self, route: Route, headers: Headers, record: Record) -> None:
        self._route = route
        self._record = record
        is_json = _content_type(headers).startswith(b"application/json")
        self._is_json = is_json and not _is_encoded(headers)
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes, now: float) -> bytes:
        self._size += len(chunk)
        if self._is_json and self._size <= MAX_READ_BYTES:
            self._pieces.append(chunk)
        return chunk

    def close(self) -> bytes:
        """Read the whole answer; no byte is left to pass on."""
        said = Said()
        if self._pieces and self._size <= MAX_READ_BYTES:
            with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                said = answer_reader(self._route)(b"".join(self._pieces))
        if said.usage is not None:
            said.usage.fill(self._record)
        if said.timings is not None:
            note_timings(self._record, said.timings)
        self._record.finish_reason = said.finish_reason
        note_error(self._record, said.error)
        return b""


class StreamedAnswer:
    """A stream of server-sent events."""

    def __init__(self, route: Route, record: Record, *, withhold_usage: bool) -> None:
        self._record = record
        record.stream = True
        self._events = EventStream(event_reader(route), record, withhold_usage=withhold_usage)
        self.feed = self._events.feed  # one call less for each token

    def close(self) -> bytes:
        rest = self._events.close()
        note_error(self._record, self._events.error)
        return rest

    @property
    def finished(self) -> bool:
        """The event that ends the answer has been passed on."""
        return self._events.finished

    @property
    def inside_event(self) -> bool:
        """A part of an event has been passed on, and its end has not."""
        return self._events.inside_event

    def shortcut(self, write: Callable[[bytes], None]) -> Shortcut:
        """A way for tokens past this; `write` takes chunks with their framing."""
        shortcut = Shortcut(write, self._record, self._events.is_between_events)
        self._events.on_token = shortcut.learn
        return shortcut

    def broken_off(self, failure: RequestFailure, route: Route) -> bytes:
        """What ends it where the engine has not, so that it cannot look finished."""
        events = self._events
        return events.cut_off() + error_event(failure, route, events.next_sequence_number)


Answer = PlainAnswer | StreamedAnswer


def answer_for(route: Route, headers: Headers, record: Record, *, withhold_usage: bool) -> Answer:
    if is_event_stream(headers) and not _is_encoded(headers):
        return StreamedAnswer(route, record, withhold_usage=withhold_usage)
    return PlainAnswer(route, headers, record)


def is_event_stream(headers: Headers) -> bool:
    return _content_type(headers).startswith(b"text/event-stream")


def note_error(record: Record, error: str | None) -> None:
    """Settle the outcome by what the engine said: its status, or an error inside a 200."""
    status = record.status or 0
    if status >= 500:
        record.fail(Outcome.ENGINE_ERROR, Source.UPSTREAM, error or f"status_{status}")
    elif status >= 400:
        record.fail(Outcome.CLIENT_ERROR, Source.CLIENT, error or f"status_{status}")
    elif error is not None or record.finish_reason == "abort":
        record.fail(Outcome.ENGINE_ERROR, Source.UPSTREAM, error or "abort")


def server_timing(record: Record) -> bytes:
    """Phases before the headers, in ms, as `Server-Timing` gives them."""
    now = monotonic()
    body = (record.body_read or record.started) - record.started
    engine = (record.first_byte or now) - (record.sent or now)
    phases = b"body;dur=%.1f, engine;dur=%.1f" % (body * 1000, engine * 1000)
    if record.connect_seconds is None:
        return phases
    return phases + b", connect;dur=%.1f" % (record.connect_seconds * 1000)


def _is_encoded(headers: Headers) -> bool:
    """Compressed: its bytes say nothing to us, and pass as they are."""
    return get(headers, b"content-encoding") not in (None, b"identity")


def _content_type(headers: Headers) -> bytes:
    return (get(headers, b"content-type") or b"").lower()
