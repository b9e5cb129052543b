"""A request's way to the engine and back, top to bottom."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from time import monotonic

from starlette.types import Receive, Scope, Send

from proxy.edge.routes import Route
from proxy.errors import ClientClosed, EngineTimeout, RequestFailure
from proxy.relay import headers
from proxy.relay.answer import Answer, StreamedAnswer, answer_for, server_timing
from proxy.relay.client import Client
from proxy.relay.connection import Connection
from proxy.relay.content import Content, Media, content_of
from proxy.relay.deadline import Deadline
from proxy.relay.passage import Passage, record_of
from proxy.relay.refusal import error_event, refusal
from proxy.relay.upstream import Upstream
from proxy.tasks import spawn
from proxy.telemetry.record import Record


@dataclass(frozen=True)
class Limits:
    """Bytes and seconds; None is no limit."""

    max_body_bytes: int
    request_timeout: float | None = None
    stream_idle_timeout: float | None = None


class Relay:
    """Relays one request a call."""

    def __init__(self, upstream: Upstream, passage: Passage, limits: Limits, media: Media) -> None:
        self._upstream = upstream
        self._passage = passage
        self._limits = limits
        self._media = media

    async def __call__(self, scope: Scope, receive: Receive, send: Send, route: Route) -> None:
        record = record_of(scope, route)
        client = Client(scope, receive, record)
        work = partial(self._relay, client, route, record)
        tell = partial(_refuse, client, route, record)
        await self._passage.through(record, work, tell, client.when_it_leaves)

    async def refuse(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        failure: RequestFailure,
        route: Route = Route.UNKNOWN,
    ) -> None:
        """Answer a request that is not for the engine; it is logged and counted like any other."""
        record = record_of(scope, route)
        client = Client(scope, receive, record)
        tell = partial(_refuse, client, route, record)
        await self._passage.refused(record, failure, tell)

    async def _relay(self, client: Client, route: Route, record: Record) -> None:
        most = self._limits.max_body_bytes
        content = await content_of(client, route, most, self._media, record)
        self._passage.carries(record, content.parts)
        connection = await self._send(client, content, record)
        client.when_it_leaves(connection.abort)
        uplink = None
        if content.pieces is not None:
            uplink = spawn(content.send(connection, record), name="uplink")
        deadline = Deadline(self._limits.request_timeout, self._limits.stream_idle_timeout)
        deadline.watch(connection, record.started)
        try:
            await connection.response_head()
            record.first_byte = connection.first_byte
            answer = answer_for(
                route, connection.headers, record, withhold_usage=content.adds_usage
            )
            client.start(connection.status, _answer_headers(connection, answer, record))
            await _pass_on(client, connection, answer, route, deadline)
        finally:
            deadline.cancel()
            client.when_it_leaves(None)
            if uplink is not None:
                uplink.cancel()
            record.last_byte = connection.last_byte
            connection.release()

    async def _send(self, client: Client, content: Content, record: Record) -> Connection:
        before = monotonic()
        connection = await self._upstream.connection()
        if connection.is_new:
            record.connect_seconds = monotonic() - before
        request_headers = headers.to_upstream(
            client.headers,
            self._upstream.authority,
            record.request_id.encode(),
            record.span_headers,
        )
        request_headers += content.framing()
        # Before the system call: what comes after it is the engine's time.
        record.sent = monotonic()
        connection.send(client.method, client.target, request_headers, content.parts)
        if content.pieces is None:
            connection.request_sent()
        return connection


async def _pass_on(
    client: Client, connection: Connection, answer: Answer, route: Route, deadline: Deadline
) -> None:
    """The answer's body, from its first byte to its last."""

    feed, write = answer.feed, client.write

    def pass_on(chunk: bytes, now: float) -> None:
        if not write(feed(chunk, now)):
            client.fell_behind()
            connection.pause()

    client.when_it_has_caught_up(connection.resume)
    try:
        last = await connection.pass_on(pass_on)
        last = answer.feed(last, connection.last_byte or monotonic()) + answer.close()
        if client.is_behind:
            await deadline.within(client.caught_up())
    except RequestFailure as failure:
        # After `[DONE]` the answer is whole: many clients close their connection there.
        if not (isinstance(answer, StreamedAnswer) and answer.finished):
            _break_off(client, answer, failure, route)
            raise
        last = answer.close()
    finally:
        client.settle()
    client.end(last)


def _answer_headers(connection: Connection, answer: Answer, record: Record) -> headers.Headers:
    pairs = headers.to_client(connection.headers, record.request_id.encode())
    if isinstance(answer, StreamedAnswer):
        # An event that is withheld would make a declared length untrue.
        return [pair for pair in pairs if pair[0] != b"content-length"]
    pairs.append((b"server-timing", server_timing(record)))
    return pairs


def _break_off(client: Client, answer: Answer, failure: RequestFailure, route: Route) -> None:
    """End a stream that cannot go on so that it does not look finished."""
    if isinstance(failure, ClientClosed):
        return
    if client.is_behind and isinstance(failure, EngineTimeout):
        client.drop()  # what is unsent would be kept for as long as nobody reads it
    elif isinstance(answer, StreamedAnswer):
        client.end(answer.cut_off() + error_event(failure, route))


async def _refuse(client: Client, route: Route, record: Record, failure: RequestFailure) -> None:
    """Answer in the engine's place, unless an answer has begun or nobody is there to read it."""
    if isinstance(failure, ClientClosed):
        record.status = failure.status
    elif not client.started:
        status, answer_headers, body = refusal(failure, route, record.request_id.encode())
        client.start(status, answer_headers)
        client.end(body)
