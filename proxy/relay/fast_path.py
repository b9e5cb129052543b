"""The way of a stream's tokens past parser and reader, straight to the client's socket.

The engine writes each token as one chunk, and the events in them differ in nothing but their
text. Once one was read, the next is known by the bytes around its text. With a hundred streams
most of a token's cost is memory that has left the caches meanwhile, so that what counts is how
few objects are touched: this one, the record, and the two transports.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from proxy.telemetry.record import Record

# A string without escapes: whatever else stands between its quotes, it stays one.
_TEXT = re.compile(rb'"(?:content|text|reasoning|reasoning_content|thinking)":"([^"\\]+)"')
# The first line of a chunk as servers write it; the parser knows the other ways.
_SIZES = {b"%x" % size: size for size in range(1, 2048)}
_LONGEST_SIZE_LINE = len(b"7ff\r\n")
_CHUNK_END = b"\r\n"
# Choices take turns, and the events of each have something of their own: those of one are kept.
MAX_TEMPLATES = 8


@dataclass(slots=True, eq=False, repr=False)
class FastPath(asyncio.Protocol):
    """Takes chunks with one event each that is like one before; the rest goes the long way."""

    _write: Callable[[bytes], None]
    """Takes chunks with their framing; none may overtake what the long way holds."""
    _record: Record
    _is_between_events: Callable[[], bool]
    _long_way: asyncio.Protocol = field(init=False)
    _is_between_chunks: Callable[[], bool] = field(init=False)
    _before: bytes = b""
    _after: bytes = b""
    _templates: int = 0
    _is_open: bool = False
    body_bytes: int = 0
    """Of the chunks that were passed on, without their framing."""
    last_byte: float | None = None
    """When the last of them came (monotonic seconds)."""

    def attach(self, long_way: asyncio.Protocol, is_between_chunks: Callable[[], bool]) -> None:
        """Begin, in place of `long_way`; `is_between_chunks`: all that has come is whole chunks."""
        self._long_way = long_way
        self._is_between_chunks = is_between_chunks
        self._refresh()

    def learn_template(self, event: bytes) -> None:
        """Learn from `event`, which carries something generated and nothing else."""
        if self._templates < MAX_TEMPLATES and (text := _TEXT.search(event)) is not None:
            self._templates += 1
            self._before = event[: text.start(1)]
            self._after = event[text.end(1) :] + _CHUNK_END

    def data_received(self, data: bytes) -> None:
        matched = 0
        if self._is_open:
            # Take the chunks at the beginning that hold one such event each, and count them.
            before, after = self._before, self._after
            now, all_bytes = monotonic(), len(data)
            while matched < all_bytes:
                line_end = data.find(_CHUNK_END, matched, matched + _LONGEST_SIZE_LINE)
                size = _SIZES.get(data[matched:line_end])
                if size is None:
                    break
                start = line_end + len(_CHUNK_END)
                end = start + size + len(_CHUNK_END)
                text, text_end = start + len(before), end - len(after)
                if not (data.startswith(after, text_end) and data.startswith(before, start)):
                    break
                # At least something, and nothing that could end the string.
                if text >= text_end or data.find(b'"', text, text_end) >= 0:
                    break
                if data.find(b"\\", text, text_end) >= 0:
                    break
                self._record.token_event(now)
                self.body_bytes += size
                self.last_byte = now
                matched = end
        if matched == len(data):
            self._write(data)
            return
        if matched:
            self._write(data[:matched])
            data = data[matched:]
        self._long_way.data_received(data)
        self._refresh()

    def _refresh(self) -> None:
        between = self._is_between_chunks() and self._is_between_events()
        self._is_open = bool(self._before) and between

    def connection_lost(self, exc: Exception | None) -> None:
        self._long_way.connection_lost(exc)

    def pause_writing(self) -> None:
        self._long_way.pause_writing()

    def resume_writing(self) -> None:
        self._long_way.resume_writing()
