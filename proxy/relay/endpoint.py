"""A request's way to the engine and back, top to bottom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from time import monotonic

from starlette.types import Receive, Scope, Send

from proxy.edge.routes import ANTHROPIC, GENERATING, TRANSLATED, Route
from proxy.errors import ClientClosed, EngineTimeout, RequestFailure, RouteNotServed
from proxy.protocols.protocol import Protocol
from proxy.relay import headers
from proxy.relay.answer import Answer, StreamedAnswer, answer_for, server_timing
from proxy.relay.client import Client
from proxy.relay.connection import Connection
from proxy.relay.content import Content, Media, content_of
from proxy.relay.deadline import Deadline
from proxy.relay.keep_alive import Heartbeat, KeepAlive
from proxy.relay.models import ModelsClient, models_question
from proxy.relay.passage import Passage, record_of
from proxy.relay.refusal import refusal, speaks_anthropic
from proxy.relay.response import Response
from proxy.relay.translated import TranslatedClient
from proxy.relay.upstream import Upstream
from proxy.tasks import spawn
from proxy.telemetry.record import Record


@dataclass(frozen=True)
class Limits:
    """Bytes and seconds; None is no limit."""

    max_body_bytes: int
    request_timeout: float | None = None
    stream_idle_timeout: float | None = None
    stream_keep_alive: float | None = None
    json_heartbeat: float | None = None
    # Routes whose streams the engine keeps alive itself.
    kept_alive: tuple[Route, ...] = ()


class Relay:
    """Relays one request a call."""

    def __init__(
        self,
        upstream: Upstream,
        passage: Passage,
        limits: Limits,
        media: Media,
        protocols: Iterable[Protocol] = (),
    ) -> None:
        self._upstream = upstream
        self._passage = passage
        self._limits = limits
        self._media = media
        self._protocols = {path.encode(): each for each in protocols for path in each.paths}

    async def __call__(self, scope: Scope, receive: Receive, send: Send, route: Route) -> None:
        record = record_of(scope, route)
        client = self._client(scope, receive, record, route)
        work = partial(self._relay, client, record)
        tell = partial(_refuse, client, record)
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
        client = self._client(scope, receive, record, route)
        tell = partial(_refuse, client, record)
        await self._passage.refused(record, failure, tell)

    def _client(self, scope: Scope, receive: Receive, record: Record, route: Route) -> Client:
        if route in TRANSLATED:
            protocol = self._protocols[scope["raw_path"]]
            return TranslatedClient(scope, receive, record, route, protocol)
        if route is Route.MODELS and (question := models_question(scope)) is not None:
            return ModelsClient(scope, receive, record, question)
        return Client(scope, receive, record, route)

    async def _relay(self, client: Client, record: Record) -> None:
        most = self._limits.max_body_bytes
        content = await content_of(client, most, self._media, record)
        self._passage.carries(record, content.parts)
        beats = self._beats(client, record)
        if beats:  # behind blanks a compressed answer could not be read: its head is out
            client.headers = [pair for pair in client.headers if pair[0] != b"accept-encoding"]
        connection = await self._send(client, content, record)
        client.when_it_leaves(connection.abort)
        uplink = None
        if content.pieces is not None:
            uplink = spawn(content.send(connection, record), name="uplink")
        deadline = Deadline(self._limits.request_timeout, self._limits.stream_idle_timeout)
        deadline.watch(connection, record.started)
        clocks: list[Deadline | Heartbeat | KeepAlive] = [deadline]
        if beats:
            anthropic = client.route in ANTHROPIC
            named = headers.identity(record.request_id.encode(), anthropic=anthropic)
            clocks.append(Heartbeat(beats, client.beat, named))
        try:
            response = await connection.response_head()
            for heartbeat in clocks[1:]:
                heartbeat.cancel()
            record.first_byte = connection.first_byte
            if client.route is not Route.EXTRA and headers.is_of_no_route(
                response.status, response.headers
            ):
                raise _not_served(record)
            answer = answer_for(
                client.route, response.headers, record, withhold_usage=content.adds_usage
            )
            client.start(response.status, _answer_headers(response, answer, record))
            clocks += self._keep_alive(client, connection, answer)
            await _pass_on(client, connection, answer, deadline)
        finally:
            for clock in clocks:
                clock.cancel()
            client.when_it_leaves(None)
            if uplink is not None:
                uplink.cancel()
            record.last_byte = connection.last_byte
            connection.release()

    def _beats(self, client: Client, record: Record) -> float | None:
        """After how many seconds of silence a blank is written, where one may be."""
        seconds = self._limits.json_heartbeat
        if not seconds or record.stream or client.method != "POST":
            return None
        return seconds if client.route in GENERATING and client.has_body else None

    def _keep_alive(
        self, client: Client, connection: Connection, answer: Answer
    ) -> Iterator[KeepAlive]:
        seconds = self._limits.stream_keep_alive
        is_kept = client.route in self._limits.kept_alive
        if seconds and not is_kept and isinstance(answer, StreamedAnswer):
            yield KeepAlive(seconds, client, connection, answer)

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


def _not_served(record: Record) -> RequestFailure:
    """In place of the engine's answer, which says only "Not Found"."""
    return RouteNotServed(
        f"The engine has no route {record.method} {record.path[:200]}: vLLM has only those of the"
        " work that its model can do."
    )


