"""`/v1/realtime`: a WebSocket that greets as vLLM does and then echoes.

Text comes back as text and bytes as bytes. The text `close:CODE:REASON` makes this side close
with that code, `drop` ends the connection without a closing frame, `ping` sends a ping frame,
`garble` sends what is no frame, and after `deaf` nothing is read any more.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

import msgspec
from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from . import script as scripts
from .engine import Engine
from .plan import short_id
from .received import Received

if TYPE_CHECKING:
    from .connection import Connection

PATH = "/v1/realtime"
MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # what uvicorn takes


class Realtime(asyncio.Protocol):
    """One WebSocket session, on the sans-I/O protocol of the `websockets` library."""

    def __init__(self, engine: Engine, connection: Connection, record: Received) -> None:
        self._engine = engine
        self._record = record
        self._connection = connection
        self._protocol = ServerProtocol(max_size=MAX_MESSAGE_BYTES)
        self._parts: list[bytes] = []
        self._opcode = Opcode.TEXT
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Taken over from HTTP."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        """The end of the session."""
        self._engine.connections.discard(self._connection)

    def data_received(self, data: bytes) -> None:
        """Frames, or the handshake."""
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._shake_hands(event)
            elif isinstance(event, Frame):
                self._take(event)
        self._flush()

    def eof_received(self) -> None:
        """The client's half is closed."""
        self._protocol.receive_eof()
        self._flush()

    def _shake_hands(self, request: Request) -> None:
        wish = request.headers.get("x-fake")
        script = scripts.parse(wish.encode() if wish else b"{}")
        if script.ws_status == 0:
            return
        if script.ws_status is not None:
            refusal = self._protocol.reject(script.ws_status, "scripted refusal")
            refusal.headers.update(script.headers)
            self._protocol.send_response(refusal)
            return
        self._protocol.send_response(self._protocol.accept(request))
        created = {"type": "session.created", "id": f"sess-{short_id()}"}
        greeting = created | {"created": int(time.time())}
        self._protocol.send_text(msgspec.json.encode(greeting))

    def _take(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._parts, self._opcode = [], frame.opcode
        elif frame.opcode is Opcode.CLOSE and (close := self._protocol.close_rcvd) is not None:
            self._record.closed_with = (int(close.code), close.reason)
            return
        elif frame.opcode is not Opcode.CONT:
            return
        self._parts.append(bytes(frame.data))
        if frame.fin:
            self._answer(b"".join(self._parts))

    def _answer(self, message: bytes) -> None:
        if self._opcode is Opcode.BINARY:
            self._protocol.send_binary(message)
        elif message.startswith(b"close:"):
            _, code, reason = message.decode().split(":", 2)
            self._protocol.send_close(int(code), reason)
        elif message == b"drop":
            self._transport.abort()
        elif message == b"garble":
            self._transport.write(b"\x83\x00")
        elif message == b"deaf":
            self._transport.pause_reading()
        else:
            if message == b"ping":
                self._protocol.send_ping(b"fake")
            self._protocol.send_text(message)

    def _flush(self) -> None:
        if self._transport.is_closing():
            return
        try:
            pieces = self._protocol.data_to_send()
        except InvalidState:
            pieces = []
        for data in pieces:
            if data:
                self._transport.write(data)
            else:
                # The library's sign for: close our half.
                self._transport.close()
