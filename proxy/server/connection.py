"""A client's connection: what comes on it becomes requests, each of which is answered in turn."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from time import monotonic
from typing import cast

import httptools

from proxy.errors import HeadTooLarge, MalformedRequest, RequestFailure, RequestTimeout, draining
from proxy.server.exchange import Exchange
from proxy.server.hang_up import ask_whether_there, has_hung_up
from proxy.server.request import Header, Headers, Request, address_of

# Of a head; of trailers likewise.
MAX_HEAD_BYTES = 256 * 1024
_HTTP2 = "What came is HTTP/2. This server speaks HTTP/1.1: set the client to that."
_NO_REQUEST = "What came is not a request of HTTP/1.1."
# Requests that wait for the response before them: reading pauses at the first number. One read may
# hold thousands, each of which costs a hundred times its bytes: beyond the second they are refused.
PIPELINE_PAUSE_AT, PIPELINE_LIMIT = 8, 100
# How long a client may go on sending a body that is not wanted, before it has read its response.
_LINGER_SECONDS, _LINGER_BYTES = 10.0, 1024 * 1024
# What a client may send of a session that is not open yet: it has to wait (RFC 6455, 4.1).
_MAX_EARLY_BYTES = 16 * 1024
_KEY_OF_WEBSOCKET = re.compile(rb"[A-Za-z0-9+/]{22}==")

_log = logging.getLogger("proxy.server")


Dispatch = Callable[[Exchange], Awaitable[None]]
"""Answers a request, also one that is `unreadable`: it is logged and counted like any other."""


class ClientConnection(asyncio.Protocol):
    """Reads requests from a client, and hands them over one at a time.

    A client that closes its half of the connection has left, as for vLLM: one that still reads
    looks the same as one that is gone, and the engine's work for that one would be lost.
    """

    transport: asyncio.Transport

    def __init__(self, dispatch: Dispatch, connections: set[ClientConnection]) -> None:
        """`connections` are all that are open, or at work; this one adds itself."""
        self._dispatch = dispatch
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        # A body, as far as one read brought it: its chunks may be of one byte, and a call of ours
        # for each would hold up others.
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: Headers = []
        # What is being answered, what was read last, and what waits between the two.
        self._current: Exchange | None = None
        self._latest: Exchange | None = None
        self._pipeline: deque[Exchange] = deque()
        self._task: asyncio.Task[None] | None = None
        self._client: str | None = None
        self._port = 0
        self._began = 0.0
        self._last_read = 0.0
        self._in_head = False
        self._in_body = False
        self._session: Exchange | None = None
        # Since something came of them: a request, its head, a part of its body.
        self._bytes_since_progress = 0
        self._is_reading_paused = False
        self._writable: asyncio.Event | None = None
        self._departure: asyncio.Event | None = None
        self._is_closing = False  # once what runs is answered
        self._lingers_since: float | None = None
        self._unsent_bytes = 0
        self.is_write_paused = False
        self.is_lost = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self._client = address_of(transport.get_extra_info("peername"))
        own = transport.get_extra_info("sockname")
        self._port = own[1] if isinstance(own, tuple) else 0
        self._began = self._last_read = monotonic()
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._session is not None:
            self._feed(self._session, data)
            return
        self._bytes_since_progress += len(data)
        if self._lingers_since is not None:
            # A body has an end; what cannot be read may have none.
            is_endless = self._latest is not None and self._latest.unreadable is not None
            if is_endless and self._bytes_since_progress > _LINGER_BYTES:
                self.transport.close()
            return
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            failure = error.__context__  # what a method below has raised
            if not isinstance(failure, RequestFailure):
                is_http2 = self._parser.get_method() == b"PRI"  # RFC 9113, 3.4
                failure = MalformedRequest(_HTTP2 if is_http2 else _NO_REQUEST)
            self._refuse(failure)
        else:
            if self._pieces:
                self._take_body()
            if self._bytes_since_progress > MAX_HEAD_BYTES:
                self._refuse(_head_too_large())
                self.pause_reading()
        self._last_read = monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._pipeline.clear()
        if self._writable is not None:
            self._writable.set()
        # What refers to this connection in a circle would wait for the garbage collector.
        self._latest = self._session = None
        del self._parser
        if self._current is None:
            self._depart()
        else:
            self._current.leave()

    def pause_writing(self) -> None:
        self.is_write_paused = True
        if self._current is not None:
            self._current.pause_writing()

    def resume_writing(self) -> None:
        self.is_write_paused = False
        if self._writable is not None:
            self._writable.set()
        if self._current is not None:
            self._current.resume_writing()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._began = monotonic()
        self._bytes_since_progress = 0
        self._target, self._headers = b"", []
        self._in_head, self._in_body = True, False

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers would be taken for headers (RFC 9110, 6.5.1)
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        # One that came in one piece is smaller than that: so much is not read at once.
        if self._bytes_since_progress and len(self._head(self._headers)) > MAX_HEAD_BYTES:
            raise _head_too_large()
        self._in_head = False
        self._bytes_since_progress = 0
        parser = self._parser
        method = parser.get_method()
        if method == b"CONNECT" or len(self._pipeline) >= PIPELINE_LIMIT:
            raise ValueError("not served")
        if parser.should_upgrade():
            return  # see `_parse`
        request = self._request(method.decode())
        self._in_body = True
        expects = request.named.get(b"expect", b"").lower() == b"100-continue"
        # HTTP/1.0 has no interim answers, and no chunks: who passed them on may have seen another
        # end of them (RFC 9112, 6.1).
        is_1_1 = request.version == "1.1"
        stays = parser.should_keep_alive() and (is_1_1 or b"transfer-encoding" not in request.named)
        exchange = Exchange(
            self,
            request,
            keep_alive=stays and not self._is_closing,
            waits_for_continue=expects and is_1_1,
        )
        self._latest = exchange
        if self._current is None:
            self._begin(exchange)
        else:
            self._pipeline.append(exchange)
            if len(self._pipeline) >= PIPELINE_PAUSE_AT:
                self.pause_reading()

    def on_message_complete(self) -> None:
        if self._pieces:
            self._take_body()
        if self._in_body and self._latest is not None:
            self._in_body = False
            if not self._parser.should_keep_alive():  # trailers may say so, too
                self._latest.keep_alive = False
            self._latest.complete()

    def _take_body(self) -> None:
        self._bytes_since_progress = 0
        if self._latest is not None:
            self._latest.feed(b"".join(self._pieces))
        self._pieces.clear()

    # One exchange after the other.

    def _begin(self, exchange: Exchange) -> None:
        self._current = exchange
        self._task = self._loop.create_task(self._answer(exchange))

    async def _answer(self, exchange: Exchange) -> None:
        try:
            if self.is_write_paused:  # no further response for a client that does not read
                await self.drain()
            if not self.is_lost:
                await self._dispatch(exchange)
        except Exception:
            _log.exception("a request failed outside of its record")
        finally:
            self._current = None
            self._after(exchange)

    def _after(self, exchange: Exchange) -> None:
        """The next request's turn; none comes where this one's response is not whole."""
        if self.is_lost:
            self._depart()
            return
        self._last_read = monotonic()
        if not exchange.is_over:
            self.transport.close()
        elif not exchange.keep_alive:
            is_read = exchange.is_complete and exchange.failure is None
            if is_read or self.transport.is_closing():
                self.transport.close()
                return
            # A socket that is closed with bytes unread is reset, which undoes the response: what
            # the client still sends is read, for a while.
            self._pipeline.clear()
            self._lingers_since = monotonic()
            self._bytes_since_progress = 0
            self.transport.write_eof()
            self.resume_reading()
        elif self._pipeline:
            self._begin(self._pipeline.popleft())
            self.resume_reading()
        elif self._is_closing:
            self.transport.close()
        elif self._is_reading_paused:
            self.resume_reading()

    # What an exchange asks for.

    def pause_reading(self) -> None:
        if not (self._is_reading_paused or self.transport.is_closing()):
            self._is_reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on, so that the client is seen to leave; but no requests without an end."""
        if self._is_reading_paused and len(self._pipeline) < PIPELINE_PAUSE_AT:
            self._is_reading_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    async def drain(self) -> None:
        while self.is_write_paused and not self.is_lost:
            self._writable = asyncio.Event()
            await self._writable.wait()

    # What `Server` asks for.

    def end_if_slow(
        self, now: float, stall_seconds: float, whole_seconds: float | None, idle_seconds: float
    ) -> None:
        """Give up a client whose head is not whole after `stall_seconds`, of whose body no byte has
        come for so long, or whose body is not whole after `whole_seconds`; close a connection on
        which nothing happens for `idle_seconds`. One that waits for us is not meant, unless it has
        left meanwhile."""
        if self.is_lost:
            return
        is_idle = self._current is None and not (self._in_head or self._in_body)
        if self.transport.is_closing() or (is_idle and self._lingers_since is None):
            # The client may still read what was written, or never do.
            unsent = self.transport.get_write_buffer_size()
            if unsent != self._unsent_bytes:
                self._unsent_bytes, self._last_read = unsent, now
            elif now - self._last_read >= idle_seconds:
                self.transport.abort()
            return
        if self._lingers_since is not None:
            if now - self._lingers_since >= _LINGER_SECONDS:
                self.transport.close()
            return
        if self._is_reading_paused and has_hung_up(self.transport):
            self.transport.abort()
            return
        limit = self._exceeded_limit(now, stall_seconds, whole_seconds)
        if limit is None:
            return
        if self._in_body and self._latest is not None and self._latest.is_over:  # it is answered
            self.transport.close()
        else:
            part = "head" if self._in_head else "body"
            self._refuse(
                RequestTimeout(f"The rest of the request's {part} did not come ({limit}).")
            )

    def close_when_done(self) -> None:
        """Take no more requests. The one that runs is answered first: by a refusal where the rest
        of its body, or its media, would have to be waited for."""
        self._is_closing = True
        self._pipeline.clear()
        if self._current is not None:
            self._current.keep_alive = False
            if not self.is_lost:
                self._current.cut(draining())
        elif not self.is_lost:
            self.transport.close()

    async def departed(self) -> None:
        """Wait until the connection is closed and nothing works for it any more."""
        if self in self._connections:
            self._departure = asyncio.Event()
            await self._departure.wait()

    def cut(self) -> None:
        """End at once, with what works for it."""
        if self._task is not None:
            self._task.cancel()
        self.transport.abort()

    def _depart(self) -> None:
        self._connections.discard(self)
        if self._departure is not None:
            self._departure.set()

    def _exceeded_limit(
        self, now: float, stall_seconds: float, whole_seconds: float | None
    ) -> str | None:
        """The variable whose time is over; None: nothing is waited for, or not for that long."""
        if self._in_head:
            return "BODY_TIMEOUT" if now - self._began >= stall_seconds else None
        if not self._in_body or self._latest is None or self._session is not None:
            return None
        if self._is_reading_paused or self._latest.waits_for_continue:
            self._last_read = now
            return None
        if whole_seconds is not None and now - self._began >= whole_seconds:
            return "REQUEST_TIMEOUT"
        return "BODY_TIMEOUT" if now - self._last_read >= stall_seconds else None

    # What cannot be read.

    def _parse(self, data: bytes) -> None:
        """Feed the parser.

        It reads no body of a request that offers an upgrade. Taken is the offer of a WebSocket; not
        before what was asked earlier is answered, and not of HTTP/1.0 (RFC 9110, 7.8). Where it is
        not taken (h2c: every client in Java makes it) the request is read again, without it.
        https://github.com/Kludex/uvicorn/issues/2722
        """
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as stopped:
                rest = data[stopped.args[0] :]
            named = dict(reversed(self._headers))
            offers = named.get(b"upgrade", b"").lower() == b"websocket"
            may_upgrade = self._current is None and self._parser.get_http_version() == "1.1"
            if offers and may_upgrade:
                self._begin_session(rest)
                return
            without = (header for header in self._headers if header[0] != b"upgrade")
            data = self._head(without) + rest
            self._parser = httptools.HttpRequestParser(self)

    def _begin_session(self, early: bytes) -> None:
        """A request that is the last one: what comes behind it, of which there is `early` already,
        is for the engine, if that agrees. It may never end."""
        request = self._request(self._parser.get_method().decode())
        if (fault := _fault_of_handshake(request)) is not None:
            self._refuse(MalformedRequest(f"What came is no WebSocket handshake: {fault}."))
            return
        ask_whether_there(self.transport)
        exchange = Exchange(
            self, request, keep_alive=False, waits_for_continue=False, is_session=True
        )
        self._latest = self._session = exchange
        self._in_body = True
        self._begin(exchange)
        self._feed(exchange, early)

    def _feed(self, session: Exchange, data: bytes) -> None:
        session.feed(data)
        if not session.started:
            self._bytes_since_progress += len(data)
            if self._bytes_since_progress > _MAX_EARLY_BYTES:
                self.transport.abort()

    def _head(self, headers: Iterable[Header]) -> bytes:
        """What was read last, with these headers."""
        version = self._parser.get_http_version().encode()
        first = b"%b %b HTTP/%b\r\n" % (self._parser.get_method(), self._target, version)
        return b"%b%b\r\n" % (first, b"".join(b"%b: %b\r\n" % header for header in headers))

    def _request(self, method: str) -> Request:
        path, query = _parts(self._target)
        return Request(
            method,
            self._target,
            path,
            query,
            self._headers,
            dict(reversed(self._headers)),
            self._parser.get_http_version(),
            self._client,
            self._port,
            self._began,
        )

    def _refuse(self, failure: RequestFailure) -> None:
        if self.transport.is_closing():
            return
        latest = self._latest
        if latest is not None and not latest.is_over:
            latest.fail(failure)
            return
        if self._in_body:
            self.transport.close()  # its request has a response already
            return
        # What could not be read as a request is answered as an empty one.
        self._in_head = False
        request = Request("", b"", b"", b"", [], {}, "1.1", self._client, self._port, self._began)
        exchange = Exchange(self, request, keep_alive=False, waits_for_continue=False)
        exchange.failure, exchange.is_complete = failure, True
        self._latest = exchange
        if self._current is None:
            self._begin(exchange)
        else:
            self._pipeline.append(exchange)


def _parts(target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request's target, which may be an absolute URL (RFC 9112, 3.2).

    Raises:
        ValueError, httptools.HttpParserInvalidURLError: it is neither.
    """
    if not target.isascii():
        raise ValueError("a target has ASCII characters only")
    if target.startswith(b"/") and b"#" not in target:
        path, _, query = target.partition(b"?")
        return path, query
    url = httptools.parse_url(target)
    return url.path or b"/", url.query or b""


def _fault_of_handshake(request: Request) -> str | None:
    """Why a request that offers a WebSocket is no handshake (RFC 6455, 4.2.1)."""
    named = request.named
    if request.method != "GET":
        return f"it is a {request.method}, not a GET"
    if named.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in named:
        return "it has a body"
    if named.get(b"sec-websocket-version") != b"13":
        return "its Sec-WebSocket-Version is not 13"
    if _KEY_OF_WEBSOCKET.fullmatch(named.get(b"sec-websocket-key", b"")) is None:
        return "its Sec-WebSocket-Key is missing, or not 16 bytes in base64"
    return None


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"The request's head is larger than {MAX_HEAD_BYTES // 1024} KiB.")
