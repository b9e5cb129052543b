"""One HTTP/1.1 connection to the engine, with one exchange at a time.

This is the hot path. It speaks through `asyncio.Protocol` and httptools (the parser that
uvicorn itself uses), because a general client costs several times as much
(docs/performance.md has the figures).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Protocol, cast

import httptools

from proxy.errors import EngineDied, EngineGarbled, RequestFailure
from proxy.relay.headers import Header, Headers, get
from proxy.relay.spare import Spare

Parts = Sequence[bytes | bytearray | memoryview]
# Takes body bytes and when they came (monotonic seconds).
Sink = Callable[[bytes, float], None]

# The engine closes a connection that was idle for 5 s (vLLM's default). A request sent
# at that moment would be lost, so a connection is not used again after a part of it.
MAX_IDLE_SECONDS = 2.0
_FIRST_STATUS, _LAST_STATUS = 100, 599
# Interim answers count too; so does what comes behind the body without an end.
MAX_HEAD_BYTES = 256 * 1024


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
        self._loop = asyncio.get_running_loop()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = False
        self._parser = httptools.HttpResponseParser(self)
        self._request_sent = True
        self.is_new = True
        self.idle_since = 0.0
        self._begin("GET")

    def _begin(self, method: str) -> None:
        """Forget the exchange before."""
        self._method = method
        self._chunks: list[bytes] = []
        self._sink: Sink | None = None
        self.paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._head_done = False
        self._fruitless_bytes = 0
        self._complete = False
        self._failure: Exception | None = None
        self._reusable = True
        self.status = 0
        self.headers: Headers = []
        self.first_byte: float | None = None
        self.last_byte: float | None = None

    # The exchange, as its one user sees it.

    def send(self, method: str, target: bytes, headers: Iterable[Header], body: Parts) -> None:
        """Begin a request; `body` is what of it is there already."""
        self._begin(method)
        self._request_sent = False
        lines = [b"%b %b HTTP/1.1\r\n" % (method.encode(), target)]
        lines += [b"%b: %b\r\n" % header for header in headers]
        lines.append(b"\r\n")
        self._write((b"".join(lines), *body))

    async def send_body(self, parts: Parts) -> None:
        """Write more of the body; waits while the engine does not read."""
        if self._spare is None and not self._transport.is_closing():
            self._spare = Spare(self._transport)
        self._write(parts)
        if not self._writable.is_set():
            await self._writable.wait()

    def request_sent(self) -> None:
        """The body has ended: the connection may serve another request after this one."""
        self._request_sent = True

    async def response_head(self) -> int:
        """Wait for the final status line and headers; returns the status.

        Raises:
            EngineDied: the connection closed first.
            EngineGarbled: what came is not HTTP.
        """
        while not self._head_done:
            await self._wait()
        return self.status

    async def pass_on(self, sink: Sink) -> bytes:
        """Hand the body to `sink` as it comes; returns the bytes that came with its end.

        Unless the body has ended already, the sink is called at once, be it with nothing. It is
        called from within the read of the socket: a task that wakes up for each token would
        cost more than everything that is done for it.

        Raises:
            EngineDied: the connection closed before the declared end.
            Exception: what `sink` raised.
        """
        self._sink = sink
        try:
            if not self._complete:
                self._deliver(sink, self.last_byte or monotonic())
            while not self._complete:
                await self._wait()
        finally:
            self._sink = None
        return self._taken()

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
        if not self._complete:
            self._fail(failure)
            self.close()

    def release(self) -> None:
        """Give the connection back after the exchange, or close it where it cannot be kept."""
        if self._complete and self._reusable and self._all_sent() and not self._closed:
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
    def usable(self) -> bool:
        return not self._closed and monotonic() - self.idle_since < MAX_IDLE_SECONDS

    def _all_sent(self) -> bool:
        """Whether nothing of the request is still to go out: an engine may answer before."""
        return self._request_sent and not self._transport.get_write_buffer_size()

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

    def _taken(self) -> bytes:
        chunks = self._chunks
        taken = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        return taken

    def _deliver(self, sink: Sink, now: float) -> None:
        try:
            sink(self._taken(), now)
        except Exception as error:  # to the request's own task, not to the event loop
            self._fail(error)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._complete:  # nobody asked for this: what follows could not be trusted
            self.close()
            return
        self.last_byte = now = monotonic()
        if self.first_byte is None:
            self.first_byte = now
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._garbled("The engine answered with something that is not HTTP.")
        if self._sink is None or self._complete:
            self._check_end(len(data))
            self._wake()
        elif self._chunks:
            self._fruitless_bytes = 0
            self._deliver(self._sink, now)
        else:
            self._check_end(len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        for data in self._spare.rest() if self._spare is not None else ():
            if not (self._closed or self._complete):
                self.data_received(data)
        self._closed = True
        self._pool.forget(self)
        self._writable.set()
        if exc is None and self._failure is None and self._head_done and self._ends_at_eof():
            self._complete = True
        if not self._complete:
            self._fail(EngineDied("The engine closed the connection before its answer was whole."))
        self._wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _check_end(self, more_bytes: int) -> None:
        """Of a head or trailers: the parser keeps a header until it is whole."""
        if not (self._complete or self._chunks):
            self._fruitless_bytes += more_bytes
            if self._fruitless_bytes > MAX_HEAD_BYTES:
                self._garbled("The engine's answer has a head or trailers without an end.")

    def _garbled(self, text: str) -> None:
        self._fail(EngineGarbled(text))
        self.close()

    def _ends_at_eof(self) -> bool:
        """Without a length and without chunks, the end of the connection ends the body."""
        return (
            get(self.headers, b"content-length") is None
            and get(self.headers, b"transfer-encoding") is None
        )

    # httptools

    def on_message_begin(self) -> None:
        if self._complete:
            self._reusable = False  # an answer to nothing that was asked

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:  # what comes later is a trailer, or nobody's
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._complete or self._closed:
            return
        self.status = self._parser.get_status_code()
        if not _FIRST_STATUS <= self.status <= _LAST_STATUS:
            self._garbled(f"The engine answered with the status {self.status}.")
            return
        if self.status < 200:
            return
        self._head_done = True
        self._reusable = self._parser.should_keep_alive()
        if self._method == "HEAD":
            # Its headers speak of a body that does not follow; the parser cannot know.
            self._complete, self._reusable = True, False

    def on_body(self, body: bytes) -> None:
        if not self._complete:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self._head_done:
            self._complete = True
        else:
            self.headers = []  # an interim answer (1xx): the final one follows
