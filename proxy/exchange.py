"""One request and its answer on a client's connection.

ASGI hands an answer over by awaiting `send` with a dict, which for a token costs as much
as all else that is done for it. So a relayed answer is written here at once, by the rules
that uvicorn keeps: framing, keep-alive, back-pressure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from proxy.errors import RequestFailure
from proxy.relay.client import Pace
from proxy.relay.headers import Headers

_WITHOUT_BODY = (204, 304)


class Connection(Protocol):
    """The client's connection, as one exchange on it sees it."""

    gone: bool
    began: float
    """When the first byte of its latest request came (monotonic seconds)."""
    on_leave: Callable[[], None] | None
    pace: Pace | None
    """Whom to tell when the client falls behind, and when it has caught up."""

    def read_on(self) -> None: ...


class Exchange:
    """One request and its answer."""

    __slots__ = (
        *("_chunked", "_connection", "_cycle", "_flow", "_has_body", "_head", "_transport"),
        *("began", "body_bytes", "failure"),
    )

    def __init__(self, connection: Connection, cycle: RequestResponseCycle) -> None:
        self._connection = connection
        self._cycle = cycle
        self._flow = cycle.flow
        self._transport: asyncio.Transport = cycle.transport
        self._head = b""
        self._chunked = False
        self._has_body = True
        self.began = connection.began
        self.body_bytes = 0
        self.failure: RequestFailure | None = None

    def watch(self, on_leave: Callable[[], None] | None) -> None:
        """Call back once, when the client leaves; also where it has left already."""
        self._connection.on_leave = on_leave
        if on_leave is not None and self._connection.gone:
            on_leave()
        elif on_leave is not None:
            # A large body leaves reading paused, and with it the news of the client's end.
            self._connection.read_on()

    async def whole_body(self, limit_bytes: int) -> tuple[bytearray, bool]:
        """What has come of the body, and whether that is all of it.

        It is not all where the client has left, or where it is longer than `limit_bytes`.
        The bytes are uvicorn's own buffer: none is copied once more.
        """
        cycle = self._cycle
        if cycle.waiting_for_100_continue and not self._connection.gone:
            cycle.waiting_for_100_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while cycle.more_body and len(cycle.body) <= limit_bytes and not self._has_ended:
            cycle.message_event.clear()
            self._flow.resume_reading()
            await cycle.message_event.wait()
        body, cycle.body = cycle.body, bytearray()
        return body, not cycle.more_body

    def start(self, status: int, headers: Headers, lines: bytes = b"") -> None:
        """Begin the answer; its head goes out together with what is written next. `lines` are
        more headers, each with its end of line."""
        cycle = self._cycle
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        pairs = list(map(b": ".join, headers))
        self._chunked = False
        self._has_body = status not in _WITHOUT_BODY and cycle.scope["method"] != "HEAD"
        if self._has_body and not _has_length(headers):
            if cycle.scope["http_version"] == "1.1":
                self._chunked = True
                pairs.append(b"transfer-encoding: chunked")
            else:  # chunks are unknown to HTTP/1.0: there the connection's end ends the body
                cycle.keep_alive = False
        if not cycle.keep_alive:
            pairs.append(b"connection: close")
        pairs.append(lines)  # and with it the end of the line before
        self._head = b"%b%b\r\n" % (STATUS_LINE[status], b"\r\n".join(pairs))

    @property
    def write_chunk(self) -> Callable[[bytes], None] | None:
        """Sends a chunk as it is, uncounted by `body_bytes`; None where there are no chunks."""
        return self._transport.write if self._chunked else None

    def write(self, data: bytes) -> None:
        """Send bytes of the body now."""
        self.body_bytes += len(data)
        if self._chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data, self._head = self._head + data, b""
        if data and not self._connection.gone:
            self._transport.write(data)

    def end(self, data: bytes) -> None:
        """Send the last bytes of the body; the connection may serve its next request.

        Where no body follows the head, none is sent: a refusal is the same for all methods.
        """
        if not self._has_body:
            data = b""
        self.body_bytes += len(data)
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        if self._connection.gone:
            return
        self._transport.write(self._head + data)
        cycle = self._cycle
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._transport.close()
        cycle.on_response()

    def spoil(self, failure: RequestFailure) -> None:
        """What came is not HTTP: the request ends here, if it has not ended before."""
        cycle = self._cycle
        cycle.keep_alive = False
        if cycle.more_body and self.failure is None:
            self.failure = failure
            cycle.message_event.set()  # who waits for more of the body

    @property
    def is_over(self) -> bool:
        return self._cycle.response_complete

    @property
    def _has_ended(self) -> bool:
        """Whether nothing more will come of the request."""
        return self._cycle.disconnected or self.failure is not None

    def keep_pace(self, pace: Pace | None) -> None:
        """Call back each time the client falls behind, and each time it has caught up."""
        self._connection.pace = pace
        if pace is not None and self._flow.write_paused:
            pace.fell_behind()

    async def caught_up(self) -> None:
        """Wait until the client reads again, or has left."""
        await self._flow.drain()

    def abort(self) -> None:
        """Close the connection without what is still unsent."""
        self._transport.abort()


def _has_length(headers: Headers) -> bool:
    return any(name == b"content-length" for name, _ in headers)
