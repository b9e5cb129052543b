"""The engine's answer on its way to the client: passed on untouched, read in passing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic

import msgspec

from proxy.access.routes import Route
from proxy.errors import RequestFailure, Source
from proxy.relay.background import BackgroundResponses, is_of_stored
from proxy.relay.event import ANSWER_READERS, EVENT_READERS, EventSummary, Reader
from proxy.relay.fast_path import FastPath
from proxy.relay.refusal import error_event
from proxy.relay.session import SessionAnswer
from proxy.relay.skim import Skim
from proxy.relay.stream import EventStream
from proxy.relay.timings import note_timings
from proxy.telemetry.record import Outcome, Record

# A longer JSON answer is not kept: it is skimmed as it passes.
MAX_HELD_BYTES = 64 * 1024
EVENT_STREAM = b"text/event-stream"
_NOTHING = EventSummary()


class PlainAnswer:
    """An answer that is not a stream of events."""

    def __init__(self, read: Reader | None, record: Record) -> None:
        """`read` reads the whole of it, where it is JSON."""
        self._read = read
        self._record = record
        self._pieces: list[bytes] = []
        self._size = 0
        self._skim: Skim | None = None

    def feed(self, chunk: bytes, now: float) -> bytes:
        if self._skim is not None:
            self._skim.feed(chunk)
        elif self._read is not None:
            self._pieces.append(chunk)
            self._size += len(chunk)
            if self._size > MAX_HELD_BYTES:
                self._skim = Skim()
                self._skim.feed(b"".join(self._pieces))
                self._pieces.clear()
        return chunk

    def close(self) -> bytes:
        """Read the answer, now that it is whole; no byte is left to pass on."""
        summary, record = _NOTHING, self._record
        if self._read is not None and self._size:
            text = b"".join(self._pieces) if self._skim is None else self._skim.summary()
            with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                summary = self._read(text)
        if summary.usage is not None:
            summary.usage.fill(record)
        if summary.timings is not None:
            note_timings(record, summary.timings)
        record.finish_reason = summary.finish_reason
        note_error(record, summary.error, is_clients=summary.is_clients_error)
        return b""


class StreamedAnswer(EventStream):
    """A stream of server-sent events, and how the answer ends."""

    def __init__(self, read: Reader, record: Record, *, withhold_usage: bool) -> None:
        generates = not is_of_stored(record)
        super().__init__(read, record, withhold_usage=withhold_usage, generates=generates)
        record.stream = True  # the body may not say so; an engine streams only when asked

    def close(self) -> bytes:
        rest = super().close()
        note_error(self._record, self.error, is_clients=self.is_clients_error)
        return rest

    def fast_path(self, write: Callable[[bytes], None]) -> FastPath:
        """A way for tokens past this; `write` takes chunks with their framing."""
        fast_path = FastPath(write, self._record, self.is_between_events)
        self.on_token = fast_path.learn_template
        return fast_path

    def broken_off(self, failure: RequestFailure, route: Route) -> bytes:
        """What ends it where the engine has not, so that it cannot look finished."""
        return self.cut_off() + error_event(failure, route, self.next_sequence_number)


Answer = PlainAnswer | StreamedAnswer | SessionAnswer


def answer_for(
    route: Route,
    named: Mapping[bytes, bytes],
    record: Record,
    background: BackgroundResponses,
    *,
    withhold_usage: bool,
) -> PlainAnswer | StreamedAnswer:
    """`named` are the headers of the engine's response."""
    kind = named.get(b"content-type", b"").lower()
    is_stream = kind.startswith(EVENT_STREAM)
    if not (is_stream or kind.startswith(b"application/json")):
        return PlainAnswer(None, record)
    read = EVENT_READERS[route] if is_stream else ANSWER_READERS[route]
    if route is Route.RESPONSES:
        read = background.reader(read, record)
    if is_stream:
        return StreamedAnswer(read, record, withhold_usage=withhold_usage)
    return PlainAnswer(read, record)


def note_error(record: Record, error: str | None, *, is_clients: bool = False) -> None:
    """Set the outcome by the status, or by an error inside a 200, which may be either side's."""
    status = record.status or 0
    if status >= 500:
        record.fail(Outcome.ENGINE_ERROR, Source.UPSTREAM, error or f"status_{status}")
    elif status >= 400 or (error is not None and is_clients):
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
