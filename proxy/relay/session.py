"""A WebSocket session on its way from the engine: frames as they are, read in passing (RFC 6455).

What the client sends is not read at all: it is the engine's to judge, and its limits hold.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from proxy.access.routes import Route
from proxy.errors import CutOff, EngineDied, InvalidEngineResponse, RequestFailure
from proxy.relay.event import note_realtime_event
from proxy.telemetry.record import Outcome, Record

# Longer events are passed on unread.
MAX_READ_BYTES = 1024 * 1024
# How long the engine may leave its connection open behind its close frame.
_CLOSE_SECONDS = 10.0
_CONTINUATION, _TEXT, _CLOSE = 0x0, 0x1, 0x8
_OPCODES = (_CONTINUATION, _TEXT, 0x2, _CLOSE, 0x9, 0xA)
_FIN, _RESERVED, _OPCODE, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F
# Bytes of the length where the seven bits have one of these.
_LONG_LENGTHS = {126: 2, 127: 8}
# Whole pings and pongs. Of these an engine sends as many as its client asks for: a read is full of
# them, and one by one they would hold up all streams for 100 ms.
_PAYLOADS = (b"%b.{%d}" % (re.escape(bytes((size,))), size) for size in range(126))
_PINGS_AND_PONGS = re.compile(b"(?:[\x89\x8a](?:%b))++" % b"|".join(_PAYLOADS), re.DOTALL)
_INTERNAL_ERROR, _SERVICE_RESTART = 1011, 1012
# Of a close frame: 125 bytes less those of the code.
_MAX_REASON_BYTES = 123


class SessionAnswer:
    """Feed it what the engine sends; it answers with the bytes to pass on and fills the record."""

    def __init__(self, record: Record, abort: Callable[[RequestFailure], None]) -> None:
        """`abort` ends the engine's connection."""
        self._record = record
        self._abort = abort
        self._is_garbled = False
        self.finished = False
        """The engine's close frame has been passed on."""
        self._limit: asyncio.TimerHandle | None = None
        # A header that is not whole is held; of the frame behind one, so much is still to come.
        self._held = b""
        self._left = 0
        self._opcode = 0
        self._is_last = False
        # The text that comes in this frame, or in several.
        self._text: bytearray | None = None

    def feed(self, chunk: bytes, now: float) -> bytes:
        if self.finished or self._is_garbled:
            return b""
        data, self._held = self._held + chunk, b""
        end = self._take(data, 0)
        while end < len(data) and not self.finished:
            if (skipped := _PINGS_AND_PONGS.match(data, end)) is not None:
                end = skipped.end()
                continue
            payload = self._read_header(data, end)
            if payload is None:
                self._held = data[end:]
                break
            end = self._take(data, payload)
        return data[:end]

    def close(self) -> bytes:
        """The engine has ended its connection."""
        if self._limit is not None:
            self._limit.cancel()
        if self.finished:
            return b""
        failure = EngineDied("The engine ended the session without closing it.")
        self._record.fail(Outcome.ENGINE_DIED, failure.source, failure.code)
        return self.broken_off(failure)

    def broken_off(self, failure: RequestFailure, route: Route | None = None) -> bytes:
        """A close frame in the engine's place; none fits into the middle of a frame."""
        if self._left or self.finished:
            return b""
        code = _SERVICE_RESTART if isinstance(failure, CutOff) else _INTERNAL_ERROR
        reason = failure.message.encode()[:_MAX_REASON_BYTES].decode(errors="ignore").encode()
        return bytes((_FIN | _CLOSE, 2 + len(reason))) + code.to_bytes(2) + reason

    def _read_header(self, data: bytes, at: int) -> int | None:
        """Where the payload behind a frame's header begins; None where more has to come."""
        if len(data) < at + 2:
            return None
        first, second = data[at], data[at + 1]
        if first & _RESERVED or first & _OPCODE not in _OPCODES or second & _MASKED:
            self._is_garbled = True
            text = "What the engine sent in the session is no WebSocket frame."
            self._abort(InvalidEngineResponse(text))
            return None
        length, begin = second & _LENGTH, at + 2
        if (size := _LONG_LENGTHS.get(length)) is not None:
            if len(data) < begin + size:
                return None
            length, begin = int.from_bytes(data[begin : begin + size]), begin + size
        self._left, self._opcode, self._is_last = length, first & _OPCODE, bool(first & _FIN)
        if self._opcode == _TEXT:
            self._text = bytearray()
        if not length:
            self._end_frame()
        return begin

    def _take(self, data: bytes, begin: int) -> int:
        """Take what has come of a frame's payload; returns where it ends."""
        if not self._left:
            return begin
        end = min(begin + self._left, len(data))
        self._left -= end - begin
        if self._text is not None and self._opcode in (_TEXT, _CONTINUATION):
            self._text += data[begin:end]
            if len(self._text) > MAX_READ_BYTES:
                self._text = None
        if not self._left:
            self._end_frame()
        return end

    def _end_frame(self) -> None:
        if self._opcode == _CLOSE:
            self.finished = True
            failure = EngineDied("The engine did not end the session that it had closed.")
            loop = asyncio.get_running_loop()
            self._limit = loop.call_later(_CLOSE_SECONDS, self._abort, failure)
        elif self._text is not None and self._is_last and self._opcode in (_TEXT, _CONTINUATION):
            note_realtime_event(self._text, self._record)
            self._text = None
