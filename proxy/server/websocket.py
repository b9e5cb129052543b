"""A client's WebSocket session, on a connection that spoke HTTP until its handshake (RFC 6455).

`websockets` reads and writes frames; what is decided here is how much of them at a time. Nothing
that a client sends or leaves unread is held without a bound, and no read holds up other clients:

- Compression is never agreed to: a message is as long as what came over the wire.
- Only so many frames are read in one turn of the event loop, with reading paused meanwhile.
- Reading pauses while messages wait to be taken, and while pongs wait for a client to read them.
- A client that has left while reading is paused is noticed all the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.client import responses as PHRASES

from websockets.datastructures import Headers as HeaderMap
from websockets.exceptions import PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from proxy.errors import BodyTooLarge, ClientClosed, MalformedRequest, RequestFailure
from proxy.server.hang_up import has_hung_up
from proxy.server.request import Headers

_END_OF_HEAD = b"\r\n\r\n"
# A frame takes 6 bytes at least, so that a turn is at most about 230 of them: 2 ms.
_SLICE_BYTES, _FRAMES_A_TURN = 1024, 64
_MAX_FRAGMENTS = 16_384
_MAX_QUEUED_MESSAGES, _MAX_QUEUED_BYTES = 16, 64 * 1024
# A client has to wait for the answer to its handshake (RFC 6455, 4.1).
_MAX_EARLY_BYTES = 16 * 1024
# How long a client may take to read why its session is over, and to end its connection.
_LINGER_SECONDS = 10.0
_HANG_UP_POLL_SECONDS = 1.0
# Of a close frame: 125 bytes less those of the code.
_MAX_REASON_BYTES = 123
_MAX_FAULT_CHARS = 200
_CLIENT_LEFT = "The client closed the connection."
_CONTROL = (Opcode.PING, Opcode.PONG, Opcode.CLOSE)


class SessionEnded(Exception):
    """The client has closed its session, or has left without a word (code 1006)."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class ClientWebSocket(asyncio.Protocol):
    """Takes a connection over from HTTP, and is its protocol from then on.

    Raises:
        MalformedRequest: the request is no WebSocket handshake; the transport is as it was.
    """

    def __init__(
        self, transport: asyncio.Transport, head: bytes, *, max_message_bytes: int
    ) -> None:
        """`head` is the handshake as it came, with what came after it."""
        head, _, early = head.partition(_END_OF_HEAD)
        self._protocol = ServerProtocol(max_size=max_message_bytes)
        request, self._response = _shake_hands(self._protocol, head + _END_OF_HEAD)
        self._max_message_bytes = max_message_bytes
        names = request.headers.get_all("Sec-WebSocket-Protocol")
        self.subprotocols = [name.strip() for each in names for name in each.split(",")]
        """Those that the client offers."""
        self.bytes_in = 0
        """Of the messages that came, unmasked and without their frames."""
        self.bytes_out = 0
        """Of the messages that were sent, or of the answer that refused the handshake."""
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._accepted = self._closing = self._gone = False
        self._ended: SessionEnded | RequestFailure | None = None
        self._on_leave: Callable[[], None] | None = None
        # What came and is not parsed yet.
        self._unread = memoryview(b"")
        self._turn: asyncio.Handle | None = None
        self._hang_up_poll: asyncio.TimerHandle | None = None
        self._last_call: asyncio.TimerHandle | None = None
        # The message that comes in fragments.
        self._is_text = False
        self._partial = bytearray()
        self._fragments = 0
        self._messages: deque[str | bytes] = deque()
        self._queued_bytes = 0
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._owes_pongs = False
        transport.set_protocol(self)
        transport.resume_reading()
        if early:
            self.data_received(early)

    # What the relay calls

    def on_disconnect(self, call: Callable[[RequestFailure], None] | None) -> None:
        """Call back once, when the connection is over; None ends the watch."""
        self._on_leave = call and partial(call, ClientClosed(_CLIENT_LEFT))
        if self._gone and self._on_leave is not None:
            self._on_leave()

    def accept(self, subprotocol: str | None, headers: Headers) -> None:
        """Answer the handshake; messages may pass from now on.

        Raises:
            ClientClosed: the client has left.
        """
        if self._gone or self._transport.is_closing():
            raise ClientClosed(_CLIENT_LEFT)
        del self._response.headers["Date"]  # nor has another answer of ours one
        if subprotocol is not None:
            self._response.headers["Sec-WebSocket-Protocol"] = subprotocol
        for name, value in headers:
            self._response.headers[name.decode("latin-1")] = value.decode("latin-1")
        self._protocol.send_response(self._response)
        self._accepted = True
        self._flush()
        self._read_on()

    def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer the handshake with something else; the connection ends with that."""
        if self._gone:
            return
        pairs = HeaderMap(
            (name.decode("latin-1"), text.decode("latin-1")) for name, text in headers
        )
        pairs.setdefault("Content-Length", str(len(body)))
        pairs.setdefault("Connection", "close")
        self._protocol.send_response(Response(status, PHRASES.get(status, ""), pairs, body))
        self.bytes_out += len(body)
        self._end(SessionEnded(CloseCode.ABNORMAL_CLOSURE))
        self._flush()

    async def receive(self) -> str | bytes:
        """The next message, text as `str`. Those that came before the end come before it.

        Raises:
            SessionEnded: the client has closed the session, or has left.
            MalformedRequest, BodyTooLarge: what came is no message; the session is closed for it.
        """
        while not self._messages:
            if self._ended is not None:
                raise self._ended
            self._news.clear()
            await self._news.wait()
        message = self._messages.popleft()
        self._queued_bytes -= len(message)
        if not self._transport.is_reading():
            self._read_soon()
        return message

    async def send(self, message: str | bytes) -> None:
        """Send a message, once the client has read most of those before.

        Raises:
            SessionEnded: nothing can be sent any more.
        """
        await self._writable.wait()
        if self._gone or self._protocol.state is not State.OPEN:
            raise SessionEnded(CloseCode.ABNORMAL_CLOSURE)
        if isinstance(message, str):
            data = message.encode()
            self._protocol.send_text(data)
        else:
            data = message
            self._protocol.send_binary(data)
        self.bytes_out += len(data)
        self._flush()

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame; does nothing where one was sent already.

        What the client has sent and was not taken is dropped. Its connection ends when it
        answers, or after 10 s. A reason of more than 123 bytes is cut.
        """
        if not self._accepted or self._protocol.state is not State.OPEN:
            return
        self._protocol.send_close(code, _cut(reason))
        self._closing = True
        self._messages.clear()
        self._queued_bytes = 0
        self._end_soon()
        self._flush()
        self._read_soon()

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        if self._ended is not None:  # it may read why, and need not stop to write for that
            return
        self._unread = memoryview(bytes(self._unread) + data)
        if self._accepted:
            self._read_on()
        elif len(self._unread) > _MAX_EARLY_BYTES:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
        if self._owes_pongs:
            self._owes_pongs = False
            self._read_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._end(SessionEnded(CloseCode.ABNORMAL_CLOSURE))
        self._writable.set()  # nothing is written any more; end the wait
        for handle in (self._turn, self._hang_up_poll, self._last_call):
            if handle is not None:
                handle.cancel()
        if self._on_leave is not None:
            self._on_leave()

    # Reading

    def _read_soon(self) -> None:
        if self._turn is None and not self._gone:
            self._turn = self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """Parse a turn's worth of what has come, then let others have theirs."""
        self._turn = None
        frames = 0
        while self._unread and self._may_read() and frames < _FRAMES_A_TURN:
            piece, self._unread = self._unread[:_SLICE_BYTES], self._unread[_SLICE_BYTES:]
            self._protocol.receive_data(bytes(piece))
            events = self._protocol.events_received()
            frames += len(events)
            for event in events:
                assert isinstance(event, Frame)
                self._take(event)
            if (fault := self._protocol.parser_exc) is not None:
                sent = self._protocol.close_sent
                reason = sent.reason if sent is not None else "it could not be read"
                failure: RequestFailure = MalformedRequest(
                    f"What came is no WebSocket frame: {reason}."
                )
                if isinstance(fault, PayloadTooBig):
                    limit = f"{self._max_message_bytes / 1024 / 1024:g} MiB"
                    text = f"A message is larger than {limit}. Send less, or raise MAX_BODY_MB."
                    failure = BodyTooLarge(text)
                self._end(failure)
            self._flush()
        if self._ended is not None:
            self._unread = memoryview(b"")
        if self._transport.is_closing():
            return
        if self._unread or not self._may_read():
            self._transport.pause_reading()
            if self._may_read():
                self._read_soon()
            else:
                self._watch_for_hang_up()
        else:
            self._transport.resume_reading()

    def _may_read(self) -> bool:
        if self._ended is not None:
            return True
        is_full = (
            len(self._messages) >= _MAX_QUEUED_MESSAGES or self._queued_bytes >= _MAX_QUEUED_BYTES
        )
        return not is_full and not self._owes_pongs

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PING:
            self._owes_pongs = not self._writable.is_set()
        elif frame.opcode is Opcode.CLOSE:
            received = self._protocol.close_rcvd
            assert received is not None
            self._end(SessionEnded(received.code, received.reason))
        if frame.opcode in _CONTROL or self._closing or self._ended is not None:
            return
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
            self._fragments = 0
        self._fragments += 1
        if self._fragments > _MAX_FRAGMENTS:
            text = f"A message may have {_MAX_FRAGMENTS} fragments."
            self._fail(CloseCode.MESSAGE_TOO_BIG, BodyTooLarge(text))
        elif not frame.fin:
            self._partial += frame.data
        else:
            data = bytes(self._partial + frame.data if self._partial else frame.data)
            self._partial = bytearray()
            self.bytes_in += len(data)
            try:
                message = data.decode() if self._is_text else data
            except UnicodeDecodeError:
                text = "What came as text is not UTF-8."
                self._fail(CloseCode.INVALID_DATA, MalformedRequest(text))
                return
            self._messages.append(message)
            self._queued_bytes += len(message)
            self._news.set()

    def _watch_for_hang_up(self) -> None:
        if self._hang_up_poll is None:
            poll = self._loop.call_later(_HANG_UP_POLL_SECONDS, self._look_for_hang_up)
            self._hang_up_poll = poll

    def _look_for_hang_up(self) -> None:
        self._hang_up_poll = None
        if self._transport.is_closing() or self._transport.is_reading():
            return
        if has_hung_up(self._transport):
            self._transport.abort()
        else:
            self._watch_for_hang_up()

    # The end

    def _fail(self, code: CloseCode, failure: RequestFailure) -> None:
        """Close the session because of what came."""
        self._protocol.fail(code, _cut(failure.message))
        self._end(failure)

    def _end(self, why: SessionEnded | RequestFailure) -> None:
        """No message comes after those that are queued."""
        if self._ended is None:
            self._ended = why
        self._news.set()

    def _end_soon(self) -> None:
        if self._last_call is None and not self._gone:
            self._last_call = self._loop.call_later(_LINGER_SECONDS, self._transport.abort)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if self._transport.is_closing():
                continue
            if data:
                self._transport.write(data)
            else:  # the library's sign for the end. Closed at once, what is unread would undo it.
                self._transport.write_eof()
                self._end_soon()
                self._read_soon()


def _shake_hands(protocol: ServerProtocol, head: bytes) -> tuple[Request, Response]:
    """The handshake, and the answer that takes it."""
    protocol.receive_data(head)
    requests = [event for event in protocol.events_received() if isinstance(event, Request)]
    if requests:
        response = protocol.accept(requests[0])
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            return requests[0], response
    fault: BaseException | None = protocol.handshake_exc
    if fault is not None and not requests:
        fault = fault.__cause__ or fault  # names what is wrong
    raise MalformedRequest(f"What came is no WebSocket handshake: {str(fault)[:_MAX_FAULT_CHARS]}.")


def _cut(reason: str) -> str:
    return reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