async def _pass_on(
    client: Client, connection: Connection, answer: Answer, deadline: Deadline
) -> None:
    """The answer's body, from its first byte to its last."""

    feed, write = answer.feed, client.write

    def pass_on(chunk: bytes, now: float) -> None:
        write(feed(chunk, now))

    shortcut = None
    if isinstance(answer, StreamedAnswer) and client.write_chunk is not None:
        shortcut = answer.shortcut(client.write_chunk)
    client.keep_pace(connection.pause, connection.resume)
    try:
        last = await connection.pass_on(pass_on, shortcut)
        last = answer.feed(last, connection.last_byte or monotonic()) + answer.close()
        if client.is_behind:
            await deadline.within(client.caught_up())
    except RequestFailure as failure:
        # After `[DONE]` the answer is whole: many clients close their connection there.
        if not (isinstance(answer, StreamedAnswer) and answer.finished):
            _break_off(client, answer, failure)
            raise
        last = answer.close()
    finally:
        client.settle(shortcut.body_bytes if shortcut is not None else 0)
    client.end(last)


def _answer_headers(response: Response, answer: Answer, record: Record) -> headers.Headers:
    anthropic = record.route in ANTHROPIC
    pairs = headers.to_client(response.headers, record.request_id.encode(), anthropic=anthropic)
    if isinstance(answer, StreamedAnswer):
        # An event that is withheld would make a declared length untrue.
        return [pair for pair in pairs if pair[0] != b"content-length"]
    pairs.append((b"server-timing", server_timing(record)))
    return pairs


def _break_off(client: Client, answer: Answer, failure: RequestFailure) -> None:
    """End a stream that cannot go on so that it does not look finished."""
    if isinstance(failure, ClientClosed):
        return
    if client.is_behind and isinstance(failure, EngineTimeout):
        client.drop()  # what is unsent would be kept for as long as nobody reads it
    elif isinstance(answer, StreamedAnswer):
        client.end(answer.broken_off(failure, client.route))


async def _refuse(client: Client, record: Record, failure: RequestFailure) -> None:
    """Answer in the engine's place, unless an answer has begun or nobody is there to read it."""
    if isinstance(failure, ClientClosed):
        record.status = failure.status
    elif not client.started:
        anthropic = speaks_anthropic(client.route, record.path, client.headers)
        status, answer_headers, body = refusal(
            failure, record.request_id.encode(), anthropic=anthropic
        )
        client.start(status, answer_headers)
        client.end(body)
