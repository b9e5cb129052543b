"""What the engine is asked: a body that was read is held whole, another one is piped."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import IO, Protocol

from proxy.access.routes import ALIASES, Route
from proxy.errors import RequestFailure
from proxy.json_scan import in_slices
from proxy.relay.body_inspection import peek, scan, with_usage_option
from proxy.relay.connection import Connection, Parts
from proxy.relay.form import boundary_of, read_model
from proxy.relay.models import ModelsResponse
from proxy.relay.translation import Translation
from proxy.server.exchange import Exchange
from proxy.server.request import Headers
from proxy.telemetry.record import Record


class Media(Protocol):
    """Judges the media URLs of a body, and may put what they lead to in their place."""

    def is_needed(self, route: str, body: bytes | bytearray) -> bool: ...

    async def resolve(
        self, route: str, body: bytes | bytearray, record: Record
    ) -> tuple[Sequence[bytes | memoryview], Callable[[], None]] | None:
        """The body with what they lead to, in pieces, and what gives back their memory."""


@dataclass(slots=True)
class UpstreamRequest:
    """One request, as the engine gets it. `length` is in bytes, None for a body without a declared
    one (it goes in chunks).

    `give_back` releases the memory of media. Call `close` when the request is over.
    """

    route: Route
    target: bytes
    headers: Headers
    length: int | None = None
    parts: Parts = ()
    pieces: AsyncGenerator[bytes | bytearray | memoryview, None] | None = None
    adds_usage: bool = False
    body: bytes | bytearray | None = None
    """As the client sent it, where it is held whole."""
    tail_bytes: int = 0
    """From its last brace to its end, where `adds_usage`."""
    # What identifies the request, where it is held whole: with media, as the client sent it.
    fingerprinted: Parts = ()
    give_back: Callable[[], None] | None = None
    spool: IO[bytes] | None = None
    """Holds a part of `pieces`."""

    def close(self) -> None:
        """The request is over: give back what it still holds."""
        if self.give_back is not None:
            self.give_back()
        if self.spool is not None:
            self.spool.close()

    async def resolve_media(self, exchange: Exchange, media: Media, record: Record) -> None:
        """Put what the media URLs of the body lead to in their place. A client that leaves ends
        the fetching.

        Raises:
            MediaRefused, MediaUnavailable: a URL in it is not for fetching, or leads to nothing.
            ClientClosed: the client has left.
        """
        assert self.body is not None
        left: list[RequestFailure] = []

        def leave(failure: RequestFailure) -> None:
            if not left:
                until.reschedule(asyncio.get_running_loop().time())
            left.append(failure)

        try:
            async with asyncio.timeout(None) as until:
                exchange.on_disconnect(leave)
                resolved = await media.resolve(self.route, self.body, record)
        except TimeoutError:
            raise left[0] from None  # nothing else in there lets one out
        finally:
            exchange.on_disconnect(None)
        if resolved is not None:
            whole, self.give_back = resolved
            parts = self.with_option(whole)
            self.length, self.parts, self.fingerprinted = sum(map(len, parts)), (), (self.body,)
            self.pieces = _let_go(deque(parts), self.give_back)

    def with_option(self, whole: Sequence[bytes | bytearray | memoryview]) -> Parts:
        """A body in pieces, with the usage option where it is to be added."""
        if not self.adds_usage:
            return whole
        return (*whole[:-1], *with_usage_option(whole[-1], self.tail_bytes))

    def framing(self) -> Headers:
        if self.length is not None:
            return [(b"content-length", b"%d" % self.length)]
        return [(b"transfer-encoding", b"chunked")] if self.pieces is not None else []

    async def send(self, connection: Connection, record: Record) -> None:
        """Send what was not there yet when the request began.

        Runs beside the answer: an engine may answer before it has read everything.
        """
        assert self.pieces is not None
        try:
            async with aclosing(self.pieces) as pieces:
                async for piece in pieces:
                    if self.length is not None:
                        await connection.send_body((piece,))
                    else:
                        await connection.send_body((b"%x\r\n" % len(piece), piece, b"\r\n"))
            if self.give_back is None:
                record.body_read = monotonic()
            if self.length is None:
                await connection.send_body((b"0\r\n\r\n",))
        except RequestFailure as failure:
            connection.abort(failure)
        else:
            # Else the engine answered before the end, or only the engine was waited for.
            if connection.first_byte is None and self.give_back is None:
                record.sent = monotonic()
            connection.request_sent()


async def upstream_request(
    exchange: Exchange,
    out: Exchange | Translation | ModelsResponse,
    route: Route,
    limit_bytes: int,
    record: Record,
    *,
    is_routed: bool = False,
) -> UpstreamRequest:
    """Take in a JSON body whole, to inspect it; let any other flow. `out` is what takes the
    response: it may ask the engine for something else than the client has. With `is_routed` the
    request says which model it is for: a form is read until it has.

    Raises:
        BodyTooLarge, ClientClosed, MalformedRequest: see `Exchange.whole_body`.
        InvalidRequest: see `scan`, and `Translation.whole_body`.
    """
    request = exchange.request
    if isinstance(out, Translation):
        body: bytes | bytearray = await out.whole_body(limit_bytes)
        asked = UpstreamRequest(out.route, out.target, out.headers)
    else:
        if isinstance(out, ModelsResponse):
            target = out.target
        else:
            target = ALIASES.get(request.path, request.path)
            if request.query:
                target = b"%b?%b" % (target, request.query)
        asked = UpstreamRequest(route, target, request.headers)
        length = request.named.get(b"content-length", b"0")
        if length == b"0" and b"transfer-encoding" not in request.named:
            record.body_read, record.stream = record.started, False
            asked.length = request.declared_length
            return asked
        if not request.named.get(b"content-type", b"").lower().startswith(b"application/json"):
            record.audios = 1 if route is Route.AUDIO else 0
            asked.length = request.declared_length
            asked.pieces = body_pieces = exchange.body(limit_bytes)
            content_type = request.named.get(b"content-type", b"")
            if is_routed and (boundary := boundary_of(content_type)) is not None:
                name, pieces, asked.spool = await read_model(body_pieces, boundary)
                record.model, asked.pieces = name, pieces
            return asked
        body = await exchange.whole_body(limit_bytes)
    record.body_read, record.bytes_in = monotonic(), exchange.received_bytes
    route = asked.route
    seen = peek(route, body)
    if seen is None:
        seen = await in_slices(scan(route, body))
    record.model, record.stream = seen.model, seen.stream
    record.images, record.videos, record.audios = seen.images, seen.videos, seen.audios
    record.media_counted = seen.is_counted
    asked.body, asked.adds_usage, asked.tail_bytes = body, seen.lacks_usage_option, seen.tail_bytes
    asked.parts = asked.fingerprinted = asked.with_option((body,))
    asked.length = sum(map(len, asked.parts))
    return asked


async def _let_go(
    parts: deque[bytes | bytearray | memoryview], give_back: Callable[[], None]
) -> AsyncGenerator[bytes | bytearray | memoryview, None]:
    """Hold no part that the engine has read, and no memory of media when it has read all."""
    while parts:
        yield parts.popleft()
    give_back()
