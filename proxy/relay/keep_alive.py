"""What is written while the engine is silent, so that no proxy on the way takes the connection for
dead: comments or pings into streams, blanks before a JSON answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from proxy.access.routes import Route
from proxy.relay.answer import StreamedAnswer
from proxy.relay.connection import Connection
from proxy.relay.models import ModelsResponse
from proxy.relay.translation import Translation
from proxy.server.exchange import Exchange
from proxy.server.request import Headers

_COMMENT = b": keep-alive\n\n"
# What Anthropic's own API sends; their clients know it, and skip it.
_PING = b'event: ping\ndata: {"type": "ping"}\n\n'


class KeepAlive:
    """Writes into a stream each time that nothing has come of it for so long."""

    def __init__(
        self,
        seconds: float,
        exchange: Exchange,
        out: Exchange | Translation | ModelsResponse,
        connection: Connection,
        answer: StreamedAnswer,
        route: Route,
    ) -> None:
        """`out` takes what is written to the client of `exchange`."""
        self._seconds = seconds
        self._exchange = exchange
        self._out = out
        self._connection = connection
        self._answer = answer
        self._words = _PING if route is Route.MESSAGES else _COMMENT
        self._last = monotonic()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def cancel(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        # One timer a silence, and none a token: the engine's last byte is known anyway.
        now = monotonic()
        since = max(self._connection.last_byte or 0.0, self._last)
        if since + self._seconds <= now:
            self._last = since = now
            # Between whole events only; and not to a client that has not read what there was.
            answer = self._answer
            if not (self._exchange.is_behind or answer.finished or answer.inside_event):
                self._out.write(self._words)
        left = since + self._seconds - now
        self._timer = asyncio.get_running_loop().call_later(left, self._look)


class Heartbeat:
    """Begins a JSON answer before it is known, and adds a blank to it each time: JSON may begin
    with blanks. Its status is 200 from then on, whatever comes."""

    def __init__(self, seconds: float, pad: Callable[[Headers], None], named: Headers) -> None:
        """`named` are the headers that name the request."""
        self._seconds = seconds
        self._pad = pad
        self._headers = [(b"content-type", b"application/json"), *named]
        self._timer = asyncio.get_running_loop().call_later(seconds, self._again)

    def cancel(self) -> None:
        self._timer.cancel()

    def _again(self) -> None:
        self._pad(self._headers)
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._again)
