"""A request's way to the engine and back, top to bottom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from time import monotonic

from proxy.access.routes import GENERATING, TRANSLATED, Route
from proxy.errors import (
    ClientClosed,
    EngineTimeout,
    EngineUnreachable,
    MethodNotAllowed,
    RequestFailure,
    RouteNotServed,
)
from proxy.protocols.protocol import Protocol
from proxy.relay import headers
from proxy.relay.answer import Answer, PlainAnswer, StreamedAnswer, answer_for, server_timing
from proxy.relay.background import BackgroundResponses
from proxy.relay.connection import Connection, Response
from proxy.relay.deadline import Deadline
from proxy.relay.keep_alive import Heartbeat, KeepAlive
from proxy.relay.lifecycle import RequestLifecycle, record_of
from proxy.relay.models import ModelsResponse, models_question
from proxy.relay.refusal import refusal
from proxy.relay.routing import Model, Models
from proxy.relay.session import SessionAnswer
from proxy.relay.translation import Translation
from proxy.relay.upstream_request import Media, UpstreamRequest, upstream_request
from proxy.server.exchange import Exchange
from proxy.tasks import spawn
from proxy.telemetry.record import Record

Out = Exchange | Translation | ModelsResponse


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
        models: Models,
        lifecycle: RequestLifecycle,
        limits: Limits,
        media: Media,
        protocols: Iterable[Protocol] = (),
        withheld: frozenset[bytes] = frozenset(),
    ) -> None:
        """`withheld` are names of headers that the engine does not get."""
        self._models = models
        self._only = models.only
        self._lifecycle = lifecycle
        self._limits = limits
        self._media = media
        self._background = BackgroundResponses()
        self._protocols = {path.encode(): each for each in protocols for path in each.paths}
        self._withheld = withheld

    async def __call__(self, exchange: Exchange, route: Route, key: str | None = None) -> None:
        """Relay a request of the API key with the label `key`."""
        record = record_of(exchange.request, route, key)
        out = self._out(exchange, route, record)
        if route is Route.MODELS and self._only is None:
            work = partial(self._list_models, exchange, out, record)
        else:
            work = partial(self._relay, exchange, out, record, route)
        refuse = partial(_refuse, exchange, out, record, route)
        await self._lifecycle.run(record, work, refuse, exchange.on_disconnect)

    async def refuse(
        self,
        exchange: Exchange,
        failure: RequestFailure,
        route: Route = Route.UNKNOWN,
        key: str | None = None,
    ) -> None:
        """Answer a request that is not for the engine; it is logged and counted like any other."""
        record = record_of(exchange.request, route, key)
        refuse = partial(_refuse, exchange, self._out(exchange, route, record), record, route)
        await self._lifecycle.reject(record, failure, refuse)

    def _out(self, exchange: Exchange, route: Route, record: Record) -> Out:
        """What takes the response: the exchange itself, unless the response is rewritten."""
        request = exchange.request
        if route in TRANSLATED:
            protocol = self._protocols[request.path]
            return Translation(exchange, route, protocol, record.request_id)
        if route is Route.MODELS and (question := models_question(request)) is not None:
            return ModelsResponse(exchange, question)
        return exchange

    async def _relay(self, exchange: Exchange, out: Out, record: Record, route: Route) -> None:
        """Take in the request, ask the engine, pass its answer on."""
        limits = self._limits
        connection = uplink = asked = deadline = padding = keep_alive = None
        try:
            asked = await upstream_request(
                exchange,
                out,
                route,
                limits.max_body_bytes,
                record,
                is_routed=self._only is None,
            )
            route = asked.route
            model = self._only or await self._lifecycle.enter(record, exchange.on_disconnect)
            body = asked.body
            if body is not None and self._media.is_needed(route, body):
                await asked.resolve_media(exchange, self._media, record)
            model.in_flight.attach_body(record, asked.fingerprinted)
            connection = await self._send(exchange, asked, record, model)
            exchange.on_disconnect(connection.abort)
            if asked.pieces is not None and not asked.upgrades:
                uplink = spawn(asked.send(connection, record), name="uplink")
            if limits.request_timeout or limits.stream_idle_timeout:
                deadline = Deadline(limits.request_timeout, limits.stream_idle_timeout)
                deadline.watch(connection, record.started)
            anthropic = headers.speaks_anthropic(route, exchange.request)
            if limits.json_heartbeat and self._may_be_padded(exchange, asked, record):
                named = headers.identity(record.request_id.encode(), anthropic=anthropic)
                padding = Heartbeat(limits.json_heartbeat, out.pad, named)

            response = await connection.response_head()
            if padding is not None:
                padding.cancel()
            record.first_byte = connection.first_byte
            if response.is_upgraded:
                if deadline is not None:
                    deadline.cancel()
                await _pass_session(exchange, asked, connection, response, record)
                return
            _check_served(response, record)
            record.status = status = response.status
            answer = answer_for(
                route,
                response.named,
                record,
                self._background,
                withhold_usage=asked.adds_usage,
            )
            answer_headers = headers.to_client(
                response.headers, record.request_id.encode(), anthropic=anthropic
            )
            if isinstance(answer, StreamedAnswer):
                # An event that is withheld would make a declared length untrue.
                answer_headers = [each for each in answer_headers if each[0] != b"content-length"]
                if limits.stream_keep_alive and route not in limits.kept_alive:
                    seconds = limits.stream_keep_alive
                    keep_alive = KeepAlive(seconds, exchange, out, connection, answer, route)
            else:
                answer_headers.append((b"server-timing", server_timing(record)))
            out.start(status, answer_headers)
            if response.is_whole:
                now = connection.last_byte or monotonic()
                out.end(answer.feed(response.take(), now) + answer.close())
            else:
                await pass_on(exchange, out, route, connection, answer, deadline)
        finally:
            for timer in (deadline, padding, keep_alive):
                if timer is not None:
                    timer.cancel()
            exchange.on_disconnect(None)
            if uplink is not None:
                uplink.cancel()
            if connection is not None:
                record.last_byte = connection.last_byte
                connection.release()
            if asked is not None:
                asked.close()
            _note_bytes(exchange, record)

    async def _list_models(self, exchange: Exchange, out: Out, record: Record) -> None:
        """The models of all engines, loaded or not: no engine is asked."""
        if record.method != "GET":
            wrong = MethodNotAllowed(f"{record.path} does not take {record.method}; it takes GET.")
            wrong.headers = ((b"allow", b"GET"),)
            raise wrong
        body = self._models.listing(record.key)
        pairs = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        anthropic = headers.speaks_anthropic(Route.MODELS, exchange.request)
        request_id = record.request_id.encode()
        record.status = 200
        out.start(200, headers.to_client(pairs, request_id, anthropic=anthropic))
        out.end(body)
        _note_bytes(exchange, record)

    def _may_be_padded(self, exchange: Exchange, asked: UpstreamRequest, record: Record) -> bool:
        """Whether blanks may be written while the engine is silent."""
        if record.stream or exchange.request.method != "POST" or asked.route not in GENERATING:
            return False
        return asked.length != 0 or asked.pieces is not None

    async def _send(
        self, exchange: Exchange, asked: UpstreamRequest, record: Record, model: Model
    ) -> Connection:
        upstream, before = model.upstream, monotonic()
        try:
            connection = await upstream.connection()
        except EngineUnreachable:
            if not model.admission.holds:
                raise
            # The engine has seen nothing: this is no retry.
            record.held_seconds += await model.admission.hold_again(
                record.key, exchange.on_disconnect
            )
            # A reload may have given the model another engine meanwhile.
            upstream, before = model.upstream, monotonic()
            connection = await upstream.connection()
        if connection.is_new:
            record.connect_seconds = monotonic() - before
        request_headers = headers.to_upstream(
            asked.headers,
            upstream.authority,
            record.request_id.encode(),
            record.span_headers,
            self._withheld,
        )
        request_headers += asked.framing()
        # Before the system call: what comes after it is the engine's time.
        record.sent = monotonic()
        connection.send(
            exchange.request.method,
            asked.target,
            request_headers,
            asked.parts,
            upgrades=asked.upgrades,
        )
        if asked.pieces is None:
            connection.request_sent()
        return connection


def _check_served(response: Response, record: Record) -> None:
    """Raises RouteNotServed: the engine's own answer is only "Not Found"."""
    is_listed = record.route is not Route.EXTRA
    if response.status == 404 and is_listed and headers.is_of_no_route(response.named):
        raise RouteNotServed(
            f"The engine has no route {record.method} {record.path[:200]}: vLLM has only"
            " those of the work that its model can do."
        )


