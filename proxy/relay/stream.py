"""A stream of server-sent events as bytes: read on the way through, one event withheld.

Whole events are passed on as they were; the end of a chunk that is only the beginning
of an event waits for the rest of it (a client cannot use it either), up to a bound.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

import msgspec

from proxy.access.routes import Route
from proxy.relay.event import TOKEN, EventSummary, Reader
from proxy.relay.skim import Skim
from proxy.relay.timings import note_timings
from proxy.telemetry.record import Record

# An event longer than this is passed on in pieces, and skimmed. The last event of
# `/v1/responses` repeats the whole answer, and has the usage.
MAX_HELD_BYTES = 1024 * 1024

# Two line ends, each CRLF, LF or CR (WHATWG server-sent events). A CR at the very end
# may be half of a CRLF: it waits for the next byte.
_EVENT_END = re.compile(rb"(?:\r\n|\n|\r(?![\n]|\Z))(?:\r\n|\n|\r(?![\n]|\Z))")
_LONGEST_END = 4
_SEQUENCE_NUMBER = re.compile(rb'"sequence_number": ?(\d{1,15})\b')
# Streams that may begin with events before the engine has done anything for them.
_OPENS_IDLE = (Route.RESPONSES, Route.EXTRA)


class EventStream:
    """Feed it chunks; it answers with the bytes to pass on and fills the record."""

    def __init__(
        self, read: Reader, record: Record, *, withhold_usage: bool, generates: bool = True
    ) -> None:
        """`generates` is False where nothing is generated for this request: a stream replayed."""
        self.on_token: Callable[[bytes], None] | None = None
        """Called with each event that carries something generated and nothing else."""
        self._read = read
        self._record = record
        self._withhold_usage = withhold_usage
        self._generates = generates
        self._held = b""
        self.inside_event = False
        """A part of an event has been passed on, and its end has not."""
        self._skim = Skim()
        self._several_choices = False
        self._has_begun = False
        self.error: str | None = None
        self.is_clients_error = False
        self.finished = False
        """The event that ends the answer has been passed on."""
        self._latest = b""

    def feed(self, chunk: bytes, now: float) -> bytes:
        """Pass `chunk` on; `now` (monotonic seconds) is when it came."""
        searched = 0
        if self._held:
            searched = max(len(self._held) - _LONGEST_END + 1, 0)
            chunk, self._held = self._held + chunk, b""
        if self.inside_event or not chunk.endswith(b"\n\n") or b"\r" in chunk:
            return self._feed_ragged(chunk, searched, now)
        if chunk.find(b"\n") == len(chunk) - 2:  # one event of one line: nearly all are
            return b"" if self._withheld(chunk, now) else chunk
        # Whole events that end in LF LF: the shape the engine writes.
        events = [event + b"\n\n" for event in chunk[:-2].split(b"\n\n")]
        return b"".join(event for event in events if not self._withheld(event, now))

    def close(self) -> bytes:
        """What is still held when the engine ended the stream properly."""
        held, self._held = self._held, b""
        # A last event without its blank line: many clients take it all the same.
        is_event = bool(held) and not self.inside_event
        return b"" if is_event and self._withheld(held, monotonic()) else held

    def cut_off(self) -> bytes:
        """What must precede an error event after the engine broke the stream off."""
        self._held = b""
        return b"\n\n" if self.inside_event else b""

    @property
    def next_sequence_number(self) -> int:
        """Of an event that is to follow; only `/v1/responses` numbers its events."""
        numbered = _SEQUENCE_NUMBER.search(self._latest)
        return int(numbered[1]) + 1 if numbered is not None else 0

    def is_between_events(self) -> bool:
        """Nothing is held, and nothing was passed on of an event that is not over."""
        return not (self._held or self.inside_event)

    def _feed_ragged(self, data: bytes, searched: int, now: float) -> bytes:
        """Any bytes; no event ends in the first `searched` of them."""
        passed = []
        start = 0
        for end in _EVENT_END.finditer(data, searched):
            event = data[start : end.end()]
            start = end.end()
            if self.inside_event:
                self.inside_event = False
                self._skim.feed(event)
                text, self._skim = self._skim.summary(), Skim()
                with suppress(msgspec.MsgspecError):
                    summary = self._read(text)
                    if summary is not TOKEN:  # as such it was noted at its beginning
                        self._note(summary, now)
                passed.append(event)
            elif not self._withheld(event, now):
                passed.append(event)
        passed.append(self._hold(data[start:], now))
        return b"".join(passed)

    def _hold(self, rest: bytes, now: float) -> bytes:
        if self.inside_event and rest:
            # The last bytes may be the first of the event's end.
            passed = rest.rstrip(b"\r\n")
            self._held = rest[len(passed) :]
            self._skim.feed(passed)
            return passed
        if len(rest) <= MAX_HELD_BYTES:
            self._held = rest
            return b""
        self.inside_event = True
        # Those with names generate by their deltas; chat and completions have no names.
        name = rest[: rest.find(b"\n")] if rest.startswith(b"event:") else b"delta"
        if self._generates and b"delta" in name:
            self._record.token_event(now)
        return self._hold(rest, now)

    def _withheld(self, event: bytes, now: float) -> bool:
        payload = data_of(event)
        if payload is None or payload == b"[DONE]":
            self.finished = self.finished or payload is not None
            return False
        self._latest = payload
        try:
            summary = self._read(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False
        if summary is TOKEN:
            self._record.token_event(now)
            if self.on_token is not None:
                self.on_token(event)
            return False
        self._note(summary, now)
        return summary.usage_only and self._withhold_usage

    def _note(self, summary: EventSummary, now: float) -> None:
        record = self._record
        if not (self._has_begun or record.generated_events):
            self._has_begun = True
            # Usage with the very first words is the operator's wish
            # (`--enable-force-include-usage`): this client would have got the last event without
            # us, too.
            if summary.usage is not None and not summary.usage_only:
                self._withhold_usage = False
        if summary.generated:
            record.token_event(now)
        elif summary.error is None and (record.generated_events or record.route not in _OPENS_IDLE):
            record.last_event = now
        if summary.usage is not None:
            # With `continuous_usage_stats`, what comes in the middle is of one choice: a total
            # only where there is but one.
            if summary.usage_of and not self._several_choices:
                self._several_choices = True
                record.forget_tokens()
            if summary.usage_of is None or not self._several_choices:
                summary.usage.fill(record)
        if summary.timings is not None:
            note_timings(record, summary.timings)
        if summary.finish_reason is not None:
            record.finish_reason = summary.finish_reason
        if summary.error is not None:
            self.error, self.is_clients_error = summary.error, summary.is_clients_error
        if summary.last:
            self.finished = True


def data_of(event: bytes) -> bytes | None:
    """The event's data, or None where it has none (a comment, a keep-alive)."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]
    lines = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(line.strip() for line in lines) if lines else None
