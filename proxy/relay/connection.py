"""One HTTP/1.1 connection to the engine, with one exchange at a time.

This is the hot path. It speaks through `asyncio.Protocol` and httptools (the parser that
vLLM's own server uses), because a general client costs several times as much; the tokens of a
stream take a fast path (docs/performance.md has the figures).

The engine is asked not to compress. Where something in between does all the same, JSON and events
are decompressed here: else their tokens were unknown, and no event could be withheld.
"""

from __future__ import annotations

import asyncio
import select
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Protocol, cast

import httptools

from proxy.errors import EngineDied, InvalidEngineResponse, RequestFailure
from proxy.relay.fast_path import FastPath
from proxy.relay.spare import Spare
from proxy.server.request import Header, Headers

Parts = Sequence[bytes | bytearray | memoryview]
# Takes body bytes and when they came (monotonic seconds).
Sink = Callable[[bytes, float], None]

# The engine closes a connection that was idle for 5 s (vLLM's default). A request sent
# at that moment would be lost, so a connection is not used again after a part of it.
MAX_IDLE_SECONDS = 2.0
_FIRST_STATUS, _LAST_STATUS = 100, 599
# Interim answers count too; so does what comes behind the body without an end.
MAX_HEAD_BYTES = 256 * 1024
_READ = (b"application/json", b"text/event-stream")
_UNPACKED = (b"gzip", b"x-gzip", b"deflate")
# What one read of the socket may become: text is never compressed to a hundredth.
_MOST_UNPACKED_BYTES = 32 * 1024 * 1024
_NO_HTTP = "The engine answered with something that is not HTTP."
_ANY_HEADER_OF_ZLIB = 32 + zlib.MAX_WBITS


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
        self.closed = False
        self.response = Response()
        self._request_sent = True
        self.is_new = True
        self.idle_since = 0.0
        self._begin("GET")
        self.response.is_whole = True  # no request yet: what comes now answers nothing

    def _begin(self, method: str) -> None:
        """Forget the exchange before."""
        self.response.begin(method)
        self._is_long = False
        self._sink: Sink | None = None
        self._fast_path: FastPath | None = None
        self.paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self.first_byte: float | None = None
        self._last_byte: float | None = None
        self._last_write = 0.0

    # The exchange, as its one user sees it.

    def send(
        self,
        method: str,
        target: bytes,
        headers: Iterable[Header],
        body: Parts,
        *,
        upgrades: bool = False,
    ) -> None:
        """Begin a request; `body` is what of it is there already. One that `upgrades` may be
        answered by 101: what the engine sends from then on is the answer's body."""
        self._begin(method)
        self.response.may_upgrade = upgrades
        self._request_sent = False
        first = b"%b %b HTTP/1.1" % (method.encode(), target)
        head = b"\r\n".join([first, *map(b": ".join, headers), b"", b""])
        self._write((head, *body))

    async def send_body(self, parts: Parts) -> None:
        """Write more of the body; waits while the engine does not read."""
        self._is_long = True
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
        cost more than everything that is done for it. What takes the fast path it does not get.

        Raises:
            EngineDied: the connection closed before the declared end.
            Exception: what `sink` raised.
        """
        self._sink = sink
        try:
            if not self.response.is_whole:
                self._deliver(sink, self._last_byte or monotonic())
                if fast_path is not None and not self.closed:
                    self._fast_path = fast_path
                    fast_path.attach(self, lambda: self.response.between_chunks)
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

    @property
    def silent_since(self) -> float | None:
        """Since when it has been the engine's turn (monotonic seconds); None while it is that of
        the client, which does not read, or has not sent all of its body."""
        is_asked = self._request_sent or self.response.may_upgrade
        if self.paused or (self._writable.is_set() and not is_asked):
            return None
        return max(self.last_byte or 0.0, self._last_write)

    def pause(self) -> None:
        """Read no more of the answer for now; the engine's writes will stall."""
        if not self.paused and not self.closed:
            self.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            if not self.closed:
                self._transport.resume_reading()

    def abort(self, failure: RequestFailure) -> None:
        """End the exchange at once: the engine sees the connection close and stops its work."""
        if not self.response.is_whole:
            self._fail(failure)

    def release(self) -> None:
        """Give the connection back after the exchange, or close it where it cannot be kept."""
        is_whole = self.response.is_whole and self.response.keeps_alive
        # An engine may answer before it has all of the request. What it has not read of a long one
        # may be in the kernel; it mostly closes then, a moment later.
        is_sent = self._request_sent and not self._transport.get_write_buffer_size()
        is_refused = self._is_long and self.response.status >= 400
        if is_whole and is_sent and not is_refused and not self.closed:
            self.idle_since = monotonic()
            self.is_new = False
            self._pool.put(self)
        else:
            self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._transport.abort()

    @property
    def usable(self) -> bool:
        """After an exchange: whether there may be another."""
        return not self.closed and monotonic() - self.idle_since < MAX_IDLE_SECONDS

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
        self._last_write = monotonic()

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
            if not (self.closed or self.response.is_whole):
                self.data_received(data)
        self.closed = True
        self._pool.forget(self)
        self._writable.set()
        if exc is None and self._failure is None:
            self.response.end()
        if not self.response.is_whole:
            self._fail(EngineDied("The engine closed the connection before its answer was whole."))
        self._wake()

    def pause_writing(self) -> None:
        self._is_long = True
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()


