"""An app behind a client's connection: it reads and answers by the calls that the relay makes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.errors import ClientClosed, EngineDied, RequestFailure
from proxy.relay.refusal import refusal
from proxy.server.asgi import run_asgi
from proxy.server.exchange import Exchange
from proxy.server.request import Headers
from proxy.tasks import spawn
from tests.fuzz.source import Source


class Reading(StrEnum):
    """How a request's body is taken."""

    WHOLE = "whole"
    PIECES = "pieces"
    BESIDE = "beside"
    """While the answer is already on its way."""
    NOT = "not"


class Answering(StrEnum):
    """What kind of answer is given."""

    PLAIN = "plain"
    STREAMED = "streamed"
    NONE = "none"
    """One that has no body, whatever its head says."""
    SENT = "sent"
    """By ASGI's `send`, as our own pages are."""


class Ending(StrEnum):
    """How an answer ends."""

    WHOLE = "whole"
    BROKEN_OFF = "broken off"
    DROPPED = "dropped"


@dataclass(frozen=True)
class Way:
    """How one request is answered."""

    reading: Reading = Reading.WHOLE
    answering: Answering = Answering.PLAIN
    ending: Ending = Ending.WHOLE
    pieces: int = 1
    limit_bytes: int = 1 << 20
    late: bool = False
    """When the client has sent everything, or has left."""

    @classmethod
    def chosen(cls, source: Source) -> Way:
        return cls(
            source.one_of([*Reading]),
            source.one_of([*Answering]),
            source.one_of([Ending.WHOLE] * 6 + [Ending.BROKEN_OFF, Ending.DROPPED]),
            source.number(4),
            source.one_of([1 << 20, 1 << 20, 1 << 20, 8]),
            source.one_of([False, False, False, True]),
        )


@dataclass
class Seen:
    """A request, as one side sees it."""

    method: str
    target: bytes
    http_version: str
    headers: Headers
    body: bytes = b""
    whole: bool = False
    """Whether the end of its body was seen."""
    answered: bytes = b""
    """What has been handed over for its answer's body."""
    ended: bool = False
    """Whether the whole answer has been handed over."""


@dataclass
class App:
    """Answers each request in the next of its ways."""

    ways: Sequence[Way]
    seen: list[Seen] = field(default_factory=list)
    engine: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it may answer those that wait."""

    async def __call__(self, exchange: Exchange) -> None:
        way = self.ways[len(self.seen) % len(self.ways)]
        request = exchange.request
        target = request.path + (request.query and b"?" + request.query)
        seen = Seen(request.method, target, request.version, [*request.headers])
        self.seen.append(seen)
        if way.answering is Answering.SENT and exchange.unreadable is None:
            await run_asgi(_page(seen), exchange, {})
        else:
            await _Passing(exchange, seen, way, self.engine).through(exchange.unreadable)


def _page(seen: Seen) -> ASGIApp:
    """An endpoint that is an ASGI app, as ours are."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = b"a page"
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        seen.answered = body
        await send({"type": "http.response.body", "body": body})
        seen.ended = True

    return app


class _Passing:
    """One request on its way, and the answer that an engine would give.

    It does what `proxy.relay.endpoint` does.
    """

    def __init__(self, client: Exchange, seen: Seen, way: Way, engine: asyncio.Event) -> None:
        self._client = client
        self._seen = seen
        self._way = way
        self._engine = engine
        self._failures: list[RequestFailure] = []
        has_body = client.request.method != "HEAD" and way.answering is not Answering.NONE
        self._pieces = [b"piece %d" % number for number in range(way.pieces * has_body)]

    async def through(self, failure: RequestFailure | None) -> None:
        try:
            if failure is not None:
                raise failure
            await self._relay()
        except ClientClosed:
            pass
        except RequestFailure as known:
            if not self._client.started:
                status, headers, self._seen.answered = refusal(known, b"id")
                self._client.start(status, headers)
                self._client.end(self._seen.answered)
                self._seen.ended = True

    async def _relay(self) -> None:
        await self._read()
        uplink = None
        self._client.on_disconnect(self._fail)
        if self._way.reading is Reading.BESIDE:
            uplink = spawn(self._pipe_beside(), name="uplink")
        try:
            if self._way.late:
                await self._engine.wait()
            await self._engines_turn()
            self._client.start(*self._head())
            await self._pass_on()
        finally:
            self._client.on_disconnect(None)
            if uplink is not None:
                uplink.cancel()

    async def _read(self) -> None:
        match self._way.reading:
            case Reading.WHOLE:
                self._seen.body = bytes(await self._client.whole_body(self._way.limit_bytes))
                self._seen.whole = True
            case Reading.PIECES:
                await self._pipe()

    async def _pipe(self) -> None:
        async for piece in self._client.body(self._way.limit_bytes):
            self._seen.body += piece
        self._seen.whole = True

    async def _pipe_beside(self) -> None:
        try:
            await self._pipe()
        except RequestFailure as failure:
            self._fail(failure)

    def _fail(self, failure: RequestFailure) -> None:
        self._failures.append(failure)
        self._engine.set()

    def _head(self) -> tuple[int, Headers]:
        length = [(b"content-length", b"%d" % sum(map(len, self._pieces)))]
        match self._way.answering:
            case Answering.PLAIN:
                return 200, length
            case Answering.NONE:
                return (304, length) if self._way.pieces else (204, [])
            case _:
                return 200, [(b"content-type", b"text/event-stream")]

    async def _pass_on(self) -> None:
        client, last = self._client, self._pieces.pop() if self._pieces else b""
        client.on_backpressure(lambda: None, lambda: None)
        try:
            for piece in self._pieces:
                self._seen.answered += piece
                client.write(piece)
                if client.is_behind:
                    await client.drain()
                await self._engines_turn()
            self._end_badly()
        except RequestFailure as failure:
            self._break_off(failure)
            raise
        finally:
            client.settle()
        self._seen.answered += last
        client.end(last)
        self._seen.ended = True

    async def _engines_turn(self) -> None:
        await asyncio.sleep(0)
        if self._failures:
            raise self._failures[0]

    def _end_badly(self) -> None:
        if self._way.ending is not Ending.WHOLE:
            raise EngineDied("broken off")

    def _break_off(self, failure: RequestFailure) -> None:
        if isinstance(failure, ClientClosed):
            return
        if self._way.ending is Ending.DROPPED:
            self._client.abort()
        elif self._way.answering is Answering.STREAMED:
            has_body = self._client.request.method != "HEAD"
            self._seen.answered += b"error" * has_body
            self._client.end(b"error")
            self._seen.ended = True
