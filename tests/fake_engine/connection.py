"""One TCP (or Unix) connection: HTTP/1.1 as uvicorn with httptools speaks it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from typing import cast

import httptools

from . import realtime, refusals
from .endings import Interruption
from .engine import Engine
from .exchange import Exchange
from .received import Received
from .wire import Flow, head, reset, standard_fields

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(asyncio.Protocol):
    """Parses requests, answers them one after the other, closes when idle."""

    transport: asyncio.Transport

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._fields: list[tuple[str, str]] = []
        self._receiving: Exchange | None = None
        self._current: Exchange | None = None
        self._last: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._session: Received | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._drop_next = ""
        self.flow = Flow()
        self.number = 0
        self.peer = ""

    # -- asyncio ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is here."""
        self.transport = cast("asyncio.Transport", transport)
        connection = transport.get_extra_info("socket")
        if connection.family != socket.AF_UNIX:
            # Each write must leave at once, or cuts would be undone by Nagle.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._engine.connections_opened += 1
        self.number = self._engine.connections_opened
        self._engine.connections.add(self)
        peer = transport.get_extra_info("peername") or ("", 0)
        self.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix:0"

    def connection_lost(self, _: Exception | None) -> None:
        """The client has left, or we have closed."""
        self._engine.connections.discard(self)
        self._stop_idle_timer()
        if self._last is not None:
            self._last.record.closed = True
        for exchange in (self._current, *self._waiting):
            if exchange is not None:
                exchange.abandon()

    def pause_writing(self) -> None:
        """More is buffered than the transport likes."""
        self.flow.pause()

    def resume_writing(self) -> None:
        """It has gone out."""
        self.flow.resume()

    def data_received(self, data: bytes) -> None:
        """Bytes of one or more requests."""
        self._stop_idle_timer()
        if self._drop_next and self._receiving is None:
            self._drop()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgrade()
        except httptools.HttpParserError:
            self._refuse()

    # -- httptools -------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._url, self._fields = b"", []

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field, as it was sent."""
        self._fields.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """The request can be taken up; its body is still to come."""
        version = self._parser.get_http_version()
        record = self._engine.journal.open(
            self.number,
            self._parser.get_method().decode(),
            self._url.decode("latin-1"),
            version,
            self._fields,
        )
        if record.target.startswith("/__fake/"):
            self._engine.journal.requests.pop()
        keep_alive = version != "1.0" and self._parser.should_keep_alive()
        exchange = Exchange(self._engine, self, record, keep_alive=keep_alive)
        self._receiving = exchange
        if self._is_websocket(exchange):
            self._session = record
            return
        self._expect(exchange)
        if self._current is None:
            self._begin(exchange)
        else:
            self._waiting.append(exchange)

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        exchange = self._receiving
        if exchange is None:
            return
        exchange.feed(data)
        if exchange.script.read_rate:
            self.transport.pause_reading()
            pause = exchange.paced_until - time.monotonic()
            asyncio.get_running_loop().call_later(pause, self._resume_reading)

    def on_message_complete(self) -> None:
        """The request is whole."""
        exchange, self._receiving = self._receiving, None
        if exchange is None:
            return
        exchange.feed_end()
        if self._current is None and not self._is_websocket(exchange):
            # The answer was out before the body was in.
            self._settle()

    # -- exchanges -------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """An answer is under way (to anything but `/__fake/*`)."""
        return self._current is not None and not self._current.path.startswith("/__fake/")

    def interrupt(self, why: Interruption) -> None:
        """The engine ends what is generated here."""
        for exchange in (self._current, *self._waiting):
            if exchange is not None:
                exchange.interrupt(why)

    def note_unsent(self) -> None:
        """Write into the record how far the reader is behind."""
        if self._last is not None:
            self._last.record.unsent_bytes = self.transport.get_write_buffer_size()

    def exchange_done(self, exchange: Exchange, *, keep: bool) -> None:
        """An answer is complete; close, go on with the next request, or wait for one."""
        self._current = None
        self._drop_next = exchange.script.drop_next
        if not keep:
            self.transport.close()
        elif self._waiting:
            self._begin(self._waiting.popleft())
        elif self._receiving is None:
            self._settle(exchange.script.keepalive_close_ms)

    def _begin(self, exchange: Exchange) -> None:
        self._current = self._last = exchange
        exchange.start()

    def _settle(self, close_ms: float | None = None) -> None:
        seconds = self._engine.options.keep_alive_seconds
        seconds = seconds if close_ms is None else close_ms / 1000
        if not self.transport.is_closing():
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(seconds, self.transport.close)

    def _stop_idle_timer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _resume_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _expect(self, exchange: Exchange) -> None:
        if exchange.header("expect").lower() != "100-continue":
            return
        if exchange.script.expect == "auto" and exchange.script.early_answer != 0:
            self.transport.write(CONTINUE)

    def _drop(self) -> None:
        if self._drop_next == "rst":
            reset(self.transport)
        self.transport.close()

    def _refuse(self) -> None:
        text = refusals.NOT_HTTP
        fields = [*standard_fields(), ("content-type", "text/plain; charset=utf-8")]
        fields += [("content-length", str(len(text))), ("connection", "close")]
        self.transport.write(head(400, fields) + text)
        self.transport.close()

    # -- WebSocket -------------------------------------------------------------------------------

    def _is_websocket(self, exchange: Exchange) -> bool:
        upgrade = exchange.header("upgrade").lower()
        return upgrade == "websocket" and exchange.path == realtime.PATH

    def _upgrade(self) -> None:
        """Hand a WebSocket over; any other upgrade is ignored, its request answered as HTTP/1.1."""
        upgrade = {name.lower(): value for name, value in self._fields}.get("upgrade", "")
        if upgrade.lower() != "websocket" or not self._url.startswith(realtime.PATH.encode()):
            return
        fields = "".join(f"{name}: {value}\r\n" for name, value in self._fields)
        request = b"GET " + self._url + b" HTTP/1.1\r\n" + fields.encode("latin-1") + b"\r\n"
        assert self._session is not None
        protocol = realtime.Realtime(self._engine, self, self._session)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        protocol.data_received(request)
