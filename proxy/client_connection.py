"""A client's connection: uvicorn reads requests from it, an exchange writes the answer to each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import Any, cast
from urllib.parse import unquote

import httptools
from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from websockets.frames import CloseCode

from proxy.client_websocket import ClientWebSocket, has_hung_up
from proxy.errors import HeadTooLarge, MalformedRequest, RequestFailure, SlowClient
from proxy.exchange import Exchange
from proxy.relay.client import EXCHANGE, FAILURE, Pace
from proxy.relay.websocket import SESSION
from proxy.tasks import spawn

# Of a head that does not come in one piece; of trailers likewise.
MAX_HEAD_BYTES = 256 * 1024
# Requests that may wait for the answer before them: no more is read then. One read may hold
# thousands, each of which costs a hundred times its bytes: what comes after so many is refused.
_MAX_PIPELINED, _MOST_PIPELINED = 8, 100


class ClientConnection(HttpToolsProtocol):
    """Uvicorn's, with an exchange in the scope of each request.

    What is no HTTP is handed to the app as a request that has failed, so that it is
    answered, logged and counted like any other.
    """

    gone = False
    began = 0.0
    on_leave: Callable[[], None] | None = None
    pace: Pace | None = None
    _latest: Exchange | None = None
    _running: RequestResponseCycle | None = None
    _in_head = False
    _in_body = False
    _last_read = 0.0
    # Since the last of which something came: a request, its head, a part of its body.
    _fruitless_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.began, self._in_head = monotonic(), True

    def data_received(self, data: bytes) -> None:
        self._fruitless_bytes += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(MalformedRequest("What came is not a request of HTTP/1.1."))
        else:
            if self._fruitless_bytes > MAX_HEAD_BYTES:
                text = f"The request's head is larger than {MAX_HEAD_BYTES // 1024} KiB."
                self._refuse(HeadTooLarge(text))
                self.flow.pause_reading()
        if self._in_body:
            self._last_read = monotonic()
        if self.timeout_keep_alive_task is not None:
            self._wait_anew()  # for the rest of a head, or of a body whose request is answered

    def read_on(self) -> None:
        """Read, so that the client is seen to leave; but no requests without an end."""
        if len(self.pipeline) < _MAX_PIPELINED:
            self.flow.resume_reading()

    def end_if_slow(self, now: float, stall_seconds: float, whole_seconds: float | None) -> None:
        """Give up a client whose head is not whole after `stall_seconds`, of whose body no byte has
        come for so long, or whose body is not whole after `whole_seconds`. One that waits for us is
        not meant, unless it has left meanwhile."""
        if self._in_body and self.flow.read_paused and has_hung_up(self.transport):
            self.transport.abort()
        limit = self._overstepped(now, stall_seconds, whole_seconds)
        if limit is None:
            return
        is_answered = self._in_body and self._latest is not None and self._latest.is_over
        if self.scope is None or is_answered:  # nobody asks, or nobody who has no answer yet
            self.transport.close()
        else:
            part = "head" if self._in_head else "body"
            self._refuse(SlowClient(f"The rest of the request's {part} did not come ({limit})."))

    def _overstepped(
        self, now: float, stall_seconds: float, whole_seconds: float | None
    ) -> str | None:
        """The variable whose time is over."""
        if self._in_head:
            return "BODY_TIMEOUT" if now - self.began >= stall_seconds else None
        if not self._in_body:
            return None
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:
            self._last_read = now
            return None
        if whole_seconds is not None and now - self.began >= whole_seconds:
            return "REQUEST_TIMEOUT"
        return "BODY_TIMEOUT" if now - self._last_read >= stall_seconds else None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.began = monotonic()
        self._fruitless_bytes = 0
        self._in_head, self._in_body = True, False

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._fruitless_bytes = 0
        if self.parser.get_method() == b"CONNECT" or len(self.pipeline) >= _MOST_PIPELINED:
            raise ValueError("not served")
        if self.parser.should_upgrade():
            return  # see `_parse`
        super().on_headers_complete()
        if self.parser.get_http_version() != "1.1":  # it knows no interim answers
            self.cycle.waiting_for_100_continue = False
        self._in_body = True
        self._latest = Exchange(self, self.cycle)
        cast("Scope", self.scope)[EXCHANGE] = self._latest
        # Trailers would be taken for headers (RFC 9110, 6.5.1).
        self.headers = cast("Any", deque(maxlen=0))
        if self.pipeline:
            self.read_on()  # uvicorn does not

    def on_body(self, body: bytes) -> None:
        self._fruitless_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self._in_body = False
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if len(self.pipeline) >= _MAX_PIPELINED:
            self.flow.pause_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.pace is not None:
            self.pace.fell_behind()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.pace is not None:
            self.pace.caught_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        if self._running is not None and not self._running.response_complete:
            # Uvicorn tells the latest request, which may still be waiting for its turn.
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)
        if self.on_leave is not None:
            self.on_leave()

    def _wait_anew(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _parse(self, data: bytes) -> None:
        """Feed the parser.

        It reads no body of a request that offers an upgrade. Where we do not take the offer
        (h2c: every client in Java makes it) the request is read again, without the offer.
        https://github.com/Kludex/uvicorn/issues/2722
        """
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as stopped:
                rest = data[stopped.args[0] :]
            if self._takes_upgrade():
                self._unset_keepalive_if_required()
                self._hand_over(rest)
                return
            data = self._head_without_upgrade() + rest

    def _takes_upgrade(self) -> bool:
        """Not before what was asked earlier is answered, and not of HTTP/1.0 (RFC 9110, 7.8)."""
        self.scope["method"] = self.parser.get_method().decode()
        is_idle = self.cycle is None or self.cycle.response_complete
        return is_idle and self.parser.get_http_version() == "1.1" and self._should_upgrade()

    def _hand_over(self, early: bytes) -> None:
        """The connection is a WebSocket session's from now on, if this is a handshake."""
        try:
            session = _Session(self, self._head(self.headers) + early)
        except MalformedRequest as failure:
            self._refuse(failure)
            return
        raw_path, _, query = self.url.partition(b"?")
        scope = cast("Scope", self.scope)
        scope.update(type="websocket", raw_path=raw_path, query_string=query)
        scope.update({"path": unquote(raw_path.decode("latin-1")), SESSION: session})
        task = spawn(cast("Any", self.app(scope, _never, _never)), name="websocket session")
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _head_without_upgrade(self) -> bytes:
        """The head that was read last, for a new parser."""
        head = self._head(header for header in self.headers if header[0] != b"upgrade")
        self.parser = httptools.HttpRequestParser(self)
        with suppress(AttributeError):  # as uvicorn does; older versions need no leave
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return head

    def _head(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """What was read last, with these headers."""
        version = self.parser.get_http_version().encode()
        first = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
        return b"%b%b\r\n" % (first, b"".join(b"%b: %b\r\n" % header for header in headers))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._unset_keepalive_if_required()
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _refuse(self, failure: RequestFailure) -> None:
        if self.transport.is_closing():
            return
        if self._latest is not None and not self._latest.is_over:
            self._latest.spoil(failure)
        elif self._in_body:
            self.transport.close()  # its request has an answer already
        else:
            self._answer_with(failure)

    def _answer_with(self, failure: RequestFailure) -> None:
        self.on_message_begin()
        self._in_head = False
        self.cycle = self._cycle_without_body()
        self._latest = Exchange(self, self.cycle)
        scope = cast("Scope", self.scope)
        scope.update(method="", path="", raw_path=b"", query_string=b"")
        scope.update({EXCHANGE: self._latest, FAILURE: failure})
        self._start_asgi_task(self.cycle, self.app)

    def _cycle_without_body(self) -> RequestResponseCycle:
        cycle = RequestResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )
        cycle.more_body = False
        return cycle


class _Session(ClientWebSocket):
    """One that uvicorn has among its connections, so that it waits for its end."""

    def __init__(self, before: ClientConnection, head: bytes) -> None:
        limit = before.config.ws_max_size
        super().__init__(before.transport, head, max_message_bytes=limit)
        self._connections = cast("set[Any]", before.connections)
        self._connections.discard(before)
        self._connections.add(self)

    def shutdown(self) -> None:
        self.close(CloseCode.SERVICE_RESTART)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        super().connection_lost(exc)


async def _never(*_: Any) -> Any:
    """ASGI's ways are not those of a session."""
    raise AssertionError