class Response:
    """The response to the latest request; the parser behind it stays the same for all."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.begin("GET")

    def begin(self, method: str) -> None:
        """Forget the response before: the next is one to a request of `method`."""
        self._method = method
        self._chunks: list[bytes] = []
        self._fruitless_bytes = 0
        self._fault = ""
        self._is_framed = False
        self._unpacker: Unpacker | None = None
        self.status = 0
        self.headers: Headers = []
        self.named: dict[bytes, bytes] = {}
        """The first value of each header, once the head is whole."""
        self.has_head = False
        self.is_whole = False
        self.keeps_alive = True
        """The connection may serve another request after it."""
        self.between_chunks = False
        """All that has come is whole chunks; without chunks never."""
        self.may_upgrade = False
        self.is_upgraded = False
        """The engine speaks another protocol from now on: the body ends with the connection."""

    def feed(self, data: bytes) -> None:
        """Read on.

        Raises:
            InvalidEngineResponse: this is not HTTP. What came before it can still be taken.
        """
        if self.is_upgraded:
            self._chunks.append(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self._upgrade(data[stopped.args[0] :])
        except httptools.HttpParserError:
            self._fault = self._fault or _NO_HTTP
        if self._fault:
            raise InvalidEngineResponse(self._fault)
        # Behind a chunk's last line end there may be the beginning of the next one's size.
        self.between_chunks = self.between_chunks and data.endswith(b"\n")
        self._fruitless_bytes += len(data)
        if self._chunks or self.is_whole:
            self._fruitless_bytes = 0
        elif self._fruitless_bytes > MAX_HEAD_BYTES:  # the parser keeps a header until it is whole
            self._fault = "The engine's answer has a head or trailers without an end."
            raise InvalidEngineResponse(self._fault)

    def _upgrade(self, rest: bytes) -> None:
        if not self.is_upgraded:
            self._fault = self._fault or _NO_HTTP
        elif rest:
            self._chunks.append(rest)

    def end(self) -> None:
        """The connection has ended: so has a body without a length and without chunks."""
        is_unpacked = self._unpacker is None or self._unpacker.is_whole
        if self.has_head and not self._is_framed and is_unpacked:
            self.is_whole = True

    @property
    def has_more(self) -> bool:
        """Something of the body waits to be taken."""
        return bool(self._chunks)

    def take(self) -> bytes:
        """What has come of the body since it was taken last."""
        chunks = self._chunks
        taken = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        return taken

    # httptools

    def on_message_begin(self) -> None:
        if self.is_whole:
            self.keeps_alive = False  # an answer to nothing that was asked

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # else it is a trailer, or answers nothing
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.is_whole or self._fault:
            return
        self.status = self._parser.get_status_code()
        if not _FIRST_STATUS <= self.status <= _LAST_STATUS:
            self._fault = f"The engine answered with the status {self.status}."
            return
        if self.status < 200:
            is_taken = self.status == 101 and self._parser.should_upgrade()
            self.is_upgraded = self.has_head = self.may_upgrade and is_taken
            return
        self.named = dict(reversed(self.headers))
        if b"transfer-encoding" in self.named:
            # No coding but chunks: the header would be lost, and the bytes mean nothing.
            codings = [value for name, value in self.headers if name == b"transfer-encoding"]
            if [coding.lower() for coding in codings] != [b"chunked"]:
                self._fault = "The engine answered in a transfer coding that was not asked for."
                return
        self._is_framed = b"content-length" in self.named or b"transfer-encoding" in self.named
        if (
            b"content-encoding" in self.named
            and self.status != 206
            and self.named.get(b"content-type", b"").lower().startswith(_READ)
        ):
            every = [value for name, value in self.headers if name == b"content-encoding"]
            codings = [coding.strip() for coding in b",".join(every).lower().split(b",")]
            codings = [coding for coding in codings if coding not in (b"", b"identity")]
            if len(codings) > 1 or (codings and codings[0] not in _UNPACKED):
                self._fault = "The engine answered in a content coding that was not asked for."
                return
            if codings:
                self._unpacker = Unpacker()
                untrue = (b"content-encoding", b"content-length")
                self.headers = [header for header in self.headers if header[0] not in untrue]
                self.named = dict(reversed(self.headers))
        self.has_head = True
        self.keeps_alive = self._parser.should_keep_alive()
        if self._method == "HEAD":
            # Its headers speak of a body that does not follow; the parser cannot know.
            self.is_whole, self.keeps_alive = True, False

    def on_chunk_header(self) -> None:
        self.between_chunks = False

    def on_chunk_complete(self) -> None:
        # What is compressed takes no fast path.
        self.between_chunks = self._unpacker is None

    def on_body(self, body: bytes) -> None:
        if self.is_whole:
            return
        if self._unpacker is not None:
            try:
                body = self._unpacker.feed(body)
            except zlib.error:
                self._unpacker.is_whole = False
                self._fault = "The engine's compressed answer cannot be decompressed."
                return
        if body:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self.is_upgraded:
            return
        if self._unpacker is not None and not self._unpacker.is_whole:
            self._fault = self._fault or "The engine's compressed answer has no end."
        elif self.has_head:
            self.is_whole, self.between_chunks = True, False
        else:
            self.headers = []  # an interim answer (1xx): the final one follows


class Unpacker:
    """Decompresses a body; one that is empty is whole, too."""

    def __init__(self) -> None:
        self._zip = zlib.decompressobj(_ANY_HEADER_OF_ZLIB)
        self.is_whole = True

    def feed(self, data: bytes) -> bytes:
        """What comes out of more of it. Raises `zlib.error` where it is not compressed so, or is
        far too much."""
        unpacked = b""
        while data:
            if self._zip.eof:  # gzip may have several members
                self._zip = zlib.decompressobj(_ANY_HEADER_OF_ZLIB)
            unpacked += self._zip.decompress(data, _MOST_UNPACKED_BYTES)
            if self._zip.unconsumed_tail or len(unpacked) > _MOST_UNPACKED_BYTES:
                raise zlib.error("it unpacks to more than any text does")
            data = self._zip.unused_data
        self.is_whole = self._zip.eof
        return unpacked
