"""A request's body on its way to the engine: held whole where it was read, else piped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from proxy.edge.routes import Route
from proxy.errors import RequestFailure
from proxy.json_scan import in_slices
from proxy.relay.body import Peek, peek, scan, with_usage_option
from proxy.relay.client import Client
from proxy.relay.connection import Connection, Parts
from proxy.relay.headers import Headers, get
from proxy.telemetry.record import Record


class Media(Protocol):
    """Judges the media URLs of a body, and may put what they lead to in their place."""

    def concerns(self, route: str, body: bytes | bytearray) -> bool: ...

    async def settle(
        self, route: str, body: bytes | bytearray, record: Record
    ) -> Sequence[bytes | memoryview] | None: ...


@dataclass(slots=True)
class Content:
    """`length` in bytes, None for a body without a declared one (it goes in chunks)."""

    length: int | None
    parts: Parts = ()
    pieces: AsyncGenerator[bytes, None] | None = None
    adds_usage: bool = False

    def framing(self) -> Headers:
        if self.length is not None:
            return [(b"content-length", b"%d" % self.length)]
        return [(b"transfer-encoding", b"chunked")] if self.pieces is not None else []

    async def send(self, connection: Connection, record: Record) -> None:
        """Send what was not there yet when the request began.

        Runs beside the answer: an engine may answer before it has read everything.
        """
        try:
            await self._pipe(connection)
        except RequestFailure as failure:
            connection.abort(failure)
        else:
            if connection.first_byte is None:  # else the engine did not wait for the end
                record.sent = monotonic()
            connection.request_sent()

    async def _pipe(self, connection: Connection) -> None:
        assert self.pieces is not None
        async with aclosing(self.pieces) as pieces:
            async for piece in pieces:
                if self.length is not None:
                    await connection.send_body((piece,))
                else:
                    await connection.send_body((b"%x\r\n" % len(piece), piece, b"\r\n"))
        if self.length is None:
            await connection.send_body((b"0\r\n\r\n",))


async def content_of(client: Client, limit_bytes: int, media: Media, record: Record) -> Content:
    """Take in a JSON body whole, to read what it says; let any other flow.

    Raises:
        BodyTooLarge, ClientClosed, MalformedRequest: see `Client.whole_body`.
        InvalidRequest: see `scan`.
        MediaRefused, MediaUnavailable: a URL in it is not for fetching, or leads to nothing.
    """
    if not client.has_body:
        record.body_read = record.started
        return Content(length=client.declared_length)
    if not _is_json(client.headers):
        record.audios = 1 if client.route is Route.AUDIO else 0
        return Content(length=client.declared_length, pieces=client.body(limit_bytes))
    body = await client.whole_body(limit_bytes)
    route = client.route  # that of a translated request is known now
    seen = peek(route, body)
    if seen is None:
        seen = await in_slices(scan(route, body))
    _note(seen, record)
    whole: Parts = (body,)
    if media.concerns(route, body):
        whole = await _settled(client, media, route, body, record) or whole
    parts: Parts = whole
    if seen.lacks_usage_option:
        parts = (*whole[:-1], *with_usage_option(whole[-1], seen.tail_bytes))
    return Content(sum(map(len, parts)), parts, adds_usage=seen.lacks_usage_option)


async def _settled(
    client: Client, media: Media, route: Route, body: bytes | bytearray, record: Record
) -> Sequence[bytes | memoryview] | None:
    """The body with its media; a client that leaves ends the fetching."""
    left: list[RequestFailure] = []

    def leave(failure: RequestFailure) -> None:
        left.append(failure)
        until.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(None) as until:
            client.when_it_leaves(leave)
            return await media.settle(route, body, record)
    except TimeoutError:
        raise left[0] from None  # nothing else in there lets one out
    finally:
        client.when_it_leaves(None)


def _note(seen: Peek, record: Record) -> None:
    record.model, record.stream = seen.model, seen.stream
    record.images, record.videos, record.audios = seen.images, seen.videos, seen.audios
    record.media_counted = seen.is_counted


def _is_json(headers: Headers) -> bool:
    return (get(headers, b"content-type") or b"").lower().startswith(b"application/json")
