"""One HTTP/1.1 connection to the engine, with one exchange at a time.

This is the hot path. It speaks through `asyncio.Protocol` and httptools (the parser that
vLLM's own server uses), because a general client costs several times as much; the tokens of a
stream take a fast_path (docs/performance.md has the figures).
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Protocol, cast

from proxy.errors import EngineDied, InvalidEngineResponse, RequestFailure
from proxy.relay.fast_path import FastPath
from proxy.relay.headers import Header
from proxy.relay.response import Response
from proxy.relay.spare import Spare

Parts = Sequence[bytes | bytearray | memoryview]
# Takes body bytes and when they came (monotonic seconds).
Sink = Callable[[bytes, float], None]

# The engine closes a connection that was idle for 5 s (vLLM's default). A request sent
# at that moment would be lost, so a connection is not used again after a part of it.
MAX_IDLE_SECONDS = 2.0


class Pool(Protocol):
    """Where a connection goes when its exchange is over."""

    def put(self, connection: Connection) -> None: ...

    def forget(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """One connection and the exchange that runs on it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport
        self._spare: Spare | None = None
        self._unread: select.poll | None = None
        self._loop = asyncio.get_running_loop()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = False
        self.response = Response()
        self._request_sent = True
        self.is_new = True
        self.idle_since = 0.0
        self._begin("GET")
        self.response.is_whole = True  # no request yet: what comes now answers nothing

    def _begin(self, method: str) -> None:
        """Forget the exchange before."""
        self.response.begin(method)
        self._sink: Sink | None = None
        self._fast_path: FastPath | None = None
        self.paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self.first_byte: float | None = None
        self._last_byte: float | None = None

    # The exchange, as its one user sees it.

    def send(self, method: str, target: bytes, headers: Iterable[Header], body: Parts) -> None:
        """Begin a request; `body` is what of it is there already."""
        self._begin(method)
        self._request_sent = False
        first = b"%b %b HTTP/1.1" % (method.encode(), target)
        head = b"\r\n".join([first, *map(b": ".join, headers), b"", b""])
        self._write((head, *body))

    async def send_body(self, parts: Parts) -> None:
        """Write more of the body; waits while the engine does not read."""
        if self._spare is None and not self._transport.is_closing():
            with suppress(OSError):  # no descriptor is left: it goes on without this help
                self._spare = Spare(self._transport)
        self._write(parts)
        if not self._writable.is_set():
            await self._writable.wait()

    def request_sent(self) -> None:
        """The body has ended: the connection may serve another request after this one."""
        self._request_sent = True

    async def response_head(self) -> Response:
        """Wait for the final status line and headers.

        Raises:
            EngineDied: the connection closed first.
            InvalidEngineResponse: what came is not HTTP.
        """
        while not self.response.has_head:
            await self._wait()
        return self.response

    async def pass_on(self, sink: Sink, fast_path: FastPath | None = None) -> bytes:
        """Hand the body to `sink` as it comes; returns the bytes that came with its end.

        Unless the body has ended already, the sink is called at once, be it with nothing. It is
        called from within the read of the socket: a task that wakes up for each token would
        cost more than everything that is done for it. What takes the fast_path it does not get.

        Raises:
            EngineDied: the connection closed before the declared end.
            Exception: what `sink` raised.
        """
        self._sink = sink
        try:
            if not self.response.is_whole:
                self._deliver(sink, self._last_byte or monotonic())
                if fast_path is not None and not self._closed:
                    self._fast_path = fast_path
                    fast_path.attach(self)
                    self._transport.set_protocol(fast_path)
            while not self.response.is_whole:
                await self._wait()
        finally:
            self._sink = None
            if self._fast_path is not None:
                self._last_byte, self._fast_path = self.last_byte, None
                self._transport.set_protocol(self)
        return self.response.take()

    @property
    def last_byte(self) -> float | None:
        """When something of the answer came last (monotonic seconds)."""
        if self._fast_path is not None and self._fast_path.last_byte is not None:
            return max(self._fast_path.last_byte, self._last_byte or 0.0)
        return self._last_byte

    def pause(self) -> None:
        """Read no more of the answer for now; the engine's writes will stall."""
        if not self.paused and not self._closed:
            self.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            if not self._closed:
                self._transport.resume_reading()

    def abort(self, failure: RequestFailure) -> None:
        """End the exchange at once: the engine sees the connection close and stops its work."""
        if not self.response.is_whole:
            self._fail(failure)

    def release(self) -> None:
        """Give the connection back after the exchange, or close it where it cannot be kept."""
        is_whole = self.response.is_whole and self.response.keeps_alive
        # An engine may answer before it has all of the request.
        is_sent = self._request_sent and not self._transport.get_write_buffer_size()
        if is_whole and is_sent and not self._closed:
            self.idle_since = monotonic()
            self.is_new = False
            self._pool.put(self)
        else:
            self.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._transport.abort()

    @property
    def between_chunks(self) -> bool:
        return self.response.between_chunks

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def usable(self) -> bool:
        """After an exchange: whether there may be another."""
        return not self._closed and monotonic() - self.idle_since < MAX_IDLE_SECONDS

    def has_unread(self) -> bool:
        """Whether there is what the loop has not come to read: the engine's leaving, or bytes that
        belong to no answer and would pass for the next one."""
        if self._unread is None:
            self._unread = select.poll()
            self._unread.register(self._transport.get_extra_info("socket"), select.POLLIN)
        return bool(self._unread.poll(0))

    def _write(self, parts: Parts) -> None:
        if not self._transport.is_closing():  # uvloop raises where a write has failed
            self._transport.writelines(parts)

    async def _wait(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, failure: Exception) -> None:
        if self._failure is None:
            self._failure = failure
        self._wake()
        self.close()  # before more comes, or even the end

    def _deliver(self, sink: Sink, now: float) -> None:
        try:
            sink(self.response.take(), now)
        except Exception as error:  # to the request's own task, not to the event loop
            self._fail(error)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        response = self.response
        if response.is_whole:  # no request is open: what follows cannot be trusted
            self.close()
            return
        self._last_byte = now = monotonic()
        if self.first_byte is None:
            self.first_byte = now
        try:
            response.feed(data)
        except InvalidEngineResponse as failure:
            self._fail(failure)
        if self._sink is None or response.is_whole:
            self._wake()
        elif response.has_more:
            self._deliver(self._sink, now)

    def connection_lost(self, exc: Exception | None) -> None:
        for data in self._spare.rest() if self._spare is not None else ():
            if not (self._closed or self.response.is_whole):
                self.data_received(data)
        self._closed = True
        self._pool.forget(self)
        self._writable.set()
        if exc is None and self._failure is None:
            self.response.end()
        if not self.response.is_whole:
            self._fail(EngineDied("The engine closed the connection before its answer was whole."))
        self._wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
