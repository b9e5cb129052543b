"""One request and its response on a client's connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic
from typing import Protocol

from proxy.errors import BodyTooLarge, ClientClosed, RequestFailure
from proxy.server.request import Headers, Request

# Of a body that is not taken yet: no more is read until it is.
HIGH_WATER_BYTES = 64 * 1024
_CLIENT_LEFT = "The client closed the connection."
_SWITCHING_PROTOCOLS = 101
_OK = 200
_WITHOUT_BODY = (204, 304)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}".encode() for each in HTTPStatus}


class Connection(Protocol):
    """The client's connection, as one exchange on it sees it."""

    transport: asyncio.Transport
    is_lost: bool
    """Nothing more comes from the client, or reaches it."""
    is_write_paused: bool

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None:
        """Read on, unless too many requests wait already."""

    async def drain(self) -> None:
        """Wait until the client reads again, or has left."""


@dataclass(eq=False, repr=False, slots=True)
class Exchange:
    """Takes a request's body, and writes the response by the rules of HTTP/1.1."""

    _connection: Connection
    request: Request
    keep_alive: bool
    waits_for_continue: bool
    """The client waits for `100 Continue` before it sends its body."""
    is_session: bool = False
    """It offers a WebSocket: its body is the frames behind its head, which have no end."""
    failure: RequestFailure | None = None
    """Why the rest of the request, or what came behind it, cannot be read."""
    is_complete: bool = False
    """The whole request has come."""
    is_over: bool = False
    """The whole response has been written."""
    added: bytes = b""
    """Header lines that the response gets, whatever makes it."""
    received_bytes: int = 0
    """Of the request's body, as far as it was taken."""
    sent_bytes: int = 0
    """Of the response's body, without its framing."""
    stall_seconds: float = 0.0
    """How long the client did not read what was there for it."""
    started: bool = False
    is_padded: bool = False
    """The response began before it was known (`pad`): `start` comes too late for its head."""
    _body: bytes | bytearray = b""
    _wanted: int = 0
    _waiter: asyncio.Future[None] | None = None
    _head: bytes = b""
    _chunked: bool = False
    _has_body: bool = True
    _on_leave: Callable[[RequestFailure], None] | None = None
    _pause: Callable[[], None] | None = None
    _resume: Callable[[], None] | None = None
    _behind_since: float | None = None

    # The request's body.

    async def whole_body(self, limit_bytes: int) -> bytes | bytearray:
        """The body in one piece; at no moment is it in memory twice, or before it has come.

        Raises:
            BodyTooLarge: it is longer than `limit_bytes`, or declared to be.
            ClientClosed: the client left before its end.
            MalformedRequest, RequestTimeout: its rest is not HTTP, or does not come.
        """
        if not self.is_complete:
            self._check_declared(limit_bytes)
            await self._until(limit_bytes + 1)
        body, self._body = self._body, b""
        self.received_bytes = len(body)
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
        if not self.is_complete:
            raise self.failure or ClientClosed(_CLIENT_LEFT)
        return body

    async def body(self, limit_bytes: float) -> AsyncGenerator[bytes | bytearray, None]:
        """The body, piece by piece.

        Raises:
            BodyTooLarge, ClientClosed, MalformedRequest, RequestTimeout: as `whole_body`.
        """
        self._check_declared(limit_bytes)
        while True:
            await self._until(1)
            piece, self._body = self._body, b""
            self.received_bytes += len(piece)
            if self.received_bytes > limit_bytes:
                raise _too_large(limit_bytes)
            if not self.is_complete:
                if self.failure is not None:
                    raise self.failure
                if self._connection.is_lost:
                    raise ClientClosed(_CLIENT_LEFT)
            if piece:
                yield piece
            if self.is_complete and not self._body:
                return

    @property
    def unreadable(self) -> RequestFailure | None:
        """Why what came is no request at all."""
        return self.failure if not self.request.method else None

    def _check_declared(self, limit_bytes: float) -> None:
        if (self.request.declared_length or 0) > limit_bytes:
            raise _too_large(limit_bytes)

    async def _until(self, size: int) -> None:
        """Wait until so many bytes of the body are there, or nothing more will come."""
        connection = self._connection
        if self.waits_for_continue and not connection.is_lost:
            self.waits_for_continue = False
            connection.transport.write(_CONTINUE)
        self._wanted = size
        while len(self._body) < size and not (
            self.is_complete or self.failure is not None or connection.is_lost
        ):
            connection.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    # What comes of the request, as the connection has read it.

    def feed(self, piece: bytes) -> None:
        """A part of the body."""
        if self.is_over:
            return  # it is not wanted any more
        if not self._body:
            self._body = piece
        elif isinstance(self._body, bytearray):
            self._body += piece
        else:
            self._body = bytearray(self._body)
            self._body += piece
        size = len(self._body)
        if self._waiter is not None and size >= self._wanted:
            self._wake()
        if size > HIGH_WATER_BYTES and (self._waiter is None or size >= self._wanted):
            self._connection.pause_reading()

    def complete(self) -> None:
        """The request has ended."""
        self.is_complete = True
        if self._waiter is not None:
            self._wake()

    def fail(self, failure: RequestFailure) -> None:
        """The rest, or what came behind it, cannot be read; it is the last on its connection."""
        self.keep_alive = False
        if self.failure is None:
            self.failure = failure
            self._wake()

    def leave(self) -> None:
        """The client has left."""
        self._wake()
        if self._on_leave is not None:
            self._on_leave(ClientClosed(_CLIENT_LEFT))

    def cut(self, failure: RequestFailure) -> None:
        """Nobody waits any longer for the rest of the request, nor for what is done about it."""
        if not self.is_complete:
            self.fail(failure)
        if self._on_leave is not None:
            self._on_leave(failure)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # The response.

    def on_disconnect(self, call: Callable[[RequestFailure], None] | None) -> None:
        """Call back when the client leaves, also where it has left already, or when this server
        ends; None ends the watch."""
        self._on_leave = call
        if call is None:
            return
        if self._connection.is_lost:
            call(ClientClosed(_CLIENT_LEFT))
        else:
            # A large body leaves reading paused, and with it the sight of the client's end.
            self._connection.resume_reading()

    def start(self, status: int, headers: Headers) -> None:
        """Begin the response; its head goes out together with what is written next."""
        self.started = True
        if not self.is_padded:
            self._begin(status, headers)

    def pad(self, headers: Headers) -> None:
        """Begin a JSON response before it is known, with the status 200; later, write a blank."""
        if not self.is_padded:
            self.is_padded = True
            self._begin(_OK, headers)
        self.write(b" ")

    def _begin(self, status: int, headers: Headers) -> None:
        request = self.request
        if self.waits_for_continue:  # whether its body still comes is not known
            self.waits_for_continue = False
            self.keep_alive = self.keep_alive and self.is_complete
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status]
        lines += map(b": ".join, headers)
        self._has_body = status not in _WITHOUT_BODY and request.method != "HEAD"
        is_framed = status != _SWITCHING_PROTOCOLS  # else what follows is not HTTP
        # any() of a generator would cost twice as much as this dict.
        if is_framed and self._has_body and b"content-length" not in dict(headers):
            if request.version == "1.1":
                self._chunked = True
                lines.append(b"transfer-encoding: chunked")
            else:  # HTTP/1.0 has no chunks: there the connection's end ends the body
                self.keep_alive = False
        if is_framed and not self.keep_alive:
            lines.append(b"connection: close")
        elif request.version != "1.1":
            lines.append(b"connection: keep-alive")
        lines.append(self.added + b"\r\n")
        self._head = b"\r\n".join(lines)

    @property
    def write_chunk(self) -> Callable[[bytes], None] | None:
        """Sends a chunk with its framing as it is, uncounted by `sent_bytes`; None where the
        response has no chunks."""
        return self._connection.transport.write if self._chunked else None

    def write(self, data: bytes) -> None:
        """Send bytes of the body now."""
        self.sent_bytes += len(data)
        if self._chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data, self._head = self._head + data, b""
        if data and not self._connection.is_lost:
            self._connection.transport.write(data)

    def end(self, data: bytes) -> None:
        """Send the last bytes of the body; the connection may serve its next request.

        Where no body follows the head, none is sent: a refusal is the same for all methods.
        """
        if not self._has_body:
            data = b""
        self.sent_bytes += len(data)
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        if not self._connection.is_lost:
            self._connection.transport.write(self._head + data)
            self.is_over = True
            self._body = b""

    def abort(self) -> None:
        """Close the connection without what is still unsent."""
        self._connection.transport.abort()

    # Back-pressure.

    def on_backpressure(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """Call `pause` each time the client reads slower than it is written to, `resume` when it
        has caught up."""
        self._pause, self._resume = pause, resume
        if self._connection.is_write_paused:
            self.pause_writing()

    @property
    def is_behind(self) -> bool:
        """The client has not read what there was."""
        return self._behind_since is not None

    async def drain(self) -> None:
        """Wait until what is written already has mostly been read, or the client has left."""
        await self._connection.drain()
        self._end_stall()

    def settle(self, bytes_in_chunks: int = 0) -> None:
        """Nothing more will be written until the end; so much went out by `write_chunk`."""
        self._pause = self._resume = None
        self.sent_bytes += bytes_in_chunks
        self._end_stall()

    def pause_writing(self) -> None:
        if self._pause is not None:
            if self._behind_since is None:
                self._behind_since = monotonic()
            self._pause()

    def resume_writing(self) -> None:
        if self._resume is not None:
            self._end_stall()
            self._resume()

    def _end_stall(self) -> None:
        if self._behind_since is not None:
            self.stall_seconds += monotonic() - self._behind_since
            self._behind_since = None


def _too_large(limit_bytes: float) -> BodyTooLarge:
    limit_mb = limit_bytes / 1024 / 1024
    return BodyTooLarge(
        f"The request body is larger than {limit_mb:g} MiB. Send less, or raise MAX_BODY_MB."
    )