async def _pass_session(
    exchange: Exchange,
    asked: UpstreamRequest,
    connection: Connection,
    response: Response,
    record: Record,
) -> None:
    """Both directions of a session that the engine has taken, until one side ends it.

    Only now may the engine have what the client has sent behind its handshake: one that refuses
    the upgrade would read it as requests.
    """
    uplink = spawn(asked.send(connection, record), name="uplink")
    try:
        record.status = response.status
        kept = headers.to_client(response.headers, record.request_id.encode())
        exchange.start(response.status, [*kept, *headers.UPGRADE])
        answer = SessionAnswer(record, connection.abort)
        await pass_on(exchange, exchange, asked.route, connection, answer, None)
    finally:
        uplink.cancel()


async def pass_on(
    exchange: Exchange,
    out: Out,
    route: Route,
    connection: Connection,
    answer: Answer,
    deadline: Deadline | None,
) -> None:
    """The answer's body, from its first byte to its last."""
    feed, write = answer.feed, out.write
    is_written = True

    def take(chunk: bytes, now: float) -> None:
        nonlocal is_written
        is_written = False
        write(feed(chunk, now))
        is_written = True

    fast_path = None
    if isinstance(answer, StreamedAnswer) and out.write_chunk is not None:
        fast_path = answer.fast_path(out.write_chunk)
    exchange.on_backpressure(connection.pause, connection.resume)
    try:
        last = await connection.pass_on(take, fast_path)
        last = answer.feed(last, connection.last_byte or monotonic()) + answer.close()
        if exchange.is_behind:
            drained = exchange.drain()
            await (drained if deadline is None else deadline.within(drained))
    except RequestFailure as failure:
        # After `[DONE]` the answer is whole: many clients close their connection there.
        # A protocol may have failed to translate that end.
        is_finished = not isinstance(answer, PlainAnswer) and answer.finished and is_written
        is_stuck = exchange.is_behind and isinstance(failure, EngineTimeout)
        if is_stuck:
            exchange.abort()  # else the unsent rest would be kept until the client reads
        elif not (
            isinstance(answer, PlainAnswer) or is_finished or isinstance(failure, ClientClosed)
        ):
            out.end(answer.broken_off(failure, route))  # so that it does not look finished
        if is_stuck or not is_finished:
            raise
        last = answer.close()
    finally:
        exchange.settle(fast_path.body_bytes if fast_path is not None else 0)
    out.end(last)


async def _refuse(
    exchange: Exchange,
    out: Out,
    record: Record,
    route: Route,
    failure: RequestFailure,
) -> None:
    """Answer in the engine's place, unless an answer has begun or the client has left."""
    if isinstance(failure, ClientClosed):
        if not (exchange.is_session and exchange.started):
            record.status = failure.status
    elif not exchange.started:
        route = out.route if isinstance(out, Translation) else route
        anthropic = headers.speaks_anthropic(route, exchange.request)
        status, answer_headers, body = refusal(
            failure, record.request_id.encode(), anthropic=anthropic
        )
        record.status = status
        out.start(status, answer_headers)
        out.end(body)
        _note_bytes(exchange, record)


def _note_bytes(exchange: Exchange, record: Record) -> None:
    record.bytes_in, record.bytes_out = exchange.received_bytes, exchange.sent_bytes
    record.client_stall_seconds = exchange.stall_seconds
    if exchange.is_padded:
        record.status = 200  # the status that the client got
